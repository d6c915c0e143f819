## tests/test_multiplicity.py
library(mvtnorm)
A <- matrix(c(1, .3, -.2, .5, .3, 1, .4, .1, -.2, .4, 1, .6, .5, .1, .6, 1), 4)
set.seed(1)
for (c in c(1.5, 2.4, 3.2))
  cat(sprintf("%.7f\n", 1 - pmvt(rep(-c, 4), rep(c, 4), df = 11, corr = A, algorithm = GenzBretz(maxpts = 2e6, abseps = 1e-7))))
cat(sprintf("%.4f\n", qmvt(0.95, tail = "both.tails", df = 11, corr = A, maxpts = 2e5, abseps = 1e-4)$quantile))
p <- c(.01, .04, .03, .005)
cat(p.adjust(p, "holm"), "\n", p.adjust(p, "fdr"), "\n")
