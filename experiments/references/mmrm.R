## Cases of mmrm
suppressWarnings(suppressPackageStartupMessages({ library(mmrm); library(emmeans) }))
source(file.path(HERE, "dense.R"))

## a list of optimiser settings is tried; among those that report convergence
## the one with the smallest gradient at its optimum is kept
fit_mmrm <- function(formula, data, reml = TRUE, weights = NULL, method = "Satterthwaite", vcov = NULL, start = NULL) {
  opts <- list(
    list("BFGS", list(reltol = 1e-16, maxit = 1000)),
    list("nlminb", list(rel.tol = 1e-12, x.tol = 1e-12, iter.max = 1000, eval.max = 2000)),
    list("L-BFGS-B", list(factr = 10, maxit = 1000)),
    list("nlminb", list(iter.max = 1000, eval.max = 2000)))
  best <- NULL; bg <- Inf
  for (o in opts) {
    args <- list(formula = formula, data = data, reml = reml,
                 control = mmrm_control(method = method, vcov = vcov, start = start,
                    optimizers = mmrm:::h_get_optimizers(optimizer = o[[1]], optimizer_control = o[[2]])))
    if (!is.null(weights)) args$weights <- weights
    f <- tryCatch(suppressWarnings(do.call(mmrm, args)), error = function(e) NULL)
    if (is.null(f)) next
    g <- max(abs(f$tmb_object$gr(f$theta_est)))
    if (g < bg) { best <- f; bg <- g }
    if (bg < 1e-7 || is.null(start)) break
  }
  if (is.null(best)) stop("no mmrm optimiser converged")
  best
}

## Newton iterations with TMB's exact gradient; then refit from there.
polish_mmrm <- function(fit) {
  ob <- fit$tmb_object; th <- as.numeric(fit$theta_est); dec <- NA
  f0 <- ob$fn(th)
  for (it in 1:8) {
    g <- as.numeric(ob$gr(th)); H <- numDeriv::jacobian(function(t) as.numeric(ob$gr(t)), th); H <- (H + t(H)) / 2
    s <- -solve(H, g); dec <- -sum(g * s) / 2
    fn <- ob$fn(th + s)
    if (!is.finite(fn) || fn > f0 + 1e-10 * abs(f0)) break
    th <- th + s; f0 <- fn
    if (abs(dec) < 1e-20) break
  }
  list(theta = th, nll = f0, decrement = dec, maxgrad = max(abs(ob$gr(th))))
}

## correlation / sd description of a covariance matrix, by structure
mmrm_theta <- function(type, S) {
  sds <- sqrt(diag(S)); C <- cov2cor(S); m <- ncol(S); dimnames(C) <- NULL
  base <- list(cov = mat(S), corr = C, visits = I(colnames(S)))
  c(switch(type,
    us = list(sd = I(unname(sds))),
    cs = list(sd = sds[[1]], rho = C[1, 2]), csh = list(sd = I(unname(sds)), rho = C[1, 2]),
    ar1 = list(sd = sds[[1]], rho = C[1, 2]), ar1h = list(sd = I(unname(sds)), rho = C[1, 2]),
    toep = list(sd = sds[[1]], rho = I(C[1, -1])), toeph = list(sd = I(unname(sds)), rho = I(C[1, -1])),
    ad = list(sd = sds[[1]], rho = I(C[cbind(1:(m - 1), 2:m)])), adh = list(sd = I(unname(sds)), rho = I(C[cbind(1:(m - 1), 2:m)])),
    list()), base)
}

mmrm_case <- function(name, data, formula, type, REML = TRUE, source, structure, weights = NULL, weights_col = NULL,
                      kr = TRUE, emm = NULL, robust = TRUE, note = NULL, dense_sigma = NULL, extra = NULL, fixed = NULL,
                      cross = list(), lme4_formula = NULL, polish = TRUE, group_col = NULL) {
  f <- as.formula(formula, env = globalenv())
  fit0 <- fit_mmrm(f, data, REML, weights)
  notes <- character()
  if (polish) {
    po <- polish_mmrm(fit0)
    st <- po$theta
    fit <- fit_mmrm(f, data, REML, weights, start = st)
    if (fit$neg_log_lik > fit0$neg_log_lik + 1e-9) fit <- fit0
    gm <- max(abs(fit$tmb_object$gr(fit$theta_est)))
    notes <- c(notes, sprintf("mmrm (TMB) optimum polished by Newton steps with AD gradient: largest |gradient| at the reported optimum %.1e; gain over first fit %.1e", gm, fit0$neg_log_lik - fit$neg_log_lik))
  } else { fit <- fit0; st <- as.numeric(fit0$theta_est) }
  ll <- as.numeric(logLik(fit)); be <- coef(fit); V <- vcov(fit)
  s <- coef(summary(fit))
  sat <- setNames(lapply(rownames(s), function(r) list(estimate = s[r, 1], se = s[r, 2], df = s[r, "df"], t = s[r, "t value"], p = s[r, "Pr(>|t|)"])), rownames(s))
  krj <- krl <- krv <- krlv <- NULL; fits <- list(Satterthwaite = fit)
  if (kr) {
    fk <- fit_mmrm(f, data, REML, weights, method = "Kenward-Roger", vcov = "Kenward-Roger", start = as.numeric(fit$theta_est))
    fl <- fit_mmrm(f, data, REML, weights, method = "Kenward-Roger", vcov = "Kenward-Roger-Linear", start = as.numeric(fit$theta_est))
    toj <- function(ft) { s <- coef(summary(ft)); setNames(lapply(rownames(s), function(r) list(se_adj = s[r, 2], df = s[r, "df"], t = s[r, "t value"], p = s[r, "Pr(>|t|)"])), rownames(s)) }
    krj <- toj(fk); krl <- toj(fl); krv <- mat(vcov(fk)); krlv <- mat(vcov(fl))
    fits[["Kenward-Roger"]] <- fk; fits[["Kenward-Roger-Linear"]] <- fl
  }
  ## type III F tests.  F and KR do not depend on the basis of the hypothesis, the
  ## Satterthwaite denDF of a multi-row test does: rows "Satterthwaite" use lmerTest's
  ## basis (identity in the term's own columns), "Satterthwaite (mmrm basis)" mmrm's own.
  an <- list(); Lc <- mmrm:::h_type3_contrasts(fit); Lc <- Lc[names(Lc) != "(Intercept)"]
  Lid <- lapply(typeIII_L(fixed, data), function(L) L[, names(be), drop = FALSE])
  for (t in names(Lid)) { r <- df_md(fit, Lid[[t]]); an[[length(an) + 1]] <- list(term = t, type = "III", ddf = "Satterthwaite",
        numDF = r$num_df, denDF = r$denom_df, F = r$f_stat, p = r$p_val, L = mat(Lid[[t]])) }
  for (k in names(fits)) {
    a <- mmrm:::Anova.mmrm(fits[[k]], type = "III")
    for (i in seq_len(nrow(a))) an[[length(an) + 1]] <- list(term = rownames(a)[i], type = "III",
        ddf = if (k == "Satterthwaite") "Satterthwaite (mmrm basis)" else k,
        numDF = a[i, "Df"], denDF = a[i, "Res.Df"], F = a[i, "F"], p = a[i, "Pr(>F)"], L = if (k == "Satterthwaite") mat(Lc[[rownames(a)[i]]]) else NULL)
  }
  em <- NULL
  if (!is.null(emm)) {
    em <- list()
    for (k in names(fits)) for (sp in emm) {
      e <- as.data.frame(summary(emmeans(fits[[k]], as.formula(sp)), infer = c(TRUE, TRUE)))
      em[[length(em) + 1]] <- list(ddf = k, specs = sp, rows = lapply(seq_len(nrow(e)), function(i) as.list(e[i, ])))
    }
  }
  rob <- NULL
  if (robust) {
    rob <- list()
    for (v in c("Empirical", "Empirical-Jackknife", "Empirical-Bias-Reduced")) {
      fr <- fit_mmrm(f, data, REML, weights, vcov = v, start = as.numeric(fit$theta_est))
      rob[[v]] <- nl(sqrt(diag(vcov(fr))))
    }
  }
  vcv <- component(fit, "varcor")
  kre <- NULL
  if (kr && type == "us" && is.null(weights) && is.null(group_col)) {
    fr0 <- component(fit, "full_frame"); vn <- structure$time; sn <- structure$within
    Ls <- lapply(Lc, function(L) { L <- as.matrix(L); colnames(L) <- names(be); L })
    k0 <- kr_us(component(fit, "y_vector"), component(fit, "x_matrix"), as.character(fr0[[vn]]), as.character(fr0[[sn]]), vcv, Ls)
    kre <- list(coef = k0$coef, vcov = mat(k0$vcov), anova = k0$anova,
                note = "computed with dense code here (validated against pbkrtest on lmer models): Kenward & Roger (1997) with the EXPECTED information for the variance parameters and a linear parametrisation, as pbkrtest does. mmrm itself uses the observed information (theta_vcov), so its KR df and se_adj differ")
  }
  th <- if (is.null(group_col)) mmrm_theta(type, vcv) else setNames(lapply(names(vcv), function(g) mmrm_theta(type, vcv[[g]])), names(vcv))
  if (type == "sp_exp") th <- NULL
  ## dense check
  X <- component(fit, "x_matrix"); y <- component(fit, "y_vector"); fr <- component(fit, "full_frame")
  if (!is.null(dense_sigma)) {
    dc <- dense_sigma(fit, fr, X, y)
    cross$dense <- list(loglik = dc$ll, loglik_diff = dc$ll - ll, fixef_maxdiff = max(abs(dc$beta - be)), se_max_reldiff = max(abs(sqrt(diag(dc$vbeta)) / sqrt(diag(V)) - 1)))
    notes <- c(notes, sprintf("dense textbook log-lik at the same covariance differs by %.1e", dc$ll - ll))
    if (!is.null(dc$theta)) th <- dc$theta
  }
  tt <- as.numeric(fit$theta_est); names(tt) <- paste0("theta", seq_along(tt))
  np <- length(tt)
  x <- list(name = name, data = attr(data, "reffile"), source = source, software = VERS("mmrm", "TMB", "emmeans"),
            formula = lme4_formula %||% fixed, mmrm_formula = formula, structure = structure, method = if (REML) "REML" else "ML",
            weights = weights_col, factors = factor_levels(data, all.vars(f)), contrasts = "treatment (first level is the reference)",
            n = component(fit, "n_obs"), p = length(be), n_varpar = np, n_subjects = component(fit, "n_subjects"),
            loglik = ll, deviance_or_remlcrit = -2 * ll, fixef = nl(be), vcov_fixef = mat(V), se = nl(sqrt(diag(V))),
            theta = th, mmrm_theta = nl(tt), ranef = NULL, condVar = NULL, satterthwaite = sat, kenward_roger = krj, kenward_roger_vcov = krv,
            kenward_roger_expected_info = kre, kenward_roger_linear = krl, kenward_roger_linear_vcov = krlv,
            anova = an, emmeans = em, robust_se = rob,
            aic = -2 * ll + 2 * (np + length(be)), bic = -2 * ll + log(length(y)) * (np + length(be)), n_for_bic = length(y),
            aic_package = AIC(fit), bic_package = BIC(fit),
            aic_note = "aic/bic: lme4 convention (npar = p + n_varpar, n observations). aic_package/bic_package: mmrm convention (covariance parameters only under REML; log of number of subjects)",
            fitted_head = I(unname(head(as.numeric(fitted(fit)), 6))), resid_head = I(unname(head(as.numeric(y - fitted(fit)), 6))),
            rows_used_head = I(head(as.integer(rownames(fr)), 6)),
            singular = FALSE, crosschecks = cross,
            kr_note = if (kr) "kenward_roger uses mmrm's own covariance parametrisation in the second-derivative term (KR adjustment is not invariant to it); kenward_roger_linear drops that term. mmrm takes the variance of the covariance parameters from the observed Hessian of the REML criterion, unlike pbkrtest (expected information); see kenward_roger_expected_info where given" else NULL,
            tolerance_note = paste(c(note, notes), collapse = "; "))
  if (!is.null(extra)) x <- c(x, extra)
  save_case(x)
  invisible(fit)
}

## dense check for visit-indexed structures
visit_dense <- function(visit, subj, w = NULL, grp = NULL) function(fit, fr, X, y) {
  S <- component(fit, "varcor"); v <- as.character(fr[[visit]]); id <- as.character(fr[[subj]])
  W <- if (is.null(w)) rep(1, length(y)) else w
  bl <- split(seq_along(y), factor(id, unique(id)))
  gauss_ll(y, X, bl, function(i, ix) {
    Si <- if (is.null(grp)) S else S[[as.character(fr[[grp]][ix[1]])]]
    A <- Si[v[ix], v[ix], drop = FALSE]; s <- 1 / sqrt(W[ix]); A * outer(s, s)
  }, fit$reml, full = TRUE)
}
