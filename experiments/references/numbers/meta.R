# Numbers in tests/fitting/test_known_covariances.py: the published examples of metafor's rma.mv, known sampling
# variances and covariances with fixed and random effects. metafor 3.8-1, metadat 1.2-0.
suppressMessages({library(metafor)})
options(digits = 12)
ctl <- list(reltol = 1e-14, optimizer = "optim", optmethod = "BFGS")
show <- function(m) {
  print(c(beta = c(coef(m)), se = m$se, sigma2 = m$sigma2, tau2 = m$tau2, rho = m$rho, logLik = c(logLik(m))))
}
bcg <- escalc(measure = "RR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = dat.bcg)
print(dput(round(bcg$yi, 10)), digits = 12)
print(dput(round(bcg$vi, 10)), digits = 12)
cat("fixed effects\n"); show(rma.mv(yi, vi, data = bcg))
cat("random effects\n"); show(rma.mv(yi, vi, random = ~ 1 | trial, data = bcg, control = ctl))
cat("with the latitude, ML\n"); show(rma.mv(yi, vi, mods = ~ ablat, random = ~ 1 | trial, data = bcg, method = "ML", control = ctl))
kon <- dat.konstantopoulos2011
cat("three levels\n"); show(rma.mv(yi, vi, random = ~ 1 | district/school, data = kon, control = ctl))
dput(as.data.frame(kon[c("district", "school", "yi", "vi")]))
ber <- dat.berkey1998
V <- vcalc(vi = 1, cluster = author, rvars = c(v1i, v2i), data = ber)
dput(as.data.frame(ber[c("trial", "outcome", "yi", "v1i", "v2i")]))
for (method in c("REML", "ML")) {
  cat("two outcomes,", method, "\n")
  show(rma.mv(yi, V, mods = ~ outcome - 1, random = ~ outcome | trial, struct = "UN", data = ber, method = method, control = ctl))
}
# By ML the optimum itself, which metafor is 5e-9 from: Newton steps on its likelihood, written out
block <- function(par, i) {
  L <- matrix(c(par[1], par[2], 0, par[3]), 2)
  V[2 * i - 1:0, 2 * i - 1:0] + L %*% t(L)  # PD before AL in each trial
}
at <- function(par) {
  W <- lapply(1:5, function(i) solve(block(par, i)))
  y <- lapply(1:5, function(i) ber$yi[2 * i - 1:0])
  A <- Reduce(`+`, W)
  beta <- solve(A, Reduce(`+`, Map(`%*%`, W, y)))
  forms <- mapply(function(w, y) t(y - beta) %*% w %*% (y - beta), W, y)
  dets <- sapply(W, function(w) log(det(w)))
  list(loglik = -(10 * log(2 * pi) - sum(dets) + sum(forms)) / 2, beta = beta, se = sqrt(diag(solve(A))))
}
stopifnot(ber$outcome[1] == "PD")
minus <- function(par) -at(par)$loglik
par <- optim(c(0.15, 0.05, 0.05), minus, method = "BFGS", control = list(reltol = 1e-15))$par
for (step in 1:4) par <- par - solve(numDeriv::hessian(minus, par), numDeriv::grad(minus, par))
print(at(par))
