"""The iterative engine with its options: which models it can do, and how it is prepared."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ....arguments import Seed, fresh_seed, made
from ....errors import DataError
from ....runtime.keys import integer_of
from ..base import Rows
from ..layout import factors_of, is_plain, lacks_factors, lacks_terms
from ..protocol import Engine
from .engine import Krylov
from .layout import Incidence, incidence


@made
@dataclasses.dataclass(frozen=True)
class Iterative(Engine):
    """The iterative engine with its options: ``lmm(..., engine=jaxlmm.Iterative(probes=64))``.

    For crossed random effects that are too many for a factorisation. Coefficients and predicted effects are exact for
    the covariance parameters, which have a Monte Carlo error, as has the log-likelihood: ``fit.monte_carlo``. Variances
    of predicted effects are NaN: single entries of so large an inverse, unlike its traces, would need thousands of
    random vectors. ``jaxlmm.reml(fit.theta, fit.model)`` has the Monte Carlo error of the first probes. In it theta may
    be traced, the arrays of the model may not. Its value is estimated from other random vectors than its derivatives,
    which are those of this value within both errors only: an optimiser that compares values should follow the
    gradient. The fit makes values of its path agree with it.

    Parameters
    ----------
    probes : random vectors by which traces are estimated during the fit, the same ones in all evaluations. Their
        number sets the Monte Carlo error of the estimates, ``fit.monte_carlo.theta_se``
    final_probes : further ones, independent of the first, by which the log-likelihood and the certificate are
        computed at the estimate
    seed : of all of them; the same seed gives the same fit; a key of `jax.random` is turned into a number, None
        into a fresh one, which is kept
    steps : at most, of the Lanczos process for the log-determinant
    tolerance : relative residual at which conjugate gradients stop for random vectors; its square is that for the
        coefficients. What enters gradients has errors of the order of its square throughout
    max_iterations : of conjugate gradients, after which the fit ends as "not_solved"

    Raises
    ------
    DataError
        For options out of range.
    """

    probes: int = 32
    final_probes: int = 64
    seed: Seed = 0
    steps: int = 30
    tolerance: float = 1e-5
    max_iterations: int = 2000

    name = "iterative"
    stochastic = by_level = True

    def __post_init__(self) -> None:
        seed = fresh_seed() if self.seed is None else integer_of("seed", self.seed)
        object.__setattr__(self, "seed", seed)
        for name, least, most in (
            ("probes", 2, 10_000), ("final_probes", 2, 10_000), ("seed", 0, 2**63 - 1), ("steps", 1, 10_000),
            ("max_iterations", 1, 2**31 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not least <= value <= most:
                raise DataError(f"{name}: found {value!r}, expected a whole number from {least} to {most:,}")
        if not 0.0 < self.tolerance < 0.1:
            raise DataError(f"tolerance: found {self.tolerance!r}, expected a number between 0 and 0.1")

    def can(self, model: Any) -> str | None:
        """Terms of several factors."""
        return lacks_terms(model) or lacks_factors(model)

    def preference(self, model: Any) -> int | None:
        """Where nothing can be factored."""
        return 2 if is_plain(model) and not lacks_factors(model) else None

    def layout(self, model: Any) -> Incidence:
        """See `Incidence`."""
        return incidence(*factors_of(model.terms), self)

    def prepare(self, rows: Rows, model: Any, compact: bool = True, varying: int = 1) -> Krylov:
        """Statistics of concrete rows only."""
        if not rows.is_concrete:
            raise DataError(
                "engine: 'iterative' needs concrete arrays, and takes no traced ones (jit, vmap and derivatives over y,"
                " X, Z or weights); fit one data set at a time, or use engine='crossed'"
            )
        return Krylov.prepare(rows, model.layout, compact)
