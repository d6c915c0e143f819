"""What follows from the estimated parameters: predicted random effects, covariances, variances by name.

In reading order: `fitted` (what was fitted, which results are made from), `effects` (predictions of random effects with
their errors), `rows` (covariances between any two rows), `ranef` and `varcorr` (tables for users).
"""
