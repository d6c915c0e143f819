"""From text to syntax: lme4's formulas, covariance structures and variance functions.

In reading order: `tokens`, `expressions` (transformations such as ``log(x)``), `syntax` (what a formula says),
`structures` (what is behind a bar or in ``residual=``), `parser`, `specs` (the structures that are asked for).
"""
