"""Cluster-robust covariances of the coefficients: CR0 to CR3, with degrees of freedom (methods named at `sandwich`).

In whitened coordinates (``M = Phi = R R'``, ``a_g = R'X_g'V_g^-1 X_g R`` sum to the identity) every kind is a sum of
outer products of adjusted scores ``u_g = F_g e_g``, and what its degrees of freedom need of a cluster are two p x p
matrices, ``F_g V_g F_g'`` and ``F_g X_g R``. Most kinds need the Gram of the clusters only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import check_choice
from ...covariance.kinds import module_of
from ...distributions import t_tail
from ...errors import DataError, require_accurate
from ...estimates.fitted import FitBase
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_column, format_df, format_p, format_t
from ...linalg import eigh
from ...runtime.precision import float64
from ...runtime.programs import compiled
from ...tolerances import DETERMINED, NO_LENGTH
from ..small_sample.satterthwaite import pooled
from .partition import Partition, Rowwise, robust_clusters

KINDS = ("CR0", "CR1", "CR1p", "CR1S", "CR2", "CR2-mmrm", "CR3")
LARGEST = 5000  # rows of a cluster whose V_g CR2 decomposes


class Adjusted(NamedTuple):
    """Adjusted scores in whitened coordinates; NumPy or JAX, leading axes of data sets by `jax.vmap`.

    Attributes
    ----------
    root : (p, p) R with ``Phi = R R'``
    u : (m, p) adjusted scores of the clusters;  own : (m, p, p) F V F';  share : (m, p, p) F X R
    """

    root: Any
    u: Any
    own: Any
    share: Any


def adjusted(grams: Array, kind: str) -> Adjusted:
    """Adjusted scores from the Grams of the clusters, a pure function; every kind but "CR2".

    Parameters
    ----------
    grams : (m, p+1, p+1) [X y]'V^-1 [X y] of each cluster; clusters, and columns of X, that are not there are zeros
    kind : with F = E R'X_g'V_g^-1, E = 1 for "CR0" and its multiples, ``(1 - a_g)^-1/2`` for "CR2-mmrm" (Bell &
        McCaffrey 2002, in p x p form), ``(1 - a_g)^-1`` for "CR3", the jackknife at fixed theta
    """
    p = grams.shape[-1] - 1
    A, total = grams[:, :p, :p], jnp.sum(grams, 0)
    bread = total[:p, :p] + jnp.diag(jnp.where(jnp.diagonal(total)[:p] == 0, 1.0, 0.0))
    root = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(bread), jnp.eye(p), lower=True).T
    scores = grams[:, :p, p] - A @ (root @ (root.T @ total[:p, p]))
    a, t = root.T @ A @ root, scores @ root
    power = {"CR2-mmrm": -0.5, "CR3": -1.0}.get(kind)
    if power is None:
        return Adjusted(root, t, a, a)
    w, Q = jax.vmap(eigh)(jnp.eye(p) - a)
    inside = w > DETERMINED
    E = (Q * jnp.where(inside, jnp.where(inside, w, 1.0) ** power, 0.0)[:, None, :]) @ jnp.swapaxes(Q, -1, -2)
    return Adjusted(root, jnp.einsum("mij,mj->mi", E, t), E @ a @ E, E @ a)


def adjusted_by_root(W: np.ndarray, X: np.ndarray, e: np.ndarray, present: np.ndarray, root: np.ndarray) -> Adjusted:
    """Adjusted scores of "CR2" as Pustejovsky & Tipton (2018) define it, ``F = R'X'W K`` (NumPy).

    ``K (V - X Phi X') K' = V`` with ``K = D'(D (V - X Phi X') D')^-1/2 D``, ``V = D'D``.

    Parameters
    ----------
    W : (m, T, T) blocks of V^-1;  X : (m, T, p);  e : (m, T);  present : (m, T);  zeros where there is no row
    """
    V = np.linalg.inv(W + _diagonal(~present))
    lower = np.linalg.cholesky(V)
    upper, XR = np.swapaxes(lower, 1, 2), X @ root
    w, Q = np.linalg.eigh(upper @ (V - XR @ np.swapaxes(XR, 1, 2)) @ lower)
    inside = w > DETERMINED**1.5 * w[:, -1:]
    Q = lower @ Q
    K = (Q * np.where(inside, np.where(inside, w, 1.0) ** -0.5, 0.0)[:, None, :]) @ np.swapaxes(Q, 1, 2)
    F = np.swapaxes(XR, 1, 2) @ W @ K
    return Adjusted(root, np.einsum("mpt,mt->mp", F, e), F @ V @ np.swapaxes(F, 1, 2), F @ XR)


def _diagonal(x: np.ndarray) -> np.ndarray:
    return x[:, :, None] * np.eye(x.shape[1])


def covariance(at: Adjusted, factor: Any = 1.0) -> Any:
    """Robust covariance (p, p) of the coefficients."""
    return factor * (at.root @ (at.u.T @ at.u) @ at.root.T)


def cr_vcov(grams: Array, kind: str, n: Any = None) -> Array:
    """Robust covariance (p, p) from the Grams of the clusters (m, p+1, p+1), to be mapped over data sets.

    As `adjusted`, times the factor of the kind for the clusters and columns that are there; `n` rows for "CR1S".
    """
    there = jnp.diagonal(grams, axis1=1, axis2=2)[:, :-1] != 0
    m, p = (jnp.sum(jnp.any(there, axis)) for axis in (1, 0))
    return covariance(adjusted(grams, kind), factor_of(kind, m, n, p))


def factor_of(kind: str, m: Any, n: Any, p: Any) -> Any:
    """What the covariance of CR0 is multiplied by for CR1, CR1p and CR1S; m clusters, n rows, p coefficients."""
    if kind == "CR1":
        return m / (m - 1)
    if kind == "CR1p":
        return m / (m - p)
    return m * (n - 1) / ((m - 1) * (n - p)) if kind == "CR1S" else 1.0


def row_df(at: Adjusted, L: Any) -> Any:
    """Satterthwaite degrees of freedom (r,) of the rows of L (r, p) (Bell & McCaffrey 2002).

    ``(tr P)^2 / tr(P P)`` with P (m, m) the covariance of the clusters' parts of the estimate, where V is as estimated.
    """
    xp = module_of(at.u)
    c = L @ at.root
    q = xp.einsum("rp,mpq,rq->rm", c, at.own, c)
    h = xp.einsum("rp,mpq->rmq", c, at.share)
    size, H = xp.sum(h**2, -1), xp.swapaxes(h, 1, 2) @ h
    square = xp.sum(q**2 - 2.0 * q * size, -1) + xp.sum(H**2, (1, 2))
    return xp.sum(q - size, -1) ** 2 / xp.where(square > 0, square, xp.nan)


def hotelling_df(at: Adjusted, L: np.ndarray) -> float:
    """Degrees of freedom of the Wishart matrix that L V_robust L' is likened to (Pustejovsky & Tipton 2018, "HTZ")."""
    c = L @ at.root
    mean = np.einsum("rp,mpq,sq->mrs", c, at.own, c)
    h = np.einsum("rp,mpq->mrq", c, at.share)
    omega = np.sum(mean, 0) - np.einsum("mrq,msq->rs", h, h)
    w, Q = np.linalg.eigh(omega)
    turn = (Q / np.sqrt(w)).T
    mean, h = turn @ mean @ turn.T, turn @ h
    total = np.einsum("mrr,mss->", mean, mean) + np.sum(mean**2)  # of the clusters themselves
    G, q = h @ np.swapaxes(h, 1, 2), np.einsum("mrr->mr", mean)
    total -= 2.0 * np.sum(np.sum(q, 1) * np.einsum("mrr->m", G)) + 2.0 * np.sum(mean * G)
    K = np.einsum("mra,msb->rsab", h, h)
    total += np.sum(K**2) + np.einsum("rsab,rsba->", K, K)
    r = len(L)
    return float(r * (r + 1) / total)


@dataclass(frozen=True, eq=False, repr=False)
class Sandwich(Shown):
    """A robust covariance of the coefficients.

    Attributes
    ----------
    kind : its name;  label : in words;  clusters : their number
    vcov : (p, p);  coef, names : (p,)
    """

    kind: str
    clusters: int
    coef: np.ndarray
    vcov: np.ndarray
    at: Adjusted
    names: tuple[str, ...]
    frames: str  # library of data frames

    @property
    def label(self) -> str:
        """For the output."""
        return f"robust covariance {self.kind}, {self.clusters} clusters"

    @property
    def se(self) -> np.ndarray:
        """Standard errors (p,)."""
        return np.sqrt(np.diagonal(self.vcov))

    def df(self, L: np.ndarray) -> np.ndarray:
        """Satterthwaite degrees of freedom (r,) of the rows of L (r, p), see `row_df`."""
        return row_df(self.at, np.atleast_2d(np.asarray(L, float)))

    def frame(self) -> Any:
        """One row a coefficient: term, estimate, std_error, statistic, df, p_value."""
        return make_frame(self.frames, {"term": list(self.names), **self._columns()})

    def _columns(self) -> dict[str, np.ndarray]:
        df = self.df(np.eye(len(self.coef)))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = self.coef / self.se
        return {"estimate": self.coef, "std_error": self.se, "statistic": t, "df": df, "p_value": t_tail(t, df)}

    def table(self) -> Table:
        """Coefficients with robust standard errors."""
        estimate, se, t, df, p = self._columns().values()
        numbers = (format_column(estimate, 6), format_column(se), format_df(df), format_t(t))
        rows = tuple(zip(self.names, *numbers, map(format_p, p), strict=True))
        header = ("", "Estimate", "Std. Error", "df", "t value", "Pr(>|t|)")
        return Table("Fixed effects:", header, rows, note=f"Tests: {self.label}")

    def joint(self, L: np.ndarray, rhs: Any = 0.0, test: str = "satterthwaite") -> tuple[float, float, float]:
        """F, numerator and denominator degrees of freedom of ``L beta = rhs`` for L (r, p) of full row rank.

        ``test="satterthwaite"`` pools the degrees of freedom along the eigenvectors of L vcov L' (Fai & Cornelius
        1996, as mmrm); "HTZ" is the approximate Hotelling test of Pustejovsky & Tipton (2018), as clubSandwich.
        """
        L = np.atleast_2d(np.asarray(L, float))
        r = len(L)
        w, Q = np.linalg.eigh(np.nan_to_num(L @ self.vcov @ L.T))
        if not w[0] > NO_LENGTH * w[-1]:  # fewer clusters than rows of L, or no estimate
            return float("nan"), float(r), float("nan")
        F = float(np.sum((Q.T @ (L @ self.coef - rhs)) ** 2 / w) / r)
        if test == "satterthwaite":
            return F, float(r), float(pooled(self.df(Q.T @ L), r))
        if test != "HTZ":
            raise DataError(f"test: found {test!r}, expected 'satterthwaite' or 'HTZ'")
        eta = hotelling_df(self.at, L)
        return F * (eta - r + 1) / eta, float(r), eta - r + 1


def sandwich(fit: FitBase, kind: str = "CR2", cluster: Any = None) -> Sandwich:
    """Cluster-robust ("sandwich") covariance of the coefficients, with V as estimated for the working covariance.

    Parameters
    ----------
    fit : a fit, of any engine, structure and weights
    kind : str
        "CR0" (Liang & Zeger 1986; SAS EMPIRICAL), its multiples "CR1" by m / (m - 1), "CR1p" by m / (m - p) and "CR1S"
        by m (n - 1) / ((m - 1)(n - p)) for m clusters; "CR2", bias-reduced, as clubSandwich has it (Pustejovsky &
        Tipton 2018); "CR2-mmrm", the same with another root, as mmrm's Empirical-Bias-Reduced; "CR3", mmrm's
        Empirical-Jackknife. Both CR2 are unbiased where V is right, and are the same where V_g is proportional to
        the identity.
    cluster : column of the data, or labels (n,); default the rows that depend on each other

    Raises
    ------
    DataError
        For an unknown kind; where V is not block diagonal by `cluster`, or there are too few clusters.
    """
    check_choice("robust", kind, KINDS)
    clusters = robust_clusters(fit, cluster)
    n, p = fit.model.X.shape
    if kind == "CR1p" and clusters.size <= p:
        raise DataError(f"robust: 'CR1p' needs more clusters than the {p} coefficients, found {clusters.size}")
    rows = Rowwise(fit)
    with float64():
        at = jax.device_get(_adjusted(rows.grams(clusters), kind))
    if kind == "CR2":
        at = _rooted(rows, clusters, at.root)
    at = at._replace(root=np.linalg.solve(rows.R, at.root))
    vcov = covariance(at, factor_of(kind, clusters.size, n, p))
    return Sandwich(kind, clusters.size, fit.coef, vcov, at, fit.coef_names, fit.frame.kind)


_adjusted = compiled("kind")(adjusted)


def _rooted(rows: Rowwise, clusters: Partition, root: np.ndarray) -> Adjusted:
    """`adjusted_by_root` in the user's scale, on which it depends where there are weights."""
    if clusters.rows.shape[1] > LARGEST:
        raise DataError(
            f"robust: 'CR2' decomposes V of every cluster, sensible up to {LARGEST} rows, and the largest has "
            f"{clusters.rows.shape[1]}; use 'CR2-mmrm'"
        )
    w = np.ones(len(rows.e)) if rows.model.weights is None else np.sqrt(rows.model.weights)
    W = clusters.split(rows.solve(clusters.slots()) * w[:, None])
    W = W * clusters.split(w[:, None])[:, None, :, 0]
    X, e = clusters.split(rows.Q / w[:, None]), clusters.split((rows.e / w)[:, None])[..., 0]
    try:
        return adjusted_by_root(W, X, e, clusters.present, root)
    except np.linalg.LinAlgError:  # V is singular to rounding
        nan = np.full((clusters.size, *root.shape), np.nan)
        require_accurate(nan)
        return Adjusted(root, nan.sum(1), nan, nan)
