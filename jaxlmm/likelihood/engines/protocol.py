"""What an engine is: one object that says which models it can do, lays them out and prepares statistics of rows.

Everything has a default. An engine that only has a `name` and `gram` works with V itself, as `dense` does; others
prepare statistics of their own (a `base.Statistics`), and from then on these are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...errors import DataError
from ...linalg import identity
from ...pytrees import frozen_pytree, replace
from ..parts import Field
from .base import Blocks, Lanes, Rows, Statistics
from .solving import Apply, refined


class Engine:
    """Base class of engines; objects of a class with the same attributes are equal and share compiled programs.

    Give an object of your own to `Model` or `lmm` as ``engine=``.

    Attributes
    ----------
    name : of its own; what `Fit.engine` shows
    stochastic : whether values have a Monte Carlo error (`fitting.monte_carlo`); then one data set is fitted at a time
    by_level : whether ``Statistics.posterior`` gives the effects of all terms; if not, they are predicted by clusters
    keeps_levels : whether a model of some of the rows keeps levels without any, so that its layout has the same shapes
    settled : names of `Model.replace` whose values the layout depends on
    """

    name: str = ""
    stochastic: bool = False
    by_level: bool = False
    keeps_levels: bool = False
    settled: frozenset[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    # -- one fit ---------------------------------------------------------------------------------------------

    def can(self, model: Any) -> str | None:
        """None, or why not: a sentence that begins with the engine's name, which is left out."""
        return None

    def preference(self, model: Any) -> int | None:
        """For ``engine="auto"``: the lowest is taken, 0 without asking further engines; None is never taken."""
        return None

    def inverts_residual(self, model: Any) -> bool:
        """Whether values need the inverse of the residual covariance, which may be singular where V is not."""
        return False

    def layout(self, model: Any) -> Any:
        """What is found from grouping factors and places, once a model: a pytree of integers, ``model.layout``."""
        return None

    def prepare(self, rows: Rows, model: Any, compact: bool = True, varying: int = 1) -> Statistics:
        """Statistics from rows, whose values may be traced (`rows.is_concrete`), as may be those of the model.

        Parameters
        ----------
        compact : only `gram` and `expand` will be asked for; otherwise `solve` and `posterior` too
        varying : number of last columns of U that ``Statistics.with_columns`` may replace
        """
        return Whole(rows.U, rows.Z, (*model.random, model.residual), self, rows.present)

    # -- V itself, for engines that do not prepare statistics of their own -----------------------------------

    def gram(self, V: Array, U: Array) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U of V (n, n) and U (n, r)."""
        raise DataError(f"engine: {self.name!r} has no method 'gram' (log|V| and U'V^-1 U), nor a 'prepare' of its own")

    def inverse(self, V: Array) -> Apply:
        """Product of V^-1 with columns, to be refined; half the derivative of the trace of `gram` in U."""
        return lambda B: 0.5 * jax.grad(lambda U: jnp.trace(self.gram(V, U)[1]))(B)

    # -- many data sets --------------------------------------------------------------------------------------

    def varying(self, rows: Rows, model: Any, statistics: Statistics, count: int) -> Any:
        """What turns `count` columns that differ between data sets, each (n, b), into ``with_columns``'s argument.

        A callable of a list of columns, with an attribute `floats`: numbers of a data set's statistics, for each
        column. (NumPy.) It may have `split` and `weights`, by which scans find V^-1, as `grouped.batches.Varying`.

        Parameters
        ----------
        rows : columns of U that all data sets share, and the columns of Z worked with
        statistics : as prepared for one data set
        """
        return VaryingRows()

    def factor(self, model: Any) -> tuple[np.ndarray, int] | None:
        """Codes and number of levels of the one grouping factor by which `stacked` takes data sets together."""
        return None

    def stacked(self, model: Any, lanes: Lanes) -> Iterator[tuple[np.ndarray, Statistics]]:
        """Statistics of data sets with rows of their own, those of one shape together (NumPy).

        Yields
        ------
        positions (b,) of data sets, and their statistics with a leading axis (b, ...)
        """
        raise DataError(f"engine: {self.name!r} has a method 'factor' and no method 'stacked'")

    def floats(self, model: Any) -> int:
        """Numbers of the statistics that `stacked` gives for a data set like this one, besides its rows."""
        return 0

    def masked(self, rows: Rows, model: Any) -> Any:
        """What gives statistics of columns that each lack rows of their own, as `grouped.masked.Masked`; None without.

        Parameters
        ----------
        rows : columns of U that all data sets share, orthonormal, and the columns of Z worked with
        """
        return None

    def draws(self, model: Any) -> bool:
        """Whether `simulation.Sampler` can draw what `varying` would give, without rows."""
        return False


@frozen_pytree(data=("U", "Z", "parts", "present"), meta=("engine",))
@dataclass(frozen=True, eq=False)
class Whole(Statistics):
    """The rows themselves and V from them: O(n^2) memory an evaluation.

    Attributes
    ----------
    U : (n, r);  Z : (n, q) of each term; of a `Field` the square roots of the weights (n, 1), None without
    parts : random parts of the model, and its residual;  present : see `Rows`
    """

    U: Any
    Z: tuple[Any, ...]
    parts: tuple[Any, ...]
    engine: Engine
    present: Any = None

    @property
    def work(self) -> int:
        """Numbers that an evaluation works with."""
        return int(self.U.shape[-2] ** 2)

    def with_columns(self, lane: Any) -> Whole:
        """The same design with other last columns of U (n, count)."""
        return replace(self, U=jnp.concatenate([jnp.asarray(self.U)[:, : -lane.shape[1]], lane], 1))

    def covariance(self, C: Blocks) -> Array:
        """V (n, n), that of the identity where a row does not count."""
        *random, residual = self.covariances(C)
        return only_present(sum(random, residual), self.present)

    def covariances(self, C: Blocks) -> list[Array]:
        """V_t (n, n) of each random part, the residual's last."""
        found = []
        for Z, part, block in zip(self.Z, self.parts[:-1], C.random, strict=True):
            if isinstance(part, Field):
                found.append((1.0 if Z is None else Z * Z.T) * self._between(part, block))
            else:
                A = identity(part.levels) if part.relationship is None else jnp.asarray(part.relationship)
                found.append(A[part.group[:, None], part.group[None, :]] * (Z @ block @ Z.T))
        return [*found, self._between(self.parts[-1], C.residual)]

    def _between(self, field: Field, block: Array) -> Array:
        """Covariances of a random function between rows."""
        if field.group is None:
            return block[0, 0] * identity(self.U.shape[-2])
        i, j, g = field.position[:, None], field.position[None, :], field.group
        values = block[i, j] if field.sets is None else block[jnp.asarray(field.sets)[g][:, None], i, j]
        return jnp.where(g[:, None] == g[None, :], values, 0.0)

    def gram(self, C: Blocks) -> tuple[Array, Array]:
        """log|V| and U'V^-1 U."""
        return self.engine.gram(self.covariance(C), jnp.asarray(self.U))

    def solve(self, C: Blocks, B: Array) -> Array:
        """V^-1 B."""
        V = self.covariance(C)
        direct = self.engine.inverse(jax.lax.stop_gradient(V))
        return refined(direct, lambda X: V @ X, lambda X: jnp.abs(V) @ X, jnp.asarray(B))


def only_present(V: Array, present: Any) -> Array:
    """V (n, n) with rows and columns of the identity where a row does not count."""
    if present is None:
        return V
    return jnp.where(present[:, None] & present[None, :], V, identity(len(V)))


class VaryingRows:
    """Many responses to `Whole`: its statistics are the rows."""

    floats = 0

    def __call__(self, columns: list[np.ndarray]) -> np.ndarray:
        """Rows (b, n, count) of columns, each (n, b)."""
        return np.stack([column.T for column in columns], -1)
