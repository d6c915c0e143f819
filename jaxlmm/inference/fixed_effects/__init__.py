"""Tests of fixed effects: `wald`, `linear` hypotheses, `anova`, and the same `in_batches`."""
