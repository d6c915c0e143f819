"""The finite-sample test of one variance: the exact law of its (restricted) likelihood ratio by simulation.

With V = sigma^2 (V_0 + lambda Z A Z') and E a root of Z A Z', let mu_s be the positive eigenvalues of ``E'P_0 E`` and
xi_s those of ``E'V_0^-1 E``, ``P_0 = V_0^-1 - V_0^-1 X (X'V_0^-1 X)^-1 X'V_0^-1``; w_s independent standard normal, and
c chi-squared with ``n - p - #mu`` degrees of freedom. Then (Crainiceanu & Ruppert 2004, JRSSB 66:165)::

    rss(lambda) = sum_s w_s^2 / (1 + lambda mu_s) + c
    RLRT = sup_lambda (n - p) log(rss(0) / rss(lambda)) - sum_s log(1 + lambda mu_s)
    LRT  = sup_lambda       n log(rss(0) / rss(lambda)) - sum_s log(1 + lambda xi_s)

It does not depend on any parameter when the tested variance is the only one besides sigma^2. Others are held at their
estimates without the tested variance, relative to sigma^2, an approximation in the manner of Greven, Crainiceanu,
Kuechenhoff & Peters (2008), who take the other effects themselves as known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...arguments import Seed, door
from ...batch.refitting import as_batch, refit_batch
from ...batch.rows import is_sparse
from ...batch.statistics import SufficientStatistics
from ...errors import DataError
from ...estimates.fitted import FitBase
from ...fitting.estimate import blocks_at, estimate
from ...fitting.newton import Status
from ...fitting.objective import Spec, criterion_at
from ...frames.columns import make_frame
from ...frames.tables import Shown, Table, format_p
from ...likelihood.engines import Blocks
from ...likelihood.engines.orthogonal import group_sum
from ...likelihood.model import Model
from ...likelihood.parts import Term
from ...likelihood.prepared import prepare, weighted
from ...linalg import psd_cholesky
from ...runtime.precision import float64
from ...runtime.programs import compiled
from ...runtime.sizes import check_draws
from ...simulation.simulate import replicate_keys
from ...tolerances import POSITIVE
from .resampling import cleaned

GRID = 200  # values of log lambda
REACH = 1e5  # lambda mu from the inverse of this to this
NEWTON = 4  # steps from the best of the grid
NUMBERS = 4e6  # drawn at a time
MAX_EFFECTS = 5000
MAX_NUMBERS = 2e8  # in a dense design of the effects

Solve = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False, repr=False)
class ExactTest(Shown):
    """Test of one variance against its simulated finite-sample law.

    Attributes
    ----------
    statistic : likelihood ratio;  p : ``(1 + #{replicates >= statistic}) / (n + 1)``; of many responses (b,) each
    replicates : (n,) draws from its law when the variance is zero;  term, method : what was tested, "REML" or "ML"
    exact : whether the tested variance is the only one besides the residual's
    kind : library of data frames
    status : (b,) of the fits of many responses, `jaxlmm.Status`
    """

    statistic: Any
    p: Any
    replicates: np.ndarray
    term: str
    method: str
    exact: bool
    kind: str
    status: np.ndarray | None = None

    @property
    def zero(self) -> float:
        """Probability that the variance is estimated as zero when it is."""
        return float(np.mean(self.replicates == 0.0))

    def frame(self) -> Any:
        """One row, or one a response: term, method, statistic, p_value, draws, zero (their share of zeros)."""
        columns: dict[str, Any] = {"term": self.term, "method": self.method, "statistic": self.statistic}
        columns |= {"p_value": self.p, "draws": len(self.replicates), "zero": self.zero}
        if self.status is not None:
            columns |= {"response": np.arange(len(self.p)), "status": [Status(s).name.lower() for s in self.status]}
        size = np.size(self.p)
        return make_frame(self.kind, {name: [v] * size if np.ndim(v) == 0 else v for name, v in columns.items()})

    def table(self) -> Table:
        """The test with its law."""
        name = "RLRT" if self.method == "REML" else "LRT"
        law = "finite-sample law" if self.exact else "finite-sample law given the other covariances"
        note = f"{law}, {len(self.replicates)} draws, {self.zero:.3f} of them zero"
        if self.status is None:
            rows = [(self.term, f"{self.statistic:.4f}", format_p(self.p))]
            return Table("Test of a variance of zero:", ("", name, "p value"), tuple(rows), note=note)
        first = np.argsort(np.where(np.isnan(self.p), np.inf, self.p), kind="stable")[:10]
        rows = [(str(i), f"{self.statistic[i]:.4f}", format_p(self.p[i])) for i in first]
        title = f"Tests of a variance of zero, {self.term} in {len(self.p)} responses:"
        return Table(title, ("", name, "p value"), tuple(rows), note=note)


@door
def rlrt(fit: FitBase, term: str | int | None = None, n: int = 10_000, seed: Seed = 0, y: Any = None) -> ExactTest:
    """Test that the variance of one random term is zero, with the finite-sample law of the likelihood ratio.

    Restricted for REML fits, the ordinary one for ML fits. Exact for a single variance besides that of the residuals,
    where the mixture ``0.5 chi2(0) + 0.5 chi2(1)`` is too large; see this module for several. (Crainiceanu & Ruppert
    2004; Scheipl, Greven & Kuechenhoff 2008.)

    Parameters
    ----------
    fit : with the variance
    term : random term as it stands in the formula, ``"(1 | g)"``, or its position; needed when there are several
    n, seed : draws; draw r depends on the seed and r alone
    y : (b, nobs) responses to test instead, an array or a sparse matrix of SciPy; all share one law

    Raises
    ------
    DataError
        For a term with more than one parameter, and where the scale of the residuals is fixed; many responses of a
        model with other terms or a residual structure, whose estimates the law depends on.
    """
    check_draws("n", n, 3)
    t = _position(fit, term)
    model = fit.model
    part: Any = model.random[t]
    check_tested(model, part, fit.frame.parts[t].text)
    others = [other for i, other in enumerate(model.random) if i != t]
    if y is not None and (others or not model.residual.is_iid):
        raise DataError("y: many responses have one law where the tested variance is alone beside the residual's")
    with float64():
        null = Model(model.y, model.X, others, model.residual, weights=model.weights, offset=model.offset)
        if y is not None:
            return _of_many(fit, t, null, y, law_of(model, part, fit.method, n, seed))
        loglik, solve = _without(null, fit.method)
        statistic = float(cleaned(2.0 * (fit.loglik - loglik), loglik))
        replicates = law_of(model, part, fit.method, n, seed, solve)
    p = np.nan if np.isnan(statistic) else (1.0 + np.sum(replicates >= statistic)) / (n + 1.0)
    exact = not others and model.residual.is_iid
    return ExactTest(statistic, float(p), replicates, fit.frame.parts[t].text, fit.method, exact, fit.frame.kind)


def _of_many(fit: FitBase, t: int, null: Model, y: Any, law: np.ndarray) -> ExactTest:
    """Tests of responses y (b, n) that share the draws of a law."""
    if not is_sparse(y):
        y = as_batch("y", y, len(null.y), one=True)
    small, large = (
        SufficientStatistics(model).fit(y, fit.method, progress=False)
        if is_sparse(y)
        else refit_batch(model, y, fit.method, progress=False)
        for model in (null, fit.model)
    )
    good = small.converged & large.converged
    statistic = np.where(good, cleaned(2.0 * (large.loglik - small.loglik), small.loglik), np.nan)
    above = len(law) - np.searchsorted(np.sort(law), statistic, side="left")
    p = np.where(good, (1.0 + above) / (len(law) + 1.0), np.nan)
    status = np.where(large.converged, small.status, large.status)
    return ExactTest(statistic, p, law, fit.frame.parts[t].text, fit.method, True, fit.frame.kind, status)


def _position(fit: FitBase, term: str | int | None) -> int:
    """Position of the term that is tested."""
    texts = [part.text for part in fit.frame.parts]
    if term is None and len(texts) == 1:
        return 0
    if isinstance(term, int) and not isinstance(term, bool) and 0 <= term < len(texts):
        return term
    squeezed = [text.replace(" ", "") for text in texts]
    if isinstance(term, str) and squeezed.count(term.replace(" ", "")) == 1:
        return squeezed.index(term.replace(" ", ""))
    raise DataError(f"term: found {term!r}, expected one of {', '.join(texts)}, or its position")


def check_tested(model: Model, part: Any, text: str) -> None:
    """Refuse what is not one variance, times a matrix that is known."""
    single = isinstance(part, Term) and part.structure.size(part.dim) == 1
    if not single or not part.structure.kinds(part.dim)[0].has_scale:
        raise DataError(
            f"rlrt: {text} is not a term with one variance, such as (1 | g) or (0 + x | g); test it by "
            "jaxlmm.compare(small, large, method='bootstrap')"
        )
    if any(one.structure.has_fixed_scale for one in (*model.random, model.residual)):
        raise DataError("rlrt: a variance is fixed, and the law is that of models with a free scale")
    effects, alone = part.levels * part.dim, len(model.random) == 1 and model.residual.is_iid
    if effects > MAX_EFFECTS or (not alone and effects * len(model.y) > MAX_NUMBERS):
        raise DataError(
            f"rlrt: the {effects} random effects of {text} for {len(model.y)} rows are too many for dense matrices; "
            "with so many the asymptotic 0.5 chi2(0) + 0.5 chi2(1) of jaxlmm.compare is good"
        )


def law_of(model: Model, part: Any, method: str, n: int, seed: Seed, solve: Solve | None = None) -> np.ndarray:
    """Draws (n,) from the law of the likelihood ratio of a term; `solve` with the covariance that the others make."""
    with float64():
        mu, xi = _spectra(weighted(model, model.X), weighted(model, part.Z), part, solve)
        size, p = model.X.shape
        nu = size - (p if method == "REML" else 0)
        return draw(mu, mu if method == "REML" else xi, nu, size - p - len(mu), n, seed)


def _without(null: Model, method: str) -> tuple[float, Solve | None]:
    """Log-likelihood without the tested variance, and ``B -> V_0^-1 B`` for weighted rows, None where V_0 = I."""
    if not null.random and null.residual.is_iid:
        spec, one = Spec.of(null, method), jnp.ones((1, 1))
        return -0.5 * float(criterion_at(spec, prepare(null), Blocks((), one))[0]), None
    found = estimate(null, method)
    statistics, C = prepare(null, compact=False).statistics, blocks_at(null, found)
    loglik = found.loglik if found.status.is_fitted else np.nan
    return loglik, lambda B: np.asarray(_solve(statistics, C, B))


@compiled()
def _solve(statistics: Any, C: Blocks, B: Array) -> Array:
    return statistics.solve(Blocks(tuple(map(jnp.asarray, C.random)), jnp.asarray(C.residual)), B)


def _spectra(X: np.ndarray, Z: np.ndarray, term: Term, solve: Solve | None) -> tuple[np.ndarray, np.ndarray]:
    """Positive eigenvalues of ``E'P_0 E`` and of ``E'V_0^-1 E``, relative to the largest of all.

    ``E E' = Z (A (x) B) Z'``, B the covariance of the effects for a variance of one.
    """
    B = term.structure.from_natural(jnp.ones(1), term.dim).matrix(np.arange(term.dim, dtype=np.int32))
    Z, m, k = Z @ psd_cholesky(np.asarray(B)), term.levels, term.levels * term.dim
    VX = X if solve is None else solve(X)
    cross = group_sum(Z[:, :, None] * VX[:, None, :], term.group, m, np).reshape(k, -1)
    if solve is None:
        blocks = group_sum(Z[:, :, None] * Z[:, None, :], term.group, m, np)
        whole = np.einsum("gab,gh->gahb", blocks, np.eye(m)).reshape(k, k)
    else:
        E = (np.eye(m)[term.group][:, :, None] * Z[:, None, :]).reshape(len(Z), k)
        whole = E.T @ solve(E)
    if term.relationship is not None:
        root = np.kron(psd_cholesky(term.relationship), np.eye(term.dim))
        whole, cross = root.T @ whole @ root, root.T @ cross
    inner = whole - cross @ np.linalg.solve(X.T @ VX, cross.T)
    mu, xi = np.linalg.eigvalsh(inner), np.linalg.eigvalsh(whole)
    mu, xi = mu / xi[-1], xi / xi[-1]
    return mu[mu > POSITIVE], xi[xi > POSITIVE]


def draw(mu: np.ndarray, of_logdet: np.ndarray, nu: int, rest: int, n: int, seed: int) -> np.ndarray:
    """Draws (n,) of the likelihood ratio of one variance under the hypothesis that it is zero.

    Parameters
    ----------
    mu : (k,) positive eigenvalues, of which the residual sum of squares depends
    of_logdet : those in log|V|, mu itself for REML
    nu : multiplies the logarithm, n - p for REML, n for ML
    rest : degrees of freedom of what does not depend on the variance
    n, seed : draw r depends on the seed and r alone
    """
    from scipy.special import gammaincinv

    grid = np.geomspace(1.0 / (REACH * mu[-1]), REACH / mu[0], GRID) if len(mu) else np.zeros(0)
    size = max(1, min(n, int(NUMBERS // max(len(mu), GRID))))
    out = np.zeros(n)
    for begin in range(0, n if len(mu) else 0, size):
        rows = np.arange(begin, min(begin + size, n))
        keys = replicate_keys(seed, np.resize(rows, size))
        square, uniform = map(np.asarray, _normals(keys, len(mu)))
        c = 2.0 * gammaincinv(0.5 * rest, uniform) if rest > 0 else np.zeros(size)
        out[rows] = np.asarray(_supremum(square, c, mu, of_logdet, nu, grid))[: len(rows)]
    return out


@compiled("k")
def _normals(keys: Array, k: int) -> tuple[Array, Array]:
    """Squares of k normals, and a uniform number, for each key."""
    square = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), (k,), jnp.float64) ** 2)(keys)
    return square, jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), (), jnp.float64))(keys)


@compiled()
def _supremum(square: Array, c: Array, mu: Array, of_logdet: Array, nu: Array, grid: Array) -> Array:
    """Largest value over lambda of the log ratio for squares (n, k) and c (n,): the best of a grid, then Newton."""
    whole = jnp.sum(square, 1) + c

    def ratio(t: Array, square: Array, c: Array, whole: Array) -> Array:
        rss = jnp.sum(square / (1.0 + jnp.exp(t) * mu)) + c
        return nu * jnp.log(whole / rss) - jnp.sum(jnp.log1p(jnp.exp(t) * of_logdet))

    shrunk = square @ (1.0 / (1.0 + grid[None, :] * mu[:, None])) + c[:, None]
    values = nu * jnp.log(whole[:, None] / shrunk) - jnp.sum(jnp.log1p(grid * of_logdet[:, None]), 0)
    start = jnp.log(grid)[jnp.argmax(values, 1)]
    width = jnp.log(grid[1] / grid[0])

    def refined(t: Array, *data: Array) -> Array:
        first, second = jax.grad(ratio), jax.grad(jax.grad(ratio))

        def step(_: int, now: Array) -> Array:
            slope, bend = first(now, *data), second(now, *data)
            move = jnp.where(bend < 0, -slope / jnp.where(bend < 0, bend, 1.0), jnp.sign(slope) * 0.5 * width)
            return jnp.clip(now + move, t - width, t + width)

        return ratio(jax.lax.fori_loop(0, NEWTON, step, t), *data)

    best = jnp.maximum(jnp.max(values, 1), jax.vmap(refined)(start, square, c, whole))
    return jnp.maximum(best, 0.0)
