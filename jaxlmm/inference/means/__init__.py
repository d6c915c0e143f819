"""Marginal means: `emmeans`, slopes and comparisons (`margins`), `contrasts`, `multiplicity`, and their `table`."""
