"""Profile likelihood: curves of any quantity, intervals, and the constrained optimisation behind them."""
