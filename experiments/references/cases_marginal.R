## Recorded fits of mmrm and nlme:  Rscript cases_marginal.R FOLDER [orthodont | fev | ovary]
HERE <- dirname(sub("--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
for (file in c("common.R", "mmrm.R", "nlme.R")) source(file.path(HERE, file))
pick <- function(name) commandArgs(TRUE)[2] %in% c(NA, name)
citO <- "R nlme::Orthodont; Potthoff & Roy (1964) Biometrika 51:313-326; Pinheiro & Bates (2000)"
citF <- "R mmrm::fev_data (artificial FEV1 trial data, openpharma mmrm, Apache-2.0)"
citV <- "R nlme::Ovary; Pierson & Ginther (1987); Pinheiro & Bates (2000) sec. 5.3"

## --- Orthodont, marginal models: mmrm with nlme::gls as cross-check ---------
if (pick("orthodont")) {
  o <- plain(nlme::Orthodont); o$visit <- factor(as.character(o$age), levels = c("8", "10", "12", "14"))
  d <- put_data("orthodont_visits.csv", o)
  fx <- "distance ~ age * Sex"
  cors <- list(cs = corCompSymm(form = ~ 1 | Subject), ar1 = corAR1(form = ~ 1 | Subject), us = corSymm(form = ~ 1 | Subject))
  words <- list(cs = "marginal model, compound symmetry: Var = sd^2 [(1-rho) I + rho J] over the 4 visits of a Subject",
                ar1 = "marginal model, AR(1) over visits: Cov(i,j) = sd^2 rho^|i-j| (visit index 1..4)",
                us = "marginal model, unstructured 4x4 covariance over visits (a variance per visit, free correlations)")
  for (ty in names(cors)) for (R in if (ty == "us") c(TRUE, FALSE) else TRUE) {
    g <- gls(distance ~ age * Sex, d, correlation = cors[[ty]], weights = if (ty == "us") varIdent(form = ~ 1 | visit) else NULL,
             method = if (R) "REML" else "ML", control = glsc)
    mmrm_case(sprintf("orthodont_%s_%s", ty, if (R) "reml" else "ml"), d, sprintf("distance ~ age * Sex + %s(visit | Subject)", ty), ty, R, citO,
              list(words = words[[ty]], residual = ty, within = "Subject", time = "visit"), kr = R,
              dense_sigma = visit_dense("visit", "Subject"), robust = FALSE, fixed = fx,
              cross = list(nlme_gls = list(loglik = as.numeric(logLik(g)), coef = nl(coef(g)), sigma = g$sigma, se = nl(sqrt(diag(g$varBeta))))))
  }
}
## --- fev_data ---------------------------------------------------------------
if (pick("fev")) {
  d <- put_data("fev_data.csv", mmrm::fev_data)
  fx <- "FEV1 ~ RACE + SEX + ARMCD * AVISIT"
  words <- c(us = "unstructured 4x4 covariance over AVISIT within USUBJID",
    ar1 = "homogeneous AR(1): Cov(i,j) = sd^2 rho^|i-j| over visit index", ar1h = "heterogeneous AR(1): sd_i sd_j rho^|i-j|",
    cs = "homogeneous compound symmetry: sd^2 on the diagonal, sd^2 rho off it", csh = "heterogeneous compound symmetry: sd_i sd_j rho",
    toep = "homogeneous Toeplitz: sd^2 rho_|i-j| (rho_1..rho_3)", toeph = "heterogeneous Toeplitz: sd_i sd_j rho_|i-j|",
    ad = "homogeneous ante-dependence: sd^2 prod_{k=i}^{j-1} rho_k (rho_1..rho_3)", adh = "heterogeneous ante-dependence: sd_i sd_j prod_{k=i}^{j-1} rho_k")
  for (ty in names(words)) {
    full <- ty == "us"
    mmrm_case(sprintf("fev_%s_reml", ty), d, sprintf("%s + %s(AVISIT | USUBJID)", fx, ty), ty, TRUE, citF,
              list(words = paste("marginal model (no random effects), residual covariance:", words[[ty]], "; rows with missing FEV1 dropped"), residual = ty, within = "USUBJID", time = "AVISIT"),
              kr = TRUE, emm = if (full) "~ ARMCD | AVISIT" else NULL, robust = full, fixed = fx, dense_sigma = visit_dense("AVISIT", "USUBJID"),
              cross = if (full) { dd <- d[!is.na(d$FEV1), ]; dd$v <- as.integer(dd$AVISIT)
                g <- gls(FEV1 ~ RACE + SEX + ARMCD * AVISIT, dd, correlation = corSymm(form = ~ v | USUBJID), weights = varIdent(form = ~ 1 | AVISIT), control = glsc)
                list(nlme_gls = list(loglik = as.numeric(logLik(g)), sigma = g$sigma)) } else list())
  }
  mmrm_case("fev_us_ml", d, paste(fx, "+ us(AVISIT | USUBJID)"), "us", FALSE, citF,
            list(words = paste("marginal model, residual covariance:", words[["us"]]), residual = "us", within = "USUBJID", time = "AVISIT"),
            kr = FALSE, robust = FALSE, fixed = fx, dense_sigma = visit_dense("AVISIT", "USUBJID"))
}
## --- Ovary: random effects + AR(1) residuals ---------------------------------
if (pick("ovary")) {
  o <- plain(nlme::Ovary); o <- o[order(as.integer(as.character(o$Mare)), o$Time), ]
  d <- put_data("ovary.csv", o); d$Mare <- factor(as.character(d$Mare), levels = as.character(1:11))
  d$index <- ave(d$Time, d$Mare, FUN = seq_along)
  fx <- "follicles ~ sin(2 * pi * Time) + cos(2 * pi * Time)"
  Z <- model.matrix(~ sin(2 * pi * Time), d)
  for (R in c(TRUE, FALSE)) {
    m <- if (R) "REML" else "ML"
    f0 <- lme(follicles ~ sin(2*pi*Time) + cos(2*pi*Time), d, random = list(Mare = pdDiag(~ sin(2*pi*Time))), method = m, control = lmec)
    f1 <- update(f0, correlation = corAR1())
    sd0 <- unname(sqrt(diag(as.matrix(f1$modelStruct$reStruct[[1]]) * f1$sigma^2))); rho0 <- coef(f1$modelStruct$corStruct, unconstrained = FALSE)
    vf <- function(p) { D <- diag(exp(2 * p[1:2])); function(i, ix) Z[ix, ] %*% D %*% t(Z[ix, ]) + exp(2 * p[3]) * ar1_mat(length(ix), tanhp(p[4])) }
    nlme_case(paste0("ovary_ar1_", tolower(m)), d, fx, f1, "Mare", vf, unname(c(log(sd0), log(f1$sigma), atanhp(rho0))),
              function(p) list(groups = list(list(group = "Mare", columns = I(c("(Intercept)", "sin(2 * pi * Time)")), sd = I(exp(p[1:2])), corr = diag(2), cov = diag(exp(2 * p[1:2])))),
                               sigma = exp(p[3]), rho = tanhp(p[4])),
              list(words = "independent random intercept and sine slope per Mare (diagonal), plus residuals that are AR(1) over consecutive rows of a Mare: Cov(e_i,e_j) = sigma^2 rho^|i-j|; rows are sorted by Time within Mare, equally spaced index 1,2,...",
                   residual = "ar1", within = "Mare", time = "Time", time_is = "rank within Mare"),
              citV, R, zfun = function(ix) Z[ix, ], dfun = function(p) diag(exp(2 * p[1:2])), re_cols = c("(Intercept)", "sin(2 * pi * Time)"),
              formula = paste0(fx, " + (1 + sin(2 * pi * Time) || Mare)"))
  }
}
