"""An independent optimiser of the restricted likelihood, dense and from many starts; a jaxlmm model is a bag of arrays.

The textbook definition (`oracle.loglik`) loses digits where data are hostile, so the search uses an equal form of it:
with K an orthonormal basis of the complement of X (rows times sqrt(w), V = sigma^2 H),

    log|H| + log|X'H^-1 X| = log|K'HK| + log|X'X|,   (y - X b)'H^-1 (y - X b) = y'K (K'HK)^-1 K'y.

The chart is a factor of each covariance matrix relative to sigma, V = sigma^2 (1/w + B B') with B linear in the
coordinates: zero variances are ordinary points, and sigma is profiled out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, minimize_scalar

import oracle

EPS = np.finfo(float).eps
LOG_2PI = np.log(2 * np.pi)


# ---------------------------------------------------------------------------- coordinates of a structure


def _lower(q):
    """Basis (k, q, q) of the lower triangular matrices, column by column."""
    columns, rows = np.triu_indices(q)
    return np.eye(q * q).reshape(q, q, q, q)[rows, columns]


def _diagonal(q):
    return np.eye(q)[:, :, None] * np.eye(q)[:, None, :]


def _identity(q):
    return np.eye(q)[None]


FACTORS = {"Unstructured": _lower, "Diagonal": _diagonal, "Identity": _identity}


def structure_of(term):
    return type(term.structure).__name__


def comparable_columns(Z, structure):
    """Columns of order one that span the same models: without units, and for a free matrix without correlation."""
    root = np.sqrt(len(Z))
    size = np.sqrt(np.mean(Z**2, 0))
    size = np.where(size > 0, size, 1.0)
    if structure == "Identity":
        return Z / size.max()
    if structure == "Diagonal":
        return Z / size
    U, s, _ = np.linalg.svd(Z / size, full_matrices=False)
    return U[:, s > 1e-13 * s.max()] * root


def factor_of(theta, structure, q):
    """The factor (q, q) of a term's covariance at its public coordinates (logarithms on the diagonal)."""
    basis = FACTORS[structure](q)
    diagonal = np.trace(basis, axis1=1, axis2=2) > 0
    return np.tensordot(np.where(diagonal, np.exp(np.where(diagonal, theta, 0.0)), theta), basis, 1)


# ---------------------------------------------------------------------------- rows in the complement of X


def powers_of_two(x):
    """The nearest powers of two: dividing by them rounds nothing."""
    return np.exp2(np.round(np.log2(np.where(x > 0, x, 1.0))))


@dataclass(frozen=True)
class Rows:
    """A data set in the complement of X.

    Attributes
    ----------
    K : (n, m) orthonormal;  r : (m,) K'y over `sd`, the residual standard deviation of least squares
    root : (n,) square roots of the weights;  logdet : log|X'WX| - sum(log w)
    X, left, beta : columns and residuals of least squares (rows times root), and its coefficients
    norms : of the columns of X, which they are divided by
    resolution : what the rounding of the data themselves does to a log-likelihood, about
    """

    K: np.ndarray
    r: np.ndarray
    sd: float
    root: np.ndarray
    logdet: float
    X: np.ndarray
    left: np.ndarray
    beta: np.ndarray
    norms: np.ndarray
    resolution: float

    @classmethod
    def of(cls, model):
        n, p = model.X.shape
        root = np.ones(n) if model.weights is None else np.sqrt(model.weights)
        y = model.y.astype(np.longdouble) - (0 if model.offset is None else model.offset)
        y, X = y * root, model.X * root[:, None]
        norms = powers_of_two(np.sqrt(np.sum(X**2, 0)))
        X = X / norms
        Q, R = np.linalg.qr(X, mode="complete")
        left, beta = cls._least_squares(y, X, Q[:, :p], R[:p])
        r = Q[:, p:].T @ left
        sd = np.sqrt(np.mean(r**2))
        logdet = 2 * np.sum(np.log(np.abs(np.diag(R)))) + 2 * np.sum(np.log(norms)) - 2 * np.sum(np.log(root))
        largest = float(np.max(np.abs(model.y * root)))
        conditions = [_condition(X), *(_condition(t.Z * root[:, None]) for t in model.random)]
        resolution = 4 * EPS * np.sqrt(n) * (largest / sd + sum(conditions))
        return cls(Q[:, p:], r / sd, sd, root, logdet, X, left, beta, norms, resolution)

    @staticmethod
    def _least_squares(y, X, Q, R):
        """Residual and coefficients, refined in extended precision so that offsets cost no digits."""
        left, X, beta = y, X.astype(np.longdouble), np.zeros(len(R), np.longdouble)
        for _ in range(3 if len(R) else 0):
            step = np.linalg.solve(R, Q.T @ left.astype(float))
            left, beta = left - X @ step, beta + step
        return left.astype(float), beta.astype(float)

    def effects(self, Z, codes):
        """K'Z of all levels (m, levels * q), from columns (n, q)."""
        return self.K.T @ oracle.expand(Z * self.root[:, None], codes)

    def within(self, basis):
        """The response along an orthonormal basis (m, j), and the sum of squares of what is left of it."""
        along = basis.T @ self.r
        rest = self.r - basis @ along
        rest = rest - basis @ (basis.T @ rest)
        return along, float(rest @ rest)

    def loglik(self, criterion):
        """Log-likelihood maximised over sigma, of a value of the criterion."""
        m = len(self.r)
        return float(-0.5 * (m * (LOG_2PI + 1 - np.log(m) + 2 * np.log(self.sd)) + criterion + self.logdet))

    def loglik_at(self, B, sigma):
        """Log-likelihood at a given sigma."""
        U, s, _ = np.linalg.svd(B, full_matrices=False)
        along, rest = self.within(U)
        quadratic = (np.sum(along**2 / (1 + s**2)) + rest) * (self.sd / sigma) ** 2
        m = len(self.r)
        return float(-0.5 * (m * (LOG_2PI + 2 * np.log(sigma)) + np.sum(np.log1p(s**2)) + quadratic + self.logdet))

    def tolerance(self, loglik):
        """Absolute tolerance of a log-likelihood."""
        return 1e-6 + 1e-10 * abs(loglik) + self.resolution


def _condition(A):
    """Condition number of a matrix whose columns have been brought to one size, zero directions left out."""
    size = np.sqrt(np.sum(A**2, 0))
    s = np.linalg.svd(A / np.where(size > 0, size, 1.0), compute_uv=False)
    s = s[s > 1e-13 * s.max(initial=0.0)]
    return float(s.max() / s.min()) if len(s) else 1.0


# ---------------------------------------------------------------------------- what the tests ask


def _relative_factors(model, theta):
    """Sigma, and Z times the factor of its covariance relative to sigma for each term, at public coordinates."""
    sigma, out, start = np.exp(theta[-1]), [], 0
    for term in model.random:
        structure, q = structure_of(term), term.Z.shape[1]
        stop = start + len(FACTORS[structure](q))
        out.append(term.Z @ factor_of(theta[start:stop], structure, q) / sigma)
        start = stop
    return sigma, out


def loglik_at(model, theta, rows=None):
    """Restricted log-likelihood at public coordinates theta, log sigma last."""
    rows = Rows.of(model) if rows is None else rows
    sigma, factors = _relative_factors(model, theta)
    blocks = [rows.effects(Z, term.group) for Z, term in zip(factors, model.random, strict=True)]
    return rows.loglik_at(np.hstack(blocks), sigma)


def coefficients_at(model, theta, rows=None):
    """Generalised least squares at theta: coefficients and standard errors, by whitening and QR."""
    rows = Rows.of(model) if rows is None else rows
    sigma, factors = _relative_factors(model, theta)
    blocks = [oracle.expand(Z * rows.root[:, None], t.group) for Z, t in zip(factors, model.random, strict=True)]
    H_root = np.linalg.qr(np.vstack([np.hstack(blocks).T, np.eye(len(rows.root))]), mode="r")
    white = np.linalg.solve(H_root.T, np.column_stack([rows.X, rows.left]))
    Q, R = np.linalg.qr(white[:, :-1])
    inverse = np.linalg.inv(R)
    beta = rows.beta + inverse @ (Q.T @ white[:, -1])
    return beta / rows.norms, sigma * np.sqrt(np.sum(inverse**2, 1)) / rows.norms


class Problem:
    """The criterion m log(y'K (K'HK)^-1 K'y) + log|K'HK| with K'HK = I + B B', B = sum(v_i parts_i).

    Everything is in the span of the random effects; the part of the response beside it is a number.

    Attributes
    ----------
    parts : (k, j, Q);  along : (j,) the response;  rest : sum of squares of the remaining response
    spectrum : (j,) squared singular values of all parts together
    """

    def __init__(self, model, rows):
        self.m = len(rows.r)
        parts = _parts(model, rows)
        U, s, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
        some = s > 1e-13 * max(1.0, s.max())  # columns of Z have entries of order one
        U, self.spectrum = U[:, some], s[some] ** 2
        self.parts = np.matmul(U.T, parts)
        self.along, self.rest = rows.within(U)

    def __call__(self, v):
        """Value and gradient at v (k,)."""
        B = np.tensordot(v, self.parts, 1)
        U, s, Vt = np.linalg.svd(B)
        U, Vt, d = U[:, : len(s)], Vt[: len(s)], 1 + s**2
        along = U.T @ self.along
        beside = self.along - U @ along
        quadratic = np.sum(along**2 / d) + beside @ beside + self.rest
        solved = U @ (along / d) + beside
        slope = 2 * (U * (s / d)) @ Vt - 2 * self.m / quadratic * np.outer(solved, solved @ B)
        return self.m * np.log(quadratic) + np.sum(np.log(d)), np.tensordot(self.parts, slope, 2)

    def minimum(self, rng, starts):
        """The lowest value found: at zero, by BFGS from random points of very different sizes, and far away.

        (Not L-BFGS-B, whose threads of BLAS take a hundred times as long as the work.)
        """
        k = len(self.parts)

        def descent(start, size=1.0):
            def scaled(u):
                value, slope = self(size * u)
                return value, size * slope

            found = minimize(scaled, start / size, jac=True, method="BFGS", options={"gtol": 1e-6})
            return found.fun, size * found.x

        ends = [(self(np.zeros(k))[0], np.zeros(k))]
        ends += [descent(size * rng.normal(size=k)) for size in 10 ** np.linspace(-1.0, 2.0, starts)]
        # where the residual variance is nearly zero, or best zero, the optimum is far away, or at infinity
        value, best = min(ends, key=lambda end: end[0])
        value, best = min(((self(best * far)[0], best * far) for far in 10.0 ** np.arange(7)), key=lambda end: end[0])
        return min(value, descent(best, np.linalg.norm(best) or 1.0)[0])


class OneVariance(Problem):
    """The same for one coordinate: a fine grid on a logarithmic axis, refined between neighbours of its minima."""

    def value(self, log_ratio):
        """Values at logarithms of the coordinate, of any shape."""
        d = 1 + np.exp(2 * np.asarray(log_ratio)[..., None]) * self.spectrum
        return self.m * np.log(np.sum(self.along**2 / d, -1) + self.rest) + np.sum(np.log(d), -1)

    def minimum(self, rng, starts):
        grid = np.linspace(-20, 25, 1000)
        values = self.value(grid)
        inner = 1 + np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:]))
        lowest = inner[np.argsort(values[inner])][:5]  # a flat likelihood has a minimum at every rounding error
        refined = [minimize_scalar(self.value, bounds=(grid[i - 1], grid[i + 1]), method="bounded").fun for i in lowest]
        return min([*refined, values.min(), self.value(-np.inf)])


def _parts(model, rows):
    """Derivatives (k, m, Q) of B in the coordinates."""
    blocks = []
    for term in model.random:
        structure = structure_of(term)
        Z = comparable_columns(term.Z * rows.root[:, None], structure) / rows.root[:, None]
        blocks.append([rows.effects(Z @ E, term.group) for E in FACTORS[structure](Z.shape[1])])
    total = sum(block[0].shape[1] for block in blocks)
    parts, left = [], 0
    for block in blocks:
        width = block[0].shape[1]
        parts += [np.pad(one, ((0, 0), (left, total - left - width))) for one in block]
        left += width
    return np.stack(parts)


def problem_of(model, rows):
    one = [structure_of(t) for t in model.random] == ["Identity"] or [t.Z.shape[1] for t in model.random] == [1]
    return (OneVariance if one else Problem)(model, rows)


def best_loglik(model, seed=0, starts=8, rows=None):
    """The best restricted log-likelihood that the search finds."""
    rows = Rows.of(model) if rows is None else rows
    return rows.loglik(problem_of(model, rows).minimum(np.random.default_rng(seed), starts))


# ---------------------------------------------------------------------------- one term of very many groups


def best_loglik_by_group(model, starts=2):
    """The same for one unstructured term of any number of groups of benign, unweighted data: Woodbury, by group."""
    (term,) = model.random
    n, p = model.X.shape
    q, groups = term.Z.shape[1], int(term.group.max()) + 1
    U = np.column_stack([model.X, model.y])

    order = np.argsort(term.group, kind="stable")
    first = np.searchsorted(term.group[order], np.arange(groups))

    def by_group(A, B):
        return np.add.reduceat((A[:, :, None] * B[:, None, :])[order], first, 0)

    zz, zu, uu = by_group(term.Z, term.Z), by_group(term.Z, U), U.T @ U

    def criterion(v):
        L = np.tensordot(v, _lower(q), 1)
        S, c = np.eye(q) + L.T @ zz @ L, L.T @ zu
        gram = uu - np.einsum("gij,gik->jk", c, np.linalg.solve(S, c))
        rss = gram[p, p] - gram[:p, p] @ np.linalg.solve(gram[:p, :p], gram[:p, p])
        logdets = np.sum(np.linalg.slogdet(S)[1]) + np.linalg.slogdet(gram[:p, :p])[1]
        return (n - p) * np.log(rss) + logdets

    rng = np.random.default_rng(0)
    best = criterion(np.zeros(len(_lower(q))))
    for size in 10 ** np.linspace(-0.5, 0.5, starts):
        best = min(best, minimize(criterion, size * rng.normal(size=len(_lower(q))), method="BFGS").fun)
    return -0.5 * ((n - p) * (LOG_2PI + 1 - np.log(n - p)) + best)
