## tests/test_sandwich.py
source(file.path(dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))), "common.R"))
suppressPackageStartupMessages({ library(clubSandwich); library(nlme) })
robust <- function(label, m, kinds, last) for (type in kinds) {
  V <- vcovCR(m, type = type)
  k <- length(diag(V)); keep <- seq.int(k - last + 1, k)
  say(paste(label, type, "se"), sqrt(diag(V))[keep])
  tests <- coef_test(m, V, test = "Satterthwaite")
  say(paste(label, type, "df"), (if ("df_Satt" %in% names(tests)) tests$df_Satt else tests$df)[keep])
  w <- Wald_test(m, constrain_zero(2:k), V, test = "HTZ")
  say(paste(label, type, "HTZ"), w$Fstat, w$df_denom)
}
late <- sleepstudy$Subject %in% c("308", "309", "310") & sleepstudy$Days > 4
d <- sleepstudy[(seq_len(180) - 1) %% 7 != 3 & !late, ]
m <- lme4::lmer(Reaction ~ Days + I(Days^2) + (Days | Subject), d, control = lme4::lmerControl(
  optimizer = "nloptwrap", optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e4)))
robust("sleepstudy", m, c("CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3"), 3)
o <- set("orthodont.csv")[-c(3, 10, 11, 60, 77), ]
g <- gls(distance ~ age * Sex, o, corAR1(form = ~ I((age - 8) / 2) | Subject), weights = varPower(form = ~ age),
         control = glsControl(tolerance = 1e-12, msTol = 1e-14, maxIter = 500, msMaxIter = 2000, opt = "nlminb"))
robust("orthodont", g, c("CR0", "CR2", "CR3"), 2)
