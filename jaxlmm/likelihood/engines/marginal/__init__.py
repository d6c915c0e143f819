"""V by clusters of dependent rows: residual structures, random functions, relationship matrices."""
