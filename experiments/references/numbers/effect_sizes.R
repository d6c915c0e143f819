# Numbers in tests/inference/test_effect_sizes.py: partial eta squared, epsilon squared, omega squared with intervals,
# and standardised differences. effectsize 0.8.3, emmeans 1.8.4-1, lmerTest 3.1-3, lme4 1.1-31.
suppressMessages({library(lmerTest); library(emmeans); library(effectsize)})
options(digits = 12)
data(Oats, package = "nlme")
d <- data.frame(yield = Oats$yield, Block = Oats$Block, Variety = Oats$Variety, N = factor(Oats$nitro))
m <- lmer(yield ~ Variety * N + (1 | Block/Variety), d, control = lmerControl(optCtrl = list(xtol_abs = 1e-10, ftol_abs = 1e-12)))
a <- anova(m)
print(as.data.frame(a))
for (row in seq_len(nrow(a))) {
  F <- a[row, "F value"]; df <- a[row, "NumDF"]; error <- a[row, "DenDF"]
  cat(rownames(a)[row], "\n")
  print(unlist(F_to_eta2(F, df, error, ci = 0.95, alternative = "two.sided")[c("Eta2_partial", "CI_low", "CI_high")]), digits = 12)
  print(c(epsilon = F_to_epsilon2(F, df, error, ci = NULL)[[1]], omega = F_to_omega2(F, df, error, ci = NULL)[[1]]), digits = 12)
}
e <- emmeans(m, ~ N, lmer.df = "satterthwaite")
print(summary(pairs(e)), digits = 12)
s <- as.data.frame(eff_size(e, sigma = sigma(m), edf = 51))
print(sapply(s[-1], as.numeric), digits = 12)
print(VarCorr(m), comp = "Variance", digits = 12)
