"""Predicted means and observations with their errors, and residuals.

They rest on `jaxlmm.estimates.rows`, covariances between any two rows. Modules in reading order: `newdata` (rows of the
data and new ones side by side), `errors` (best linear unbiased prediction with its error and degrees of freedom),
`forecast` (``Fit.predict``), `in_batches`, `whitening` (``Fit.residuals``), `simulated` (``Fit.simulate``).
"""
