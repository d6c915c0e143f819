## Cases of nlme; dense.R must have been read.
csv_names <- function(data) scan(file.path(OUT, attr(data, "reffile")), what = "", sep = ",", nlines = 1, quiet = TRUE)

## gls / lme case with at most one grouping level.  The reported numbers are
## from the dense engine polished by Newton steps from nlme's estimates; nlme's
## own numbers go into crosschecks.
##   vfun(par): function(i, ix) -> covariance block
##   zfun(ix), dfun(par): random-effect design and covariance (NULL for gls)
nlme_case <- function(name, data, fixed, fit, block, vfun, par0, theta_of, structure, source, REML = TRUE,
                      zfun = NULL, dfun = NULL, re_cols = NULL, note = NULL, formula = NULL, cross = list(), polish = TRUE,
                      anova = TRUE, satt = TRUE, extra = NULL, packages = "nlme", kr = NULL, compare = TRUE, maxit = 10) {
  ff <- as.formula(fixed); X <- model.matrix(ff, data); y <- model.response(model.frame(ff, data))
  y <- as.numeric(y)
  bl <- split(seq_along(y), factor(as.character(data[[block]]), unique(as.character(data[[block]]))))
  dn <- dense_fit(y, X, bl, vfun, par0, REML, polish = polish, satt = satt, maxit = maxit)
  d0 <- gauss_ll(y, X, bl, vfun(par0), REML, full = TRUE)
  notes <- sprintf("reported optimum: dense engine, Newton-polished; last decrement %.1e", dn$decrement %||% NA)
  if (compare && !is.null(fit)) {
    l0 <- as.numeric(logLik(fit)); fe0 <- if (inherits(fit, "lme")) nlme::fixef(fit) else coef(fit)
    cross[["nlme"]] <- list(loglik = l0, loglik_diff = l0 - dn$ll, loglik_same_parameters_diff = l0 - d0$ll,
                       fixef_maxdiff = max(abs(unname(fe0) - unname(dn$beta))),
                       se_max_reldiff = max(abs(sqrt(diag(fit$varFix %||% fit$varBeta)) / sqrt(diag(dn$Phi)) - 1)))
    notes <- c(notes, sprintf("nlme log-lik minus reported %.1e; nlme minus dense at nlme's own parameters %.1e", l0 - dn$ll, l0 - d0$ll))
  }
  beta <- dn$beta; res <- drop(y - X %*% beta); V <- vfun(dn$par); ran <- NULL; fitc <- drop(X %*% beta)
  cv <- NULL
  if (!is.null(zfun)) {
    D <- dfun(dn$par); B <- list(); C <- list(); fitc0 <- fitc
    for (i in seq_along(bl)) { ix <- bl[[i]]; Z <- zfun(ix); Vi <- solve(V(i, ix)); b <- drop(D %*% t(Z) %*% Vi %*% res[ix])
      B[[names(bl)[i]]] <- I(unname(b)); fitc[ix] <- fitc0[ix] + drop(Z %*% b)
      C[[names(bl)[i]]] <- mat(D - D %*% t(Z) %*% Vi %*% Z %*% D) }
    keep <- if (length(bl) <= 60) seq_along(bl) else 1:5
    ran <- setNames(list(list(columns = I(re_cols), n_levels = length(bl), complete = length(keep) == length(bl), rows = B[keep])), block)
    cv <- setNames(list(C[keep]), block)
  }
  np <- length(par0) + length(beta); n <- length(y)
  if (satt) { ct <- dn$satt; an <- if (anova) dense_anova(dn, fixed, data) else list() } else { ct <- NULL; an <- list() }
  tt <- if (compare && !is.null(fit)) { s <- summary(fit)$tTable; lapply(setNames(seq_len(nrow(s)), rownames(s)), function(i) as.list(s[i, ])) } else NULL
  x <- list(name = name, data = attr(data, "reffile"), source = source, software = VERS(packages), formula = formula %||% fixed,
            fixed = fixed, structure = structure, method = if (REML) "REML" else "ML",
            factors = factor_levels(data, intersect(c(all.vars(ff), block, unlist(structure[c("within", "time", "variance_covariate")])), csv_names(data))), contrasts = "treatment (first level is the reference)",
            n = n, p = length(beta), n_varpar = length(par0), npar = np, loglik = dn$ll, deviance_or_remlcrit = -2 * dn$ll,
            fixef = nl(beta), vcov_fixef = mat(dn$Phi), se = nl(setNames(sqrt(diag(dn$Phi)), names(beta))), theta = theta_of(dn$par),
            ranef = ran, condVar = cv, satterthwaite = ct, kenward_roger = kr$coef, kenward_roger_vcov = if (is.null(kr)) NULL else mat(kr$vcov), anova = c(an, kr$anova), nlme_tTable = tt,
            aic = -2 * dn$ll + 2 * np, bic = -2 * dn$ll + log(n) * np, n_for_bic = n,
            bic_package = if (compare && !is.null(fit)) BIC(fit) else NULL, bic_note = "nlme's own REML BIC uses n - p observations (bic_package)",
            fitted_head = I(unname(head(fitc, 6))), resid_head = I(unname(head(y - fitc, 6))), fitted_population_head = I(unname(head(drop(X %*% beta), 6))),
            singular = FALSE, crosschecks = cross,
            satterthwaite_note = "Satterthwaite from the dense engine (observed information by Richardson differences); nlme's own inner/outer df are in nlme_tTable",
            tolerance_note = paste(c(note, notes), collapse = "; "))
  if (!is.null(extra)) x <- c(x, extra)
  save_case(x)
  invisible(dn)
}

ar1_mat <- function(m, rho) rho^abs(outer(seq_len(m), seq_len(m), "-"))
tanhp <- function(x) 2 / (1 + exp(-x)) - 1     # R -> (-1, 1)
atanhp <- function(r) log((1 + r) / (1 - r))
