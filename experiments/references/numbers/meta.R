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
