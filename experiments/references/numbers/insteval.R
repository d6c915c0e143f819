## tests/test_insteval.py; a minute. Where lme4 stops depends on its optimiser: 1e-5 of the SD of dept
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
InstEval <- transform(lme4::InstEval, service = as.integer(service) - 1)
m <- lme4::lmer(y ~ service + (1 | s) + (1 | d) + (1 | dept), InstEval, control = lme4::lmerControl(
  optimizer = "nloptwrap", calc.derivs = FALSE, optCtrl = list(xtol_rel = 1e-10, ftol_rel = 1e-14)))
say("loglik", logLik(m))
say("coef", lme4::fixef(m)); say("se", sqrt(diag(as.matrix(vcov(m)))))
say("sd", as.data.frame(lme4::VarCorr(m))$sdcor)
effects <- lme4::ranef(m, condVar = TRUE)
for (g in c("s", "d", "dept")) {
  V <- attr(effects[[g]], "postVar")[1, 1, ]
  k <- match(if (g == "d") c("1", "6", "7") else c("1", "2", "3"), rownames(effects[[g]]))
  say(paste(g, "mode"), effects[[g]][k, 1]); say(paste(g, "sd"), sqrt(V[k]))
}
