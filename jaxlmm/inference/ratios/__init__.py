"""Likelihood ratios: `comparison` of fits, the laws of the statistic, the exact test of a variance, `criteria`."""
