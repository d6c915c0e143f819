"""Sufficient statistics by group: one grouping factor, nested factors, and what is left of others."""
