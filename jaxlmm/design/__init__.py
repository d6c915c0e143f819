"""From parsed formulas and columns of data to arrays.

In reading order: `encoding` (columns of X), `grouping` (terms and their levels), `placing` and `trial` (structures over
columns of the data), `fields` (random functions and residuals), `frame` (all of a model).
"""
