"""Inference from a fit.

In reading order:

- `options`: what a test may be asked for, checked in one place;
- `local`: information matrices and derivatives of X'V^-1 X, from which the following are made;
- `satterthwaite`, `kenward_roger`, `degrees`, `partition`, `sandwich`: covariances of the coefficients and degrees of
  freedom; `wald` puts a method together, `linear` tests hypotheses by it, `lanewise` in every data set of a batch;
- `delta`, `shares`: standard errors of anything else;
- `hypotheses`, `anova`, `grid`, `contrasts`, `multiplicity`, `estimates`, `emmeans`: terms, means and contrasts;
- `mixtures`, `tangent`, `nesting`, `resampling`, `comparison`, `exact`, `criteria`: likelihood ratios and criteria;
- `joint`, `levels`, `targets`, `profile`, `intervals`: profile likelihood;
- `scores`, `deletion`, `influence`: contributions of clusters and rows.
"""
