"""The model and its log-likelihood, pure functions of arrays.

In reading order: `parts` (random terms, random functions, residuals), `model`, `confounding`, `engines` (ways to
V^-1), `prepared` (statistics, made once), `criterion` (the formulas), `loglik` (REML and ML).
"""
