"""Scores of the clusters, and the covariance of all parameters, beta and theta, that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.objective import coordinates
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column
from ...runtime.precision import float64
from ...tolerances import POSITIVE
from ..local import may_be_flat
from ..uncertain import Uncertain, uncertain
from .partition import Rowwise, dependent, require_converged, robust_clusters
from .sandwich import factor_of

ROBUST = (None, "CR0", "CR1")
SHOWN = 10  # clusters that are printed


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Shown):
    """Parts of the clusters in the gradient of the log-likelihood; they sum to zero at an optimum.

    Attributes
    ----------
    cluster : (m,) labels;  beta : (m, p);  theta : (m, k), in the coordinates of ``fit.theta``
    names : of the coefficients;  kind : library of data frames
    """

    cluster: np.ndarray
    beta: np.ndarray
    theta: np.ndarray
    names: tuple[str, ...]
    kind: str

    def _columns(self) -> dict[str, np.ndarray]:
        columns = dict(zip(self.names, self.beta.T, strict=True))
        return columns | {f"theta{j + 1}": x for j, x in enumerate(self.theta.T)}

    def frame(self) -> Any:
        """One row a cluster: its label, the score of each coefficient and of each entry of theta."""
        return make_frame(self.kind, {"cluster": list(self.cluster), **self._columns()})

    def table(self) -> Table:
        """The first clusters."""
        columns = self._columns()
        cells = [format_column(x[:SHOWN]) for x in columns.values()]
        rows = tuple(zip([str(c) for c in self.cluster[:SHOWN]], *cells, strict=True))
        left = len(self.cluster) - len(rows)
        note = f"and {left} more clusters" if left else ""
        return Table("Scores of the clusters:", ("", *columns), rows, note=note)


def scores(fit: FitBase, cluster: Any = None) -> Scores:
    """Parts of the clusters in the scores.

    Those of beta are ``X_g'V_g^-1 e_g``, those of theta::

        1/2 [ e_g'V_g^-1 V_i V_g^-1 e_g - tr V_g^-1 V_i + tr Phi X_g'V_g^-1 V_i V_g^-1 X_g ]

    The last term is there for REML only: every cluster's score of theta has mean zero. It is zero for entries of theta
    on the boundary (minus infinity).

    Parameters
    ----------
    cluster : see `jaxlmm.inference.robust.sandwich`

    Raises
    ------
    DataError
        Where V is not block diagonal by `cluster`, or its blocks are too large; for a fit that did not converge.
    """
    require_converged(fit)
    clusters = robust_clusters(fit, cluster)
    rows = Rowwise(fit)
    of_beta = clusters.sum(rows.Q * rows.solve(rows.e[:, None])) @ rows.R
    own = dependent(fit.model)
    slots, V = own.slots(), rows.covariances(own)
    XR = own.split(rows.Q @ np.linalg.cholesky(_phi(rows)))
    e = own.split(rows.e[:, None])
    K = e @ np.swapaxes(e, 1, 2)  # of which the mean is V for ML, and for REML with this term
    if rows.spec.reml:
        K = K + XR @ np.swapaxes(XR, 1, 2)
    gap = (V - K)[own.codes, own.slot]  # (n, T), the row of each row
    of_row = [0.5 * np.sum(slope * gap, 1) for slope in rows.slopes(slots)]
    of_x = np.stack([clusters.sum(x) for x in of_row], 1) if of_row else np.zeros((clusters.size, 0))
    of_theta = of_x @ _jacobian(rows, fit.theta)
    return Scores(clusters.labels, of_beta, of_theta, fit.coef_names, fit.frame.kind)


def vcov_full(fit: FitBase, robust: str | None = None, cluster: Any = None) -> np.ndarray:
    """Covariance (p + k, p + k) of beta and theta, NaN for entries of theta on the boundary.

    Parameters
    ----------
    robust : None for the inverse of the observed information of both; "CR0" for ``J^-1 (sum_g s_g s_g') J^-1`` with
        the same J, the covariance that holds where V is wrong (Huber 1967; White 1982), "CR1" that by m / (m - 1)
    cluster : see `jaxlmm.inference.robust.sandwich`

    Raises
    ------
    DataError
        For another kind, and as `scores`.
    """
    if robust not in ROBUST:
        raise DataError(f"robust: found {robust!r}, expected None, 'CR0' or 'CR1'")
    if cluster is not None and robust is None:
        raise DataError("cluster: only with robust=, 'CR0' or 'CR1'")
    require_converged(fit)
    rows, p = Rowwise(fit), len(fit.coef)
    J = _jacobian(rows, fit.theta)
    along = [rows.Q.T @ slope[:, 0] for slope in rows.slopes(rows.e[:, None])]
    cross = np.column_stack([np.zeros((p, 0)), *along])  # (p, k), k may be 0
    A = np.linalg.inv(_phi(rows))
    full = np.block([[A, -cross], [-cross.T, fit.estimate.information + cross.T @ np.linalg.solve(A, cross)]])
    T = np.zeros_like(full)
    T[:p, :p], T[p:, p:] = rows.R, J
    here = np.append(np.ones(p, bool), np.isfinite(fit.theta))
    keep = np.ix_(here, here)
    information = (T.T @ full @ T)[keep]
    known, B = here.copy(), np.eye(len(information))
    if may_be_flat(fit):
        free, known[p:] = _identified(uncertain(fit), J, here[p:])
        B = np.pad(free, ((p, 0), (p, 0)))
        B[:p, :p] = np.eye(p)
    inverse = B @ np.linalg.inv(B.T @ information @ B) @ B.T
    if robust is not None:
        s = scores(fit, cluster)
        both = np.column_stack([s.beta, s.theta])[:, here]
        m = len(both)
        inverse = factor_of(robust, m, fit.nobs, p) * inverse @ (both.T @ both) @ inverse
    out = np.full(full.shape, np.nan)
    out[keep] = inverse
    return np.where(known[:, None] & known, out, np.nan)


def _identified(at: Uncertain, J: np.ndarray, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions (k', r) of theta off its boundary that the data say something about, and which entries they identify.

    A generalised inverse of the information along these is the covariance of everything that is identified.
    """
    back = np.zeros_like(J)
    back[np.ix_(here, here)] = np.linalg.inv(J[np.ix_(here, here)])
    lost = (back @ at.lost)[here]
    size = np.linalg.norm(lost, axis=0)
    U, w, _ = np.linalg.svd(lost / np.where(size > 0, size, 1.0))
    return U[:, int(np.sum(w > POSITIVE)) :], at.identifies(back) & here


def _phi(rows: Rowwise) -> np.ndarray:
    """Covariance (p, p) of the coefficients of Q."""
    return np.linalg.inv(rows.Q.T @ rows.solve(rows.Q))


def _jacobian(rows: Rowwise, theta: np.ndarray) -> np.ndarray:
    """Derivative (k, k) of the solver's coordinates in theta."""
    with float64():
        return np.asarray(jax.jacfwd(lambda u: coordinates(rows.spec, rows.prepared, u, "solver"))(jnp.asarray(theta)))
