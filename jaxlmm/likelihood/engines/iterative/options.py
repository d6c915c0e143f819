"""Options of the iterative engine, its integer layout, and the random signs that it works with."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ....arguments import Seed, fresh_seed
from ....errors import DataError
from ....pytrees import frozen_pytree
from ..crossed.layout import factors


@dataclasses.dataclass(frozen=True)
class Iterative:
    """The iterative engine with its options: ``lmm(..., engine=jaxlmm.Iterative(probes=64))``.

    For crossed random effects that are too many for a factorisation. Coefficients and predicted effects are exact for
    the covariance parameters, which have a Monte Carlo error, as has the log-likelihood: ``fit.monte_carlo``. Variances
    of predicted effects are NaN: single entries of so large an inverse, unlike its traces, would need thousands of
    random vectors. ``jaxlmm.reml(fit.theta, fit.model)`` has the Monte Carlo error of the first probes.

    Parameters
    ----------
    probes : random vectors by which traces are estimated during the fit, the same ones in all evaluations. Their
        number sets the Monte Carlo error of the estimates, ``fit.monte_carlo.theta_se``
    final_probes : further ones, independent of the first, by which the log-likelihood and the certificate are
        computed at the estimate
    seed : of all of them; the same seed gives the same fit; None for a fresh one, which is kept
    steps : of the Lanczos process for the log-determinant
    tolerance : relative residual at which conjugate gradients stop for random vectors; its square is that for the
        coefficients. What enters gradients has errors of the order of its square throughout
    max_iterations : of conjugate gradients, after which the fit ends as not finite

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

    def __post_init__(self) -> None:
        if self.seed is None:
            object.__setattr__(self, "seed", fresh_seed())
        for name, least, most in (
            ("probes", 2, 10_000), ("final_probes", 2, 10_000), ("seed", 0, 2**63 - 1), ("steps", 1, 10_000),
            ("max_iterations", 1, 2**31 - 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not least <= value <= most:
                raise DataError(f"{name}: found {value!r}, expected a whole number from {least} to {most:,}")
        if not 0.0 < self.tolerance < 0.1:
            raise DataError(f"tolerance: found {self.tolerance!r}, expected a number between 0 and 0.1")


@frozen_pytree(data=("codes",), meta=("members", "levels", "options"))
@dataclasses.dataclass(frozen=True, eq=False)
class Incidence:
    """Integer layout of the iterative engine.

    Attributes
    ----------
    codes : (n,) level of each factor, that with most effects first, which is eliminated
    members : positions of the terms of each factor;  levels : a number a factor
    """

    codes: tuple[Any, ...]
    members: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    options: Iterative


def incidence(
    groups: tuple[np.ndarray, ...], levels: tuple[int, ...], dims: tuple[int, ...], options: Iterative
) -> Incidence:  # fmt: skip
    """Factors of the terms, from the codes of each (host side, concrete)."""
    members = factors(groups, levels, dims)
    first = [terms[0] for terms in members]
    return Incidence(tuple(groups[t] for t in first), members, tuple(levels[t] for t in first), options)


def random_signs(seed: int, stream: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """Signs of +-1 that depend on the seed and the stream alone, whatever the precision (NumPy, int8)."""
    key = jax.random.key(seed)
    for number in stream:
        key = jax.random.fold_in(key, number)
    bits = np.asarray(jax.random.bits(key, shape, "uint8"))
    return (2 * (bits & 1).astype(np.int8) - 1).astype(np.int8)
