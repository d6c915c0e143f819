"""The models that data are drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..arguments import check_function, check_mapping, made, nearest
from ..covariance import Covariance
from ..design.frame import ModelFrame
from ..design.placing import in_order
from ..errors import DataError
from ..estimates.effects import linear_predictor
from ..frames.columns import read_column
from ..interface import model_of
from ..likelihood.drawing import Shape
from ..likelihood.engines import Blocks
from ..likelihood.model import Model, block_at
from ..runtime.precision import float64
from ..simulation.simulate import draw_rows
from ..tolerances import not_semidefinite
from .cells import accepted, named_in, resolved
from .drawing import Drawn, arrays

MOST_SKEW, MOST_TAILS = 2.0, 0.25  # Tukey's g and h
LOST = 1_000_000  # what the key of lost rows is folded with, beyond any term's


class Truth(NamedTuple):
    """A model on a design: its mean (n,), the covariance blocks of its terms, coefficients, shapes of terms."""

    model: Model
    mean: np.ndarray
    blocks: Blocks
    names: tuple[str, ...]
    shapes: tuple[Shape | None, ...] = ()


@made
@dataclass(frozen=True, eq=False)
class MixedModel:
    """Responses from any model that `jaxlmm.lmm` can fit, at given parameters.

    Parameters
    ----------
    formula, residual, variance, weights, offset, relationship, structures : as for `jaxlmm.lmm`. Numbers in the text
        fix parameters (``"ar1(visit | subject, variance=2, correlation=0.5)"``).
    beta : true coefficients by name, others are 0
    covariance : for each grouping factor (or the text of the term where a factor has several), and for
        ``"residual"``: a variance; variances; a matrix; or, for structures, a mapping from their parameters. Numbers
        here and in `beta` may be expressions of the cell's factors, ``"icc"`` or ``"1 - icc"``. Default of the
        residual: a variance of 1.
    skew, tails : g and h of Tukey's g-and-h distribution of random effects and residuals that are not normal, by the
        names in `covariance`; covariances stay. g = 0.5 has skewness 1.75; h = 0.1 kurtosis 5.5 (t with 6.4 degrees of
        freedom), h = 0.15 kurtosis 10 (t with 4.8)
    lost : function ``f(key, y, data, **factors)`` in JAX that says which rows (n,) are lost, such as
        `Dropout`

    Notes
    -----
    Slopes that differ between groups are a term of this formula that estimators leave out, ``(arm | cluster)``; errors
    of different sizes a ``variance`` with its numbers, ``"ident(arm)"`` with ``covariance={"residual": ...}``.
    """

    formula: str
    beta: Mapping[str, Any]
    covariance: Mapping[str, Any]
    residual: Any = None
    variance: str | None = None
    weights: str | None = None
    offset: str | None = None
    relationship: Mapping[str, Any] | None = None
    structures: Mapping[str, type[Covariance]] | None = None
    lost: Callable[..., Any] | None = None
    skew: Mapping[str, Any] | None = None
    tails: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("beta", "covariance", "skew", "tails"):
            if getattr(self, name) is not None:
                check_mapping(name, getattr(self, name), "{'arm': 0.5}")
        if self.lost is not None:
            check_function("lost", self.lost)

    def drawer(
        self, data: dict[str, Any], factors: Mapping[str, Any], response: str
    ) -> Callable[[Array, int], Drawn]:  # fmt: skip
        """A function of keys (b,) that draws responses."""
        model, mean, blocks, _, shapes = self.truth(data, factors, response)

        def draw(keys: Array, count: int) -> Drawn:
            y = draw_rows(model, mean, blocks, keys, shapes)
            return Drawn({response: y if lost is None else np.where(np.asarray(lost(keys, y)), np.nan, y)})

        lost = None if self.lost is None else _lost(self.lost, data, accepted(self.lost, factors))
        return draw

    def mentions(self, factors: Sequence[str]) -> set[str]:
        """Which of the factors it depends on."""
        lost: Any = None
        if self.lost is not None:
            known = dict.fromkeys(factors)
            lost = self.lost.numbers if isinstance(self.lost, Dropout) else list(accepted(self.lost, known))
        return named_in([self.beta, self.covariance, self.skew, self.tails, lost])

    def truth(
        self, data: dict[str, Any], factors: Mapping[str, Any], response: str
    ) -> Truth:  # fmt: skip
        """The model on a design, at its parameters."""
        rows = len(next(iter(data.values())))
        here = {**data, response: stand_in(rows)}
        residual = self.residual
        if residual is None and self.variance is None and "|" not in self.formula:
            residual = "iid()"
        frame, model = model_of(
            self.formula, here, self.weights, self.offset, residual, self.variance, self.relationship, self.structures
        )
        if len(frame.rows) != rows:
            raise DataError("design: has missing values in columns that the generating model uses")
        for name in self.beta:
            if name not in frame.coef_names:
                raise DataError(f"beta: found {name!r}, expected coefficients of {', '.join(frame.coef_names)}")
        coef = [resolved(self.beta.get(name, 0.0), factors, f"beta[{name!r}]") for name in frame.coef_names]
        keys, used = _part_names(frame), set()
        blocks = []
        with float64():
            for names, part, places in zip(keys, (*model.random, model.residual), model.coords, strict=True):
                given = next((name for name in names if name in self.covariance), None)
                used.add(given)
                value = 1.0 if given is None and names == ("residual",) and part.structure.size(part.dim) else None
                value = value if given is None else _numbers(self.covariance[given], factors, given)
                bound = _bound(part.structure, part.dim, value, names)
                blocks.append(_checked(np.asarray(block_at(bound, part.dim, places)), names))
        if unknown := [name for name in self.covariance if name not in used]:
            listed = ", ".join(repr(names[0]) for names in keys)
            raise DataError(f"covariance: found {unknown[0]!r}, expected terms of the model: {listed}")
        mean = linear_predictor(model.X, np.array(coef), model.offset)
        shapes = _shapes(keys, self.skew or {}, self.tails or {}, factors)
        return Truth(model, mean, Blocks(tuple(blocks[:-1]), blocks[-1]), frame.coef_names, shapes)


@made
@dataclass(frozen=True)
class Dropout:
    """Subjects who leave for good, for `MixedModel.lost`, before any visit after the first.

    Parameters
    ----------
    hazard : the probability at each visit, or an expression of the cell's factors;  subject, time : columns of the
        design; visits are in the order of numbers or of an ordered factor
    slope, center : the log odds of leaving change by `slope` for each unit by which the response at the visit before
        is above `center`: missing at random, as what it depends on has been seen. 0 is completely at random
    """

    hazard: float | str
    subject: str = "subject"
    time: str = "time"
    slope: float | str = 0.0
    center: float | str = 0.0

    @property
    def numbers(self) -> list[Any]:
        """What may be expressions."""
        return [self.hazard, self.slope, self.center]

    def __call__(self, key: Array, y: Array, data: Mapping[str, Any], **factors: Any) -> Array:
        """Which rows (n,) come after their subject has left."""
        hazard = resolved(self.hazard, factors, "hazard")
        if not 0.0 <= hazard <= 1.0:
            raise DataError(f"hazard: found {hazard:g}, expected a probability")
        if lacking := [name for name in (self.subject, self.time) if name not in data]:
            raise DataError(f"lost: Dropout: the design has no column {lacking[0]!r}; {nearest(lacking[0], data)}")
        subject, visit = (read_column(name, data[name]).as_factor() for name in (self.subject, self.time))
        visit = in_order(visit, "lost: Dropout")
        slope, center = (resolved(v, factors, n) for v, n in ((self.slope, "slope"), (self.center, "center")))
        size = len(subject.levels), len(visit.levels)
        chance: Any = hazard
        if slope:
            before = jnp.full(size, center).at[subject.values, visit.values].set(y)
            odds = np.log(hazard) - np.log1p(-hazard) + slope * (jnp.roll(before, 1, 1) - center)
            chance = jax.nn.sigmoid(odds)
        stays = jax.random.uniform(key, size, float) >= chance
        return ~jnp.cumprod(stays.at[:, 0].set(True), 1).astype(bool)[subject.values, visit.values]


def stand_in(rows: int) -> np.ndarray:
    """A response that varies, to build models with."""
    return np.random.default_rng(rows).standard_normal(rows)


def _shapes(
    keys: list[tuple[str, ...]], skew: Mapping[str, Any], tails: Mapping[str, Any], factors: Mapping[str, Any]
) -> tuple[Shape | None, ...]:  # fmt: skip
    """Of each part; nothing where all are normal."""
    known = {name for names in keys for name in names}
    for what, given in (("skew", skew), ("tails", tails)):
        if unknown := [name for name in given if name not in known]:
            listed = ", ".join(repr(names[0]) for names in keys)
            raise DataError(f"{what}: found {unknown[0]!r}, expected terms of the model: {listed}")
    out = []
    for names in keys:
        g, h = (next((resolved(given[n], factors, f"{what}[{n!r}]") for n in names if n in given), 0.0)
                for what, given in (("skew", skew), ("tails", tails)))  # fmt: skip
        if not (abs(g) <= MOST_SKEW and 0.0 <= h < MOST_TAILS):
            raise DataError(f"skew, tails: expected |g| up to {MOST_SKEW:g} and h from 0 to below {MOST_TAILS:g} "
                            f"(where there is a kurtosis), found {g:g} and {h:g} for {names[0]!r}")  # fmt: skip
        out.append(None if g == 0.0 and h == 0.0 else Shape.of(g, h))
    return tuple(out) if any(one is not None for one in out) else ()


def _lost(
    function: Callable[..., Any], data: dict[str, Any], chosen: Mapping[str, Any]
) -> Callable[[Array, np.ndarray], Array]:  # fmt: skip
    data = data if isinstance(function, Dropout) else arrays(data)

    def one(key: Array, y: Array) -> Array:
        return function(jax.random.fold_in(key, LOST), y, data, **chosen)

    return jax.jit(jax.vmap(one))


def _part_names(frame: ModelFrame) -> list[tuple[str, ...]]:
    """What each random part may be called in `covariance`: its factor, if no other has it, or its text."""
    labels = [getattr(part, "group_label", getattr(part, "group", "")) for part in frame.parts]
    texts = [part.text for part in frame.parts]
    own = [(a, b) if labels.count(a) == 1 else (b,) for a, b in zip(labels, texts, strict=True)]
    return [*own, ("residual",)]


def _numbers(value: Any, factors: Mapping[str, Any], what: str) -> Any:
    """Numbers, arrays or a mapping to these, expressions evaluated."""
    if isinstance(value, Mapping):
        return {name: _numbers(entry, factors, f"{what}.{name}") for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return np.array([_numbers(entry, factors, what) for entry in value], float)
    if isinstance(value, np.ndarray):
        return value.astype(float)
    return resolved(value, factors, f"covariance[{what!r}]")


def _bound(structure: Covariance, dim: Any, value: Any, names: tuple[str, ...]) -> Covariance:
    """A structure at its values."""
    what = f"covariance[{names[0]!r}]"
    free = structure.free
    if value is None:
        if structure.size(dim):
            raise DataError(f"{what}: not given; {_expected(structure)}")
        return structure.from_public(jnp.zeros(0), dim)
    if not isinstance(value, Mapping):
        if len(free) != 1 or structure.children:
            raise DataError(f"{what}: found numbers; {_expected(structure)}")
        value = {free[0].name: value}
    if structure.children or set(value) != {p.name for p in free}:
        raise DataError(f"{what}: found values for {', '.join(value)}; {_expected(structure)}")
    known = {p.name: np.asarray(p.full(getattr(structure, p.name), dim)) for p in structure.fields if p not in free}
    for p in free:
        v = np.asarray(value[p.name], float)
        try:
            v = np.diag(np.broadcast_to(v, (dim,))) if p.is_matrix and v.ndim < 2 else np.broadcast_to(v, p.shape(dim))
            p.check(v, dim)
        except ValueError as error:
            raise DataError(f"{what}: {p.name}: {error}") from None
        known[p.name] = v
    return structure.bind(known)


def _expected(structure: Covariance) -> str:
    if structure.children:
        return "write its numbers into the formula, such as ar1(week | g, variance=2, correlation=0.5)"
    names = [p.name for p in structure.free]
    return f"expected values for {', '.join(names) or 'nothing, all are in the formula'}"


def _checked(block: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """A block that is a covariance matrix."""
    if problem := not_semidefinite(block):
        raise DataError(f"covariance[{names[0]!r}]: these values do not make a positive semidefinite matrix: {problem}")
    return block
