"""Predicted means and observations with their errors, and residuals.

Modules in reading order: `parts` (covariances between any two rows of a model, the data's and new ones), `newdata`
(rows of new data in these terms), `errors` (best linear unbiased prediction with its error and degrees of freedom),
`forecast` (``Fit.predict``), `whitening` (``Fit.residuals``), `simulated` (``Fit.simulate``).
"""
