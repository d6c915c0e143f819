"""What a hypothesis is: the coding of terms (types I, II, III) and the grid of a model's factors and covariates."""
