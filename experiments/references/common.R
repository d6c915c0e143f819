## What the scripts of reference cases share: writing data and cases, textbook likelihoods, lme4 fits polished by Newton.
## `HERE` is the folder of these scripts, set by the script that is run; the first argument is the folder for results.
Sys.setenv(OPENBLAS_NUM_THREADS = "1", OMP_NUM_THREADS = "1")
suppressPackageStartupMessages({
  library(Matrix); library(lme4); library(lmerTest); library(pbkrtest)
  library(nlme); library(jsonlite); library(numDeriv)
})
options(contrasts = c("contr.treatment", "contr.treatment"), digits = 10,
        stringsAsFactors = FALSE)
OUT <- commandArgs(TRUE)[1]
if (is.na(OUT)) stop("give a folder for the results: Rscript SCRIPT FOLDER")
for (part in c("data", "cases")) dir.create(file.path(OUT, part), recursive = TRUE, showWarnings = FALSE)

`%||%` <- function(a, b) if (is.null(a)) b else a

## ---------------------------------------------------------------- data ----
num_str <- function(x) {
  s <- sprintf("%.15g", x)
  s[is.na(x)] <- "0"
  bad <- !is.na(x) & as.numeric(s) != x
  s[bad] <- sprintf("%.17g", x[bad])
  s[is.na(x)] <- ""
  s
}

## Plain data frame: no groupedData class, no ordered factors (level order kept).
plain <- function(d) {
  d <- as.data.frame(d)
  class(d) <- "data.frame"
  attributes(d) <- attributes(d)[c("names", "row.names", "class")]
  for (v in names(d)) {
    x <- d[[v]]
    if (is.factor(x)) d[[v]] <- factor(as.character(x), levels = levels(x)[levels(x) %in% as.character(x)])
    else if (is.character(x)) d[[v]] <- factor(x)
    else { attributes(x) <- NULL; d[[v]] <- as.numeric(x) }
  }
  rownames(d) <- NULL
  d
}

## Write the CSV and give back exactly what a reader of the CSV gets
## (numbers round-trip exactly; factor level order as recorded in the JSON).
put_data <- function(file, d) {
  d <- plain(d)
  path <- file.path(OUT, "data", file)
  out <- lapply(d, function(x) if (is.factor(x)) ifelse(is.na(x), "", paste0('"', as.character(x), '"')) else num_str(x))
  con <- file(path, "w")
  writeLines(paste(paste0('"', names(d), '"'), collapse = ","), con)
  writeLines(do.call(paste, c(unname(out), sep = ",")), con)
  close(con)
  cls <- vapply(d, function(x) if (is.factor(x)) "character" else "numeric", "")
  r <- read.csv(path, colClasses = cls, check.names = FALSE, na.strings = "")
  for (v in names(d)) if (is.factor(d[[v]])) r[[v]] <- factor(r[[v]], levels = levels(d[[v]]))
  stopifnot(isTRUE(all.equal(r, d, tolerance = 0, check.attributes = FALSE)))
  attr(r, "reffile") <- paste0("data/", file)
  r
}

factor_levels <- function(d, vars) {
  vars <- intersect(vars, names(d))
  out <- list()
  for (v in vars) if (is.factor(d[[v]])) out[[v]] <- I(levels(d[[v]]))
  if (length(out)) out else setNames(list(), character())
}

## ---------------------------------------------------------------- json ----
nl <- function(x) as.list(x)                     # named numeric -> object
mat <- function(m) { m <- as.matrix(m); dimnames(m) <- NULL; m }
save_case <- function(x) {
  path <- file.path(OUT, "cases", paste0(x$name, ".json"))
  txt <- toJSON(x, auto_unbox = TRUE, digits = NA, null = "null", na = "null",
                matrix = "rowmajor", pretty = 1)
  writeLines(txt, path)
  cat(sprintf("%-38s n=%-6d p=%-3d ll=%.8f %s\n", x$name, x$n, x$p, x$loglik,
              substr(x$tolerance_note %||% "", 1, 150)))
  invisible(x)
}

VERS <- function(...) paste(vapply(c(...), function(p) paste(p, as.character(packageVersion(p))), ""), collapse = ", ")

## --------------------------------------------------- dense likelihoods ----
## Gaussian (RE)ML log-likelihood for block-diagonal V, written from the
## textbook definition.  vfun(par) -> function(i) giving the covariance of
## block i; blocks: list of row-index vectors.
gauss_ll <- function(y, X, blocks, vblk, REML, full = FALSE) {
  p <- ncol(X); n <- length(y)
  XtVX <- matrix(0, p, p); XtVy <- numeric(p); yVy <- 0; ld <- 0
  for (i in seq_along(blocks)) {
    ix <- blocks[[i]]
    R <- tryCatch(chol(vblk(i, ix)), error = function(e) NULL)
    if (is.null(R)) return(if (full) NULL else -1e10)
    ld <- ld + 2 * sum(log(diag(R)))
    Z <- backsolve(R, cbind(X[ix, , drop = FALSE], y[ix]), transpose = TRUE)
    Zx <- Z[, seq_len(p), drop = FALSE]; zy <- Z[, p + 1]
    XtVX <- XtVX + crossprod(Zx); XtVy <- XtVy + crossprod(Zx, zy); yVy <- yVy + sum(zy^2)
  }
  ## scale columns for stability of the determinant
  beta <- drop(solve(XtVX, XtVy)); quad <- yVy - sum(beta * XtVy)
  if (REML) {
    ll <- -0.5 * (ld + as.numeric(determinant(XtVX)$modulus) + quad + (n - p) * log(2 * pi))
  } else ll <- -0.5 * (ld + quad + n * log(2 * pi))
  if (!full) return(ll)
  list(ll = ll, beta = setNames(beta, colnames(X)), vbeta = solve(XtVX), quad = quad)
}

## Newton polish of a maximum of f (unconstrained parameters).
newton_max <- function(f, par, maxit = 8, tol = 1e-11, verbose = FALSE) {
  fv <- f(par)
  dec <- NA
  for (it in seq_len(maxit)) {
    g <- grad(f, par); H <- hessian(f, par)
    H <- (H + t(H)) / 2
    step <- tryCatch(-solve(H, g), error = function(e) NULL)
    if (is.null(step)) break
    dec <- sum(g * step) / 2
    if (verbose) cat("  newton", it, "f", format(fv, digits = 14), "dec", dec, "\n")
    if (!is.finite(dec)) break
    if (dec < 0) { # not a maximum locally: fall back to optim
      o <- optim(par, function(p) -f(p), method = "BFGS", control = list(reltol = 1e-14, maxit = 500))
      par <- o$par; fv <- -o$value; next
    }
    s <- 1; ok <- FALSE
    while (s > 1e-3) { fn <- f(par + s * step); if (is.finite(fn) && fn >= fv - 1e-11 * abs(fv)) { ok <- TRUE; break }; s <- s / 2 }
    if (!ok) break
    par <- par + s * step; fv <- fn
    if (abs(dec) < tol) break
  }
  list(par = par, value = fv, decrement = dec)
}

## ---------------------------------------------------------------- lmer ----
tight <- lmerControl(optimizer = "bobyqa", optCtrl = list(maxfun = 1e5, rhoend = 1e-9),
                     calc.derivs = FALSE, check.conv.singular = "ignore",
                     check.nobs.vs.nlev = "ignore", check.nobs.vs.rankZ = "ignore",
                     check.nobs.vs.nRE = "ignore", check.rankX = "message+drop.cols")
noopt <- tight; noopt$optimizer <- NULL
noopt$checkConv <- NULL

fit_lmer <- function(formula, data, REML = TRUE, weights = NULL, offset = NULL, polish = TRUE,
                     boundary = 1e-5) {
  args <- list(formula = formula, data = data, REML = REML, control = tight)
  if (!is.null(weights)) args$weights <- weights
  if (!is.null(offset)) args$offset <- offset
  dev <- do.call(lme4::lmer, c(args, devFunOnly = TRUE))
  m0 <- do.call(lme4::lmer, args)
  th <- getME(m0, "theta"); lo <- getME(m0, "lower")
  f0 <- dev(th)
  ## second optimiser from the first one's optimum
  ctl2 <- tight; ctl2$optimizer <- "nloptwrap"
  ctl2$optCtrl <- list(xtol_abs = 1e-12, ftol_abs = 1e-12, maxeval = 1e4)
  a2 <- args; a2$control <- ctl2
  m1 <- do.call(lme4::lmer, a2)
  if (dev(getME(m1, "theta")) < f0) { th <- getME(m1, "theta"); f0 <- dev(th) }
  sing <- any(th[lo == 0] < boundary)
  dec <- NA
  if (polish) {
    free <- if (!sing) rep(TRUE, length(th)) else !(lo == 0 & th < boundary)
    if (any(free)) {
      th0 <- th; th[!free] <- 0
      ff <- function(x) { t <- th; t[free] <- x; -dev(t) }
      nm <- newton_max(ff, th[free], maxit = 6, tol = 1e-12)
      if (-nm$value <= f0 + 1e-8 && (!sing || max(abs(nm$par - th0[free])) < 1e-3)) { th[free] <- nm$par; dec <- nm$decrement } else th <- th0
    } else if (!any(free)) th[] <- 0
  }
  a3 <- args
  a3$control <- lmerControl(optimizer = NULL, calc.derivs = FALSE,
                            check.conv.singular = "ignore", check.nobs.vs.nlev = "ignore",
                            check.nobs.vs.rankZ = "ignore", check.nobs.vs.nRE = "ignore",
                            check.rankX = "message+drop.cols")
  a3$start <- list(theta = as.numeric(th))
  fm <- suppressWarnings(do.call(lmerTest::lmer, a3))
  stopifnot(max(abs(getME(fm, "theta") - th)) < 1e-12)
  attr(fm, "newton_decrement") <- dec
  attr(fm, "theta_bobyqa_maxdiff") <- max(abs(getME(m0, "theta") - th))
  fm
}

## joint conditional covariance of all random effects of given columns
cond_cov <- function(fm, idx) {
  Lt <- getME(fm, "Lambdat"); L <- getME(fm, "L"); s2 <- sigma(fm)^2
  B <- Lt[, idx, drop = FALSE]
  as.matrix(s2 * crossprod(B, solve(L, B, system = "A")))
}

## per grouping factor: columns of b for each level, terms merged
re_layout <- function(fm) {
  fl <- getME(fm, "flist"); asg <- attr(fl, "assign"); cn <- getME(fm, "cnms"); Gp <- getME(fm, "Gp")
  lapply(setNames(seq_along(fl), names(fl)), function(k) {
    terms <- which(asg == k); lev <- levels(fl[[k]])
    cols <- unlist(lapply(terms, function(t) cn[[t]]))
    ix <- do.call(rbind, lapply(terms, function(t) {
      q <- length(cn[[t]]); matrix(Gp[t] + seq_len(q * length(lev)), nrow = q) }))
    list(levels = lev, columns = cols, index = ix)
  })
}

re_json <- function(fm, maxfull = 60, head_n = 5, condvar = TRUE) {
  lay <- re_layout(fm); b <- as.numeric(getME(fm, "b"))
  ran <- cv <- list()
  for (g in names(lay)) {
    l <- lay[[g]]; N <- length(l$levels)
    keep <- if (N <= maxfull) seq_len(N) else seq_len(head_n)
    ran[[g]] <- list(columns = I(l$columns), n_levels = N, complete = length(keep) == N,
                     rows = setNames(lapply(keep, function(j) I(b[l$index[, j]])), l$levels[keep]))
    if (condvar)
      cv[[g]] <- setNames(lapply(keep, function(j) cond_cov(fm, l$index[, j])), l$levels[keep])
  }
  list(ranef = ran, condVar = if (condvar) cv else NULL)
}

vc_json <- function(fm) {
  vc <- VarCorr(fm)
  groups <- lapply(names(vc), function(g) {
    m <- as.matrix(vc[[g]])
    list(group = sub("\\.[0-9]+$", "", g), columns = I(colnames(m)), sd = I(unname(attr(vc[[g]], "stddev"))),
         corr = mat(attr(vc[[g]], "correlation")), cov = mat(m))
  })
  list(groups = groups, sigma = sigma(fm), lme4_theta = nl(getME(fm, "theta")))
}

coef_tests <- function(fm, kr = TRUE) {
  s <- coef(summary(fm, ddf = "Satterthwaite"))
  sat <- setNames(lapply(rownames(s), function(r) list(estimate = s[r, 1], se = s[r, 2], df = s[r, "df"],
           t = s[r, "t value"], p = s[r, "Pr(>|t|)"])), rownames(s))
  k <- NULL; kv <- NULL
  if (kr) {
    s <- coef(summary(fm, ddf = "Kenward-Roger"))
    k <- setNames(lapply(rownames(s), function(r) list(se_adj = s[r, 2], df = s[r, "df"],
           t = s[r, "t value"], p = s[r, "Pr(>|t|)"])), rownames(s))
    kv <- mat(pbkrtest::vcovAdj(fm))
  }
  list(sat = sat, kr = k, krv = kv)
}

anova_rows <- function(fm, kr = TRUE) {
  if (length(attr(terms(fm), "term.labels")) == 0) return(list())
  rows <- list()
  for (d in c("Satterthwaite", if (kr) "Kenward-Roger")) {
    a <- anova(fm, type = "III", ddf = d)
    for (i in seq_len(nrow(a))) rows[[length(rows) + 1]] <- list(
      term = rownames(a)[i], type = "III", ddf = d, numDF = a[i, "NumDF"], denDF = a[i, "DenDF"],
      F = a[i, "F value"], p = a[i, "Pr(>F)"],
      L = if (d == "Satterthwaite") mat(attr(a, "hypotheses")[[i]]) else NULL)
  }
  rows
}

dense_check_lmer <- function(fm) {
  Zt <- getME(fm, "Zt"); Lt <- getME(fm, "Lambdat"); s2 <- sigma(fm)^2
  w <- weights(fm)
  V <- s2 * as.matrix(crossprod(Lt %*% Zt)) + diag(s2 / w, length(w))
  off <- getME(fm, "offset")
  gauss_ll(getME(fm, "y") - off, getME(fm, "X"), list(seq_along(w)), function(i, ix) V, isREML(fm), full = TRUE)
}

tmb_check <- function(formula, data, REML, weights = NULL) {
  if (!requireNamespace("glmmTMB", quietly = TRUE)) return(NULL)
  tryCatch({
    suppressWarnings(glmmTMB::glmmTMB(formula, data = data, REML = REML,
      control = glmmTMB::glmmTMBControl(optCtrl = list(iter.max = 2000, eval.max = 4000, rel.tol = 1e-13, x.tol = 1e-12),
                                        profile = FALSE)))
  }, error = function(e) { message("glmmTMB: ", conditionMessage(e)); NULL })
}

## One lmer case -> JSON.
lmer_case <- function(name, file, data, formula, REML, source, kr = TRUE, satt = TRUE,
                      lme_fit = NULL, tmb = TRUE, dense = TRUE, weights = NULL, weights_col = NULL,
                      offset_col = NULL, offset = NULL, note = NULL, extra = NULL, condvar = TRUE,
                      head_n = 5, maxfull = 60, polish = TRUE, fm = NULL, anova = TRUE) {
  f <- as.formula(formula, env = globalenv())
  used <- data
  if (is.null(fm)) fm <- fit_lmer(f, data, REML, weights = weights, offset = offset, polish = polish)
  ll <- logLik(fm); V <- as.matrix(vcov(fm, use.hessian = FALSE)); fe <- fixef(fm)
  sing <- isSingular(fm, tol = 1e-5)
  notes <- character(); cross <- list()
  if (!is.na(attr(fm, "newton_decrement") %||% NA)) {
    notes <- c(notes, sprintf("lme4 optimum polished by Newton steps on the deviance; last Newton decrement %.1e", attr(fm, "newton_decrement")))
  }
  if (dense && nobs(fm) <= 2500) {
    dc <- dense_check_lmer(fm)
    cross$dense <- list(loglik = dc$ll, loglik_diff = dc$ll - as.numeric(ll), fixef_maxdiff = max(abs(dc$beta - fe)),
                        se_max_reldiff = max(abs(sqrt(diag(dc$vbeta)) / sqrt(diag(V)) - 1)))
    notes <- c(notes, sprintf("dense textbook log-lik at the same parameters differs by %.1e", dc$ll - as.numeric(ll)))
  }
  if (!is.null(lme_fit)) {
    l2 <- as.numeric(logLik(lme_fit)); fe2 <- if (inherits(lme_fit, "lme")) nlme::fixef(lme_fit) else coef(lme_fit)
    cross$nlme <- list(loglik = l2, loglik_diff = l2 - as.numeric(ll), fixef_maxdiff = max(abs(unname(fe2) - unname(fe))),
                       sigma_diff = lme_fit$sigma - sigma(fm))
    notes <- c(notes, sprintf("nlme log-lik minus lme4 log-lik %.1e", l2 - as.numeric(ll)))
  }
  if (tmb && is.null(weights) && is.null(offset)) {
    tm <- tmb_check(f, data, REML)
    if (!is.null(tm)) {
      l3 <- as.numeric(logLik(tm)); fe3 <- glmmTMB::fixef(tm)$cond
      if (is.finite(l3)) {
        cross$glmmTMB <- list(loglik = l3, loglik_diff = l3 - as.numeric(ll),
                              fixef_maxdiff = max(abs(fe3[names(fe)] - fe)), sigma_diff = sigma(tm) - sigma(fm))
        notes <- c(notes, sprintf("glmmTMB log-lik minus lme4 %.1e", l3 - as.numeric(ll)))
      } else notes <- c(notes, "glmmTMB returned NA log-lik")
    }
  }
  ct <- if (satt) coef_tests(fm, kr) else list(sat = NULL, kr = NULL, krv = NULL)
  re <- re_json(fm, maxfull = maxfull, head_n = head_n, condvar = condvar)
  fr <- model.frame(fm)
  vars <- all.vars(f)
  x <- list(name = name, data = attr(data, "reffile"), source = source,
            software = VERS("lme4", "lmerTest", "pbkrtest"), formula = formula,
            structure = NULL, method = if (REML) "REML" else "ML",
            weights = weights_col, offset = offset_col,
            factors = factor_levels(data, vars), contrasts = "treatment (first level is the reference)",
            n = nobs(fm), p = length(fe), n_varpar = attr(ll, "df") - length(fe), npar = attr(ll, "df"),
            loglik = as.numeric(ll), deviance_or_remlcrit = -2 * as.numeric(ll),
            fixef = nl(fe), vcov_fixef = mat(V), se = nl(sqrt(diag(V))),
            theta = vc_json(fm), ranef = re$ranef, condVar = re$condVar,
            satterthwaite = ct$sat, kenward_roger = ct$kr, kenward_roger_vcov = ct$krv,
            anova = if (satt && anova) anova_rows(fm, kr) else list(),
            aic = AIC(fm), bic = BIC(fm), n_for_bic = attr(ll, "nobs") %||% nobs(fm),
            fitted_head = I(unname(head(fitted(fm), 6))), resid_head = I(unname(head(resid(fm), 6))),
            fitted_population_head = I(unname(head(predict(fm, re.form = NA), 6))),
            singular = sing, crosschecks = cross,
            tolerance_note = paste(c(note, notes), collapse = "; "))
  if (!is.null(extra)) x <- c(x, extra)
  save_case(x)
  invisible(fm)
}

lmec <- lmeControl(opt = "nlminb", maxIter = 500, msMaxIter = 2000, msMaxEval = 10000, tolerance = 1e-12,
                   msTol = 1e-14, niterEM = 100, returnObject = TRUE, nlmStepMax = 100, gradHess = TRUE)
glsc <- glsControl(opt = "nlminb", maxIter = 500, msMaxIter = 2000, tolerance = 1e-12, msTol = 1e-14, returnObject = TRUE)
