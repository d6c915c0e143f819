"""What each row, or group of rows, does to the estimates: Cook's distance and its relatives; theta moves too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import numbers_of
from ...batch.refitting import refit_batch
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.newton import Status
from ...fitting.objective import Spec, coordinates
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column
from ...linalg import quadratic
from ...runtime.precision import float64
from ...runtime.programs import compiled
from ..local import inverse, may_be_flat
from ..uncertain import uncertain
from .deletion import deletion
from .partition import Partition, Rowwise, labelled, require_converged

EXACT = ("flagged", "all", "none")
SHOWN = 10


@dataclass(frozen=True, eq=False, repr=False)
class Influence(Shown):
    """Influence of m rows or groups of rows: what changes when they, rows I, are left out.

    Attributes
    ----------
    by : "row" or the name of a column;  labels : (m,) rows of the data (positions), or levels
    cooks : (m,) ``(beta - beta_(I))'Phi^-1 (beta - beta_(I)) / p`` (SAS; lme4 has this times ``(m - p) / m``)
    cooks_theta : (m,) that of the covariance parameters: their change in the metric of the observed information, over k
    mdffits : (m,) as `cooks`, with the covariance of the coefficients without I
    covratio : (m,) determinant of the covariance of the coefficients without I, relative to that with all rows
    dfbeta : (m, p) ``beta - beta_(I)``;  dfbetas : (m, p) that over the standard errors without I
    change : (m, r) natural covariance parameters, as ``fit.parameters()``, with all rows minus without I;  parameters :
        their names (r,)
    leverage, leverage_conditional : (m,) derivatives of fitted in observed values, summed over I, at the estimate of
        theta: of the population mean, and of the mean with predicted random parts
    flagged : (m,) whether `cooks` or `cooks_theta` is above `threshold` to first order
    status : (m,) "first_order", or how the fit without I ended, a word of `jaxlmm.Status`; "rank_deficient" where
        X has not full rank without I, and nothing is known but leverage
    """

    by: str
    labels: np.ndarray
    coef_names: tuple[str, ...]
    parameters: tuple[str, ...]
    threshold: float
    cooks: np.ndarray
    cooks_theta: np.ndarray
    mdffits: np.ndarray
    covratio: np.ndarray
    dfbeta: np.ndarray
    dfbetas: np.ndarray
    change: np.ndarray
    leverage: np.ndarray
    leverage_conditional: np.ndarray
    flagged: np.ndarray
    status: tuple[str, ...]
    kind: str = "dict"

    def __len__(self) -> int:
        return len(self.labels)

    def frame(self) -> Any:
        """One row each: label, distances, leverage, dfbetas by coefficient, change of each covariance parameter."""
        names = ("cooks", "cooks_theta", "mdffits", "covratio", "leverage", "leverage_conditional")
        columns = {self.by: list(self.labels), **{name: getattr(self, name) for name in names}}
        columns |= {f"dfbetas({name})": x for name, x in zip(self.coef_names, self.dfbetas.T, strict=True)}
        columns |= {f"change({name})": x for name, x in zip(self.parameters, self.change.T, strict=True)}
        return make_frame(self.kind, {**columns, "flagged": self.flagged, "status": list(self.status)})

    def table(self) -> Table:
        """The largest by the distances."""
        size = np.nan_to_num(np.maximum(self.cooks, self.cooks_theta), nan=np.inf)
        order = np.argsort(-size, kind="stable")[:SHOWN]
        names = ("cooks", "cooks_theta", "mdffits", "covratio", "leverage")
        cells = [format_column(getattr(self, name)[order]) for name in names]
        columns = [[str(self.labels[i]) for i in order], *cells, [self.status[i] for i in order]]
        note = f"{int(np.sum(self.flagged))} of {len(self)} above the threshold of {self.threshold:.4g}"
        rows = tuple(zip(*columns, strict=True))
        return Table("Most influential:", (self.by, *names, "status"), rows, note=note)


def influence(
    fit: FitBase, by: Any = "row", theta: bool = True, exact: str = "flagged", threshold: float | None = None,
    parameters: tuple[str, ...] | None = None,
) -> Influence:  # fmt: skip
    """Influence of single rows or of groups of rows on coefficients and covariance parameters.

    Parameters
    ----------
    by : "row", a column of the data, or labels (n,)
    theta : let the covariance parameters move; with False they are kept and nothing is fitted again
    exact : "flagged" fits the model again, in a batch, without those above the threshold; "all" without each;
        "none" leaves all to first order, see `jaxlmm.inference.robust.deletion`
    threshold : of `cooks` and `cooks_theta`, default 4 / m for m rows or groups
    parameters : names of the natural covariance parameters

    Returns
    -------
    Influence
        With `frame`. To first order a covariance parameter on its boundary stays there.

    Raises
    ------
    DataError
        For unknown options, columns that are not there, groups that are too large, and a fit that did not converge.
    """
    if threshold is not None:
        number = numbers_of("threshold", threshold, "a number")
        if number.ndim:
            raise DataError(f"threshold: found {number.size} numbers, expected one")
        threshold = float(number)
    if exact not in EXACT:
        raise DataError(f"exact: found {exact!r}, expected 'flagged', 'all' or 'none'")
    require_converged(fit)
    row = isinstance(by, str) and by == "row"
    groups = Partition.of(np.arange(fit.nobs), fit.frame.rows) if row else labelled(fit, "by", by)
    if groups.size < 2:
        raise DataError("by: expected at least 2 groups of rows, found 1")
    rows, m, p = Rowwise(fit), groups.size, len(fit.coef)
    K = rows.prepared.basis.K
    with float64():
        natural, slopes = jax.device_get(_with_slopes(rows.spec, K, rows.x))
    observed = fit.estimate.information if theta else np.zeros((len(rows.x), len(rows.x)))
    spread = inverse(observed).W if theta else None
    found = deletion(rows, groups, spread)
    beta, after, moved = found.change, found.after, found.moved
    change = -moved @ slopes.T

    lost, limit = np.isnan(after).any((1, 2)), 4.0 / m if threshold is None else threshold
    status = np.where(lost, "rank_deficient", "first_order").astype(object)
    flagged = lost | (_size(beta, found.information) > limit) | (_size(moved, observed) > limit)
    chosen = {"flagged": flagged & ~lost, "all": ~lost, "none": np.zeros(m, bool)}[exact]
    again = np.flatnonzero(chosen & theta)
    if len(again):
        Y = np.where(groups.codes == again[:, None], np.nan, fit.model.y)
        own = refit_batch(fit.model, Y, fit.method, missing="drop", progress=False)
        status[again] = [Status(s).name.lower() for s in own.status]
        nan = np.where(own.converged & np.isfinite(own.coef).all(1), 1.0, np.nan)[:, None]
        beta[again] = nan * (fit.coef - own.coef) @ rows.R.T
        after[again] = _inverted(nan[:, :, None] * (rows.R @ own.vcov @ rows.R.T))
        with float64():
            x = np.stack([coordinates(rows.spec, rows.prepared, u, "solver") for u in own.theta])
            change[again] = nan * (natural - np.asarray(_each_reported(rows.spec, K, x)))
        moved[again] = nan * (x - rows.x)

    if may_be_flat(fit):  # changes of what the data do not identify are none
        change = np.where(uncertain(fit).identifies(slopes), change, np.nan)
    inverse_after = _inverted(after)
    with np.errstate(invalid="ignore"):
        covratio = np.linalg.det(found.information) * np.linalg.det(inverse_after)
    by_number = tuple(f"parameter{i + 1}" for i in range(len(natural)))
    root = np.linalg.inv(rows.R)
    dfbeta = beta @ root.T
    return Influence(
        by=by if isinstance(by, str) else "group",
        labels=groups.labels,
        coef_names=fit.coef_names,
        parameters=by_number if parameters is None else parameters,
        threshold=limit,
        cooks=_size(beta, found.information),
        cooks_theta=_size(moved, observed),
        mdffits=quadratic(beta[:, None], after)[:, 0] / max(p, 1),
        covratio=covratio,
        dfbeta=dfbeta,
        dfbetas=dfbeta / np.sqrt(quadratic(root, inverse_after)),
        change=change,
        leverage=found.leverage,
        leverage_conditional=found.conditional,
        flagged=flagged,
        status=tuple(status),
        kind=fit.frame.kind,
    )


def _size(change: np.ndarray, information: np.ndarray) -> np.ndarray:
    """Changes (m, k) in the metric of an information matrix (k, k), over k."""
    return quadratic(change, information) / max(len(information), 1)


def _inverted(A: np.ndarray) -> np.ndarray:
    """Inverses of matrices (m, p, p), NaN where there is one in them."""
    bad = np.isnan(A).any((1, 2))[:, None, None]
    return np.where(bad, np.nan, np.linalg.inv(np.where(bad, np.eye(A.shape[-1]), A)))


def _reported(spec: Spec, K: tuple[Any, ...], x: Array) -> Array:
    """Natural covariance parameters, those of ``fit.parameters()``, at coordinates of the solver."""
    values: list[Any] = [jnp.zeros(())]
    for structure, dim, s in spec.split(spec.in_basis(x, K)):
        values += [value for _, value in structure.from_solver(s, dim).named(dim)]
    return jnp.stack(values)[1:]


@compiled()
def _with_slopes(spec: Spec, K: tuple[Any, ...], x: Array) -> tuple[Array, Array]:
    return _reported(spec, K, x), jax.jacfwd(partial(_reported, spec, K))(x)


@compiled()
def _each_reported(spec: Spec, K: tuple[Any, ...], x: Array) -> Array:
    return jax.vmap(partial(_reported, spec, K))(x)
