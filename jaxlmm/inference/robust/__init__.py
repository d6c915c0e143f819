"""Contributions of clusters and rows: `partition` of V, `sandwich` covariances, `scores`, `deletion`, `influence`."""
