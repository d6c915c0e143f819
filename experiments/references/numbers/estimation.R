## tests/test_estimation.py: a data set on which optimisers stop at a saddle point
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
d <- set("saddlepointdata.csv")
for (name in c("sub", "seq", "per", "trt")) d[[name]] <- factor(d[[name]])
m <- lme4::lmer(log(AUCT) ~ trt + seq + per + (0 + trt | sub), d, control = lme4::lmerControl(
  optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(maxfun = 1e5, rhoend = 1e-9)))
say("loglik", as.numeric(logLik(m)))
