"""Pictures of fits, with matplotlib: ``fit.plot.<kind>()`` and ``batch.plot.<kind>()`` return Axes.

Each kind has a function that computes the numbers and one that draws them. `canvas` has the look, `columns` reads what
is drawn against, `envelope` simulates; `caterpillar`, `residuals`, `quantiles`, `diagnostics`, `shrinkage`, `zeta`,
`pairs`, `semivariogram`, `covariances`, `means`, `deletions` and `batches` are the kinds. Fits are known by their
public names only, so that batches, which come before fits in the package, can have pictures too.
"""

from .canvas import MARKERS, new_figure
from .kinds import BatchPlots, FitPlots
from .pairs import plot_pairs
from .zeta import plot_zeta

__all__ = ["MARKERS", "BatchPlots", "FitPlots", "new_figure", "plot_pairs", "plot_zeta"]
