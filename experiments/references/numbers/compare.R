## tests/test_compare.py
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
m1 <- lme4::lmer(Reaction ~ Days + (1 | Subject), sleepstudy)
m2 <- lme4::lmer(Reaction ~ Days + (Days || Subject), sleepstudy)
m3 <- lme4::lmer(Reaction ~ Days + (Days | Subject), sleepstudy)
a <- anova(m1, m2, m3, refit = FALSE)
for (name in names(a)) say(name, a[[name]])
o <- set("orthodont_visits.csv")
library(nlme)
visit <- as.integer(factor(o$visit, sort(unique(o$visit))))
g1 <- gls(distance ~ age * Sex, o, correlation = corAR1(form = ~ 1 | Subject))
g2 <- gls(distance ~ age * Sex, o, correlation = corSymm(form = ~ 1 | Subject), weights = varIdent(form = ~ 1 | visit))
b <- anova(g1, g2)
for (name in c("logLik", "L.Ratio", "p-value")) say(name, b[[name]])
# The conditional AIC of cAIC4, and with the second term of C whole, as test_conditional_aic says
suppressPackageStartupMessages(library(cAIC4))
as_it_is <- cAIC4:::calculateGaussianBc
whole <- gsub("eWje * e/(2 * ", "eWje * e/(", deparse(as_it_is, width.cutoff = 500), fixed = TRUE)
stopifnot(sum(whole != deparse(as_it_is, width.cutoff = 500)) == 1)
corrected <- eval(parse(text = whole), asNamespace("cAIC4"))
tight <- lme4::lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e5))
for (used in list(as_it_is, corrected)) {
  assignInNamespace("calculateGaussianBc", used, "cAIC4")
  for (reml in c(TRUE, FALSE)) {
    m <- lme4::lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = reml, control = tight)
    say(paste("conditional, REML", reml), unlist(cAIC(m)[c("loglikelihood", "df", "caic")]))
  }
}
