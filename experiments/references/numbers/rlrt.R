## tests/test_rlrt.py: quantiles have a Monte Carlo error of about 0.003, 0.005 and 0.02
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
library(RLRsim)
d <- droplevels(subset(sleepstudy, seq_len(180) %% 7 < 1 + as.integer(Subject) %% 6 & Days > 3))
X <- model.matrix(~ Days, d)
set.seed(1)
for (term in c("1", "Days")) {
  Z <- model.matrix(~ 0 + Subject, d) * (if (term == "Days") d$Days else 1)
  G <- diag(ncol(Z))
  say(paste(term, "RLRT"), quantile(RLRTSim(X, Z, qr(X), G, nsim = 1e6), c(.9, .95, .99)))
  say(paste(term, "LRT"), quantile(LRTSim(X, Z, q = 0, G, nsim = 1e6), c(.9, .95, .99)))
}
m <- lme4::lmer(Reaction ~ Days + (1 | Subject), d)
say("RLRT of (1 | Subject)", exactRLRT(m, nsim = 1000)$statistic)
ml <- lme4::lmer(Reaction ~ Days + (0 + Days | Subject), d, REML = FALSE)
say("LRT of (0 + Days | Subject)", exactLRT(ml, lm(Reaction ~ Days, d), nsim = 1000)$statistic)
