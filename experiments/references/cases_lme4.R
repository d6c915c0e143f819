## Recorded fits of lme4, lmerTest and pbkrtest:  Rscript cases_lme4.R FOLDER
HERE <- dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(HERE, "common.R"))
CIT <- list(
  sleepstudy = "R lme4::sleepstudy; Belenky et al. (2003) J Sleep Res 12:1-12",
  Dyestuff = "R lme4::Dyestuff; Davies & Goldsmith (1972) Statistical Methods in Research and Production, 4th ed.",
  Dyestuff2 = "R lme4::Dyestuff2; Box & Tiao (1973) Bayesian Inference in Statistical Analysis",
  Penicillin = "R lme4::Penicillin; Davies & Goldsmith (1972)",
  Pastes = "R lme4::Pastes; Davies & Goldsmith (1972)",
  cake = "R lme4::cake; Cook (1938); Cochran & Cox (1957) Experimental Designs, table 7.5",
  Machines = "R nlme::Machines; Milliken & Johnson (1992) Analysis of Messy Data vol 1 p285; Pinheiro & Bates (2000)",
  Oats = "R nlme::Oats; Yates (1935); Pinheiro & Bates (2000) App. A.15",
  ergoStool = "R nlme::ergoStool; Devore (2000) Probability and Statistics; Pinheiro & Bates (2000) App. A.9",
  Orthodont = "R nlme::Orthodont; Potthoff & Roy (1964) Biometrika 51:313-326; Pinheiro & Bates (2000)")

emm_rows <- function(fm, specs, data, ddf) {
  suppressPackageStartupMessages(library(emmeans))
  e <- emmeans(fm, specs, lmer.df = ddf, data = data)
  list(ddf = ddf, specs = specs, rows = as.data.frame(summary(e, infer = c(TRUE, TRUE))))
}

## --- sleepstudy -----------------------------------------------------------
d <- put_data("sleepstudy.csv", lme4::sleepstudy)
fl <- "Reaction ~ Days + (Days | Subject)"
nd <- data.frame(Days = c(0, 5, 12, 0, 5), Subject = c("308", "308", "308", "NEW", "NEW"))
for (R in c(TRUE, FALSE)) {
  l <- lme(Reaction ~ Days, d, random = ~ Days | Subject, method = if (R) "REML" else "ML", control = lmec)
  fm <- fit_lmer(as.formula(fl), d, R)
  ex <- list(predict = list(newdata = nd, conditional = I(unname(predict(fm, nd, allow.new.levels = TRUE))),
                            population = I(unname(predict(fm, nd, re.form = NA)))))
  if (!R) {
    ci <- confint(lme4::lmer(as.formula(fl), d, REML = FALSE, control = tight), method = "profile", oldNames = FALSE, quiet = TRUE)
    ex$confint_profile_95 <- setNames(lapply(seq_len(nrow(ci)), function(i) I(unname(ci[i, ]))), rownames(ci))
    ex$confint_note <- "profile likelihood intervals on the ML deviance, lme4 confint(method='profile'); sd/cor scale; accurate to about 1e-3 (spline interpolation)"
  }
  lmer_case(if (R) "sleepstudy_reml" else "sleepstudy_ml", "sleepstudy.csv", d, fl, R, CIT$sleepstudy, kr = R, lme_fit = l, fm = fm, extra = ex)
}
l <- lme(Reaction ~ Days, d, random = list(Subject = pdDiag(~ Days)), control = lmec)
lmer_case("sleepstudy_indep_reml", "sleepstudy.csv", d, "Reaction ~ Days + (Days || Subject)", TRUE, CIT$sleepstudy, lme_fit = l)
ll <- lme4::sleepstudy; ll$w <- ifelse(as.integer(ll$Days) %% 3 == 0, 2, ifelse(as.integer(ll$Days) %% 3 == 1, 1, 0.5))
d <- put_data("sleepstudy_w.csv", ll)
lmer_case("sleepstudy_weighted_reml", "sleepstudy_w.csv", d, fl, TRUE, paste(CIT$sleepstudy, "with made-up prior weights w"),
          weights = d$w, weights_col = "w", kr = FALSE, tmb = FALSE,
          lme_fit = lme(Reaction ~ Days, d, random = ~ Days | Subject, weights = varFixed(~ I(1 / w)), control = lmec),
          note = "prior weights: Var(e_i) = sigma^2 / w_i; KR left out because pbkrtest ignores prior weights")

## --- one-way --------------------------------------------------------------
d <- put_data("dyestuff.csv", lme4::Dyestuff)
lmer_case("dyestuff_reml", "dyestuff.csv", d, "Yield ~ 1 + (1 | Batch)", TRUE, CIT$Dyestuff,
          lme_fit = lme(Yield ~ 1, d, random = ~ 1 | Batch, control = lmec))
ci <- confint(lme4::lmer(Yield ~ 1 + (1 | Batch), d, REML = FALSE, control = tight), method = "profile", oldNames = FALSE, quiet = TRUE)
lmer_case("dyestuff_ml", "dyestuff.csv", d, "Yield ~ 1 + (1 | Batch)", FALSE, CIT$Dyestuff, kr = FALSE,
          lme_fit = lme(Yield ~ 1, d, random = ~ 1 | Batch, method = "ML", control = lmec),
          extra = list(confint_profile_95 = setNames(lapply(seq_len(nrow(ci)), function(i) I(unname(ci[i, ]))), rownames(ci)),
                       confint_note = "profile likelihood intervals on the ML deviance, lme4; sd scale; accurate to about 1e-3"))
d <- put_data("dyestuff2.csv", lme4::Dyestuff2)
for (R in c(TRUE, FALSE))
  lmer_case(if (R) "dyestuff2_singular_reml" else "dyestuff2_singular_ml", "dyestuff2.csv", d, "Yield ~ 1 + (1 | Batch)", R, CIT$Dyestuff2,
          kr = R, note = "singular: the batch variance is 0 exactly; tests for the intercept are then package-specific (compare with OLS df = n - p = 29)")

## --- crossed and nested ---------------------------------------------------
d <- put_data("penicillin.csv", lme4::Penicillin)
lmer_case("penicillin_crossed_reml", "penicillin.csv", d, "diameter ~ 1 + (1 | plate) + (1 | sample)", TRUE, CIT$Penicillin)
pa <- lme4::Pastes[, c("strength", "batch", "cask")]
d <- put_data("pastes.csv", pa)
lmer_case("pastes_nested_reml", "pastes.csv", d, "strength ~ 1 + (1 | batch/cask)", TRUE, CIT$Pastes,
          lme_fit = lme(strength ~ 1, d, random = ~ 1 | batch/cask, control = lmec))

## --- designed experiments -------------------------------------------------
ck <- lme4::cake
ck <- data.frame(replicate = ck$replicate, recipe = ck$recipe, temperature = factor(as.character(ck$temperature), levels = levels(ck$temperature)), temp = ck$temp, angle = ck$angle)
d <- put_data("cake.csv", ck)
fm <- fit_lmer(angle ~ recipe * temperature + (1 | recipe:replicate), d, TRUE)
lmer_case("cake_reml", "cake.csv", d, "angle ~ recipe * temperature + (1 | recipe:replicate)", TRUE, CIT$cake, fm = fm,
          note = "temperature is an unordered factor here (treatment contrasts)",
          extra = list(emmeans = list(emm_rows(fm, "recipe", d, "satterthwaite"), emm_rows(fm, "recipe", d, "kenward-roger"), emm_rows(fm, "temperature", d, "kenward-roger"))))
d <- put_data("machines.csv", nlme::Machines)
d$Worker <- factor(as.character(d$Worker), levels = sort(levels(d$Worker)))
lmer_case("machines_interaction_reml", "machines.csv", d, "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)", TRUE, CIT$Machines,
          lme_fit = lme(score ~ Machine, d, random = ~ 1 | Worker/Machine, control = lmec))
fm <- fit_lmer(score ~ Machine + (0 + Machine | Worker), d, TRUE)
lmer_case("machines_full_reml", "machines.csv", d, "score ~ Machine + (0 + Machine | Worker)", TRUE, CIT$Machines,
          lme_fit = lme(score ~ Machine, d, random = ~ Machine - 1 | Worker, control = lmec), fm = fm,
          extra = list(emmeans = list(emm_rows(fm, "Machine", d, "satterthwaite"), emm_rows(fm, "Machine", d, "kenward-roger"))))
o <- as.data.frame(nlme::Oats)
o <- data.frame(Block = o$Block, Variety = o$Variety, nitro = o$nitro, Nitrogen = factor(sprintf("%.1f", o$nitro)), yield = o$yield)
d <- put_data("oats.csv", o)
fm <- fit_lmer(yield ~ Variety * Nitrogen + (1 | Block/Variety), d, TRUE)
lmer_case("oats_splitplot_reml", "oats.csv", d, "yield ~ Variety * Nitrogen + (1 | Block/Variety)", TRUE, CIT$Oats, fm = fm,
          lme_fit = lme(yield ~ Variety * Nitrogen, d, random = ~ 1 | Block/Variety, control = lmec),
          note = "balanced split plot: type III F tests equal the classical strata F tests (denDF 10 and 45)",
          extra = list(emmeans = list(emm_rows(fm, "Variety", d, "kenward-roger"), emm_rows(fm, "Nitrogen", d, "satterthwaite"))))
d <- put_data("ergostool.csv", nlme::ergoStool)
for (R in c(TRUE, FALSE))
  lmer_case(if (R) "ergostool_reml" else "ergostool_ml", "ergostool.csv", d, "effort ~ Type + (1 | Subject)", R, CIT$ergoStool, kr = R,
          lme_fit = lme(effort ~ Type, d, random = ~ 1 | Subject, method = if (R) "REML" else "ML", control = lmec))

## --- Orthodont random slope -----------------------------------------------
d <- put_data("orthodont.csv", nlme::Orthodont)
for (R in c(TRUE, FALSE))
lmer_case(if (R) "orthodont_slope_reml" else "orthodont_slope_ml", "orthodont.csv", d, "distance ~ age * Sex + (age | Subject)", R, CIT$Orthodont, kr = R,
          lme_fit = lme(distance ~ age * Sex, d, random = ~ age | Subject, method = if (R) "REML" else "ML", control = lmec))
