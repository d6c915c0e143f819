"""Inference from a fit: tests, intervals, means, likelihood ratios, influence.

In reading order:

- `options`: what a test may be asked for, checked in one place;
- `local`: information matrices and derivatives of X'V^-1 X, from which the following are made;
- `delta`, `shares`, `normal`: standard errors and draws of anything that is a function of the parameters;
- `small_sample`: the methods of Satterthwaite, Kenward and Roger, and degrees of freedom by rules;
- `robust`: contributions of clusters and rows: sandwich covariances, scores, influence;
- `hypotheses`: what a test of a term means, and the grid that means are taken over;
- `fixed_effects`: Wald tests of coefficients, terms (anova) and hypotheses, in one fit or every replicate of a batch;
- `means`: marginal means, contrasts, multiplicity;
- `ratios`: likelihood ratios, their laws on the boundary, exact tests, criteria;
- `profiles`: profile likelihood and its intervals.
"""
