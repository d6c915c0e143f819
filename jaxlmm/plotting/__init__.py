"""Pictures of fits, with matplotlib: ``fit.plot.<kind>()`` and ``batch.plot.<kind>()`` return Axes.

Each kind has a function that computes the numbers and one that draws them. `canvas` has the look and reads what is
drawn against, `envelope` simulates; `ranef`, `residuals`, `profiles`, `covariances`, `means`, `deletions` and
`batches` are the pictures, `kinds` the methods by which users call them. Fits are known by their public names only.
"""

from .canvas import MARKERS, new_figure
from .kinds import BatchPlots, FitPlots
from .means import plot_estimates
from .profiles import plot_pairs, plot_zeta

__all__ = ["MARKERS", "BatchPlots", "FitPlots", "new_figure", "plot_estimates", "plot_pairs", "plot_zeta"]
