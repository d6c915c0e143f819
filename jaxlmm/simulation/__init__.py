"""Data drawn from a model: `simulate`, parametric `bootstrap`, and `draws` for other packages."""
