"""Dense textbook linear mixed models in NumPy, for tests; knows nothing of jaxlmm.

``y ~ N(X beta, V)`` with ``V = sum_k Z_k (I (x) G_k) Z_k' + sigma^2 diag(1 / weights)``.
A random term is a triple ``(Z, codes, G)``: Z (n, q), integer codes (n,), G (q, q).
Everything forms V and inverts it: slow, short and easy to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

LOG_2PI = np.log(2 * np.pi)

RandomTerm = tuple[np.ndarray, np.ndarray, np.ndarray]


def expand(Z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n, q) and group codes -> the full (n, levels * q) design, level by level."""
    n, q = Z.shape
    levels = int(codes.max()) + 1
    full = np.zeros((n, levels, q))
    full[np.arange(n), codes] = Z
    return full.reshape(n, levels * q)


def marginal(terms: Sequence[RandomTerm], sigma: float, n: int, weights: np.ndarray | None = None) -> np.ndarray:
    """V, the marginal covariance of y."""
    V = sigma**2 * np.diag(np.ones(n) if weights is None else 1 / weights)
    for Z, codes, G in terms:
        full = expand(Z, codes)
        V = V + full @ np.kron(np.eye(full.shape[1] // Z.shape[1]), G) @ full.T
    return V


def gram(V: np.ndarray, y: np.ndarray, X: np.ndarray) -> tuple[float, np.ndarray]:
    """(log det V, [X y]' V^-1 [X y])."""
    U = np.column_stack([X, y])
    return float(np.linalg.slogdet(V)[1]), U.T @ np.linalg.solve(V, U)


def gls(V: np.ndarray, y: np.ndarray, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Generalised least squares: (beta, (X'V^-1X)^-1)."""
    information = X.T @ np.linalg.solve(V, X)
    return np.linalg.solve(information, X.T @ np.linalg.solve(V, y)), np.linalg.inv(information)


def loglik(V: np.ndarray, y: np.ndarray, X: np.ndarray, reml: bool = True) -> float:
    """lme4's (restricted) log-likelihood, maximised over beta (no X'X term)."""
    n, p = X.shape
    beta, vcov = gls(V, y, X)
    r = y - X @ beta
    value = np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r)
    if reml:
        return float(-0.5 * ((n - p) * LOG_2PI + value - np.linalg.slogdet(vcov)[1]))
    return float(-0.5 * (n * LOG_2PI + value))


def projection(V: np.ndarray, X: np.ndarray) -> np.ndarray:
    """P = V^-1 - V^-1 X (X'V^-1X)^-1 X'V^-1."""
    solved = np.linalg.solve(V, X)
    return np.linalg.inv(V) - solved @ np.linalg.solve(X.T @ solved, solved.T)


def _stacked(terms: Sequence[RandomTerm]) -> tuple[np.ndarray, np.ndarray, list[slice]]:
    """All terms side by side: Z (n, total), D (total, total) and the columns of each term."""
    blocks, covariances, slices, start = [], [], [], 0
    for Z, codes, G in terms:
        full = expand(Z, codes)
        blocks.append(full)
        covariances.append(np.kron(np.eye(full.shape[1] // Z.shape[1]), G))
        slices.append(slice(start, start + full.shape[1]))
        start += full.shape[1]
    D = np.zeros((start, start))
    for where, block in zip(slices, covariances, strict=True):
        D[where, where] = block
    return np.hstack(blocks), D, slices


def blups(terms: Sequence[RandomTerm], V: np.ndarray, y: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
    """Best linear unbiased predictions of the random effects, (levels, q) for each term."""
    Z, D, slices = _stacked(terms)
    beta, _ = gls(V, y, X)
    values = D @ Z.T @ np.linalg.solve(V, y - X @ beta)
    return [values[s].reshape(-1, t[0].shape[1]) for s, t in zip(slices, terms, strict=True)]


def _level_blocks(matrix: np.ndarray, slices: list[slice], terms: Sequence[RandomTerm]) -> list[np.ndarray]:
    out = []
    for s, (Z, _, _) in zip(slices, terms, strict=True):
        q = Z.shape[1]
        block = matrix[s, s]
        out.append(np.stack([block[i : i + q, i : i + q] for i in range(0, block.shape[0], q)]))
    return out


def conditional_variances(terms: Sequence[RandomTerm], V: np.ndarray) -> list[np.ndarray]:
    """Var(b | y), beta and the covariance parameters known: (levels, q, q) for each term."""
    Z, D, slices = _stacked(terms)
    return _level_blocks(D - D @ Z.T @ np.linalg.solve(V, Z @ D), slices, terms)


def prediction_error_variances(terms: Sequence[RandomTerm], V: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
    """Var(b_hat - b), beta estimated: (levels, q, q) for each term."""
    Z, D, slices = _stacked(terms)
    return _level_blocks(D - D @ Z.T @ projection(V, X) @ Z @ D, slices, terms)


def score_in_y(V: np.ndarray, y: np.ndarray, X: np.ndarray) -> np.ndarray:
    """d loglik / d y = -P y, for REML and ML alike."""
    return -projection(V, X) @ y


# ---------------------------------------------------------------------------- best optimum by brute force


def relative_factor(values: np.ndarray, q: int) -> np.ndarray:
    """Lower-triangular relative factor Lambda, filled by columns as lme4 does."""
    factor = np.zeros((q, q))
    rows, columns = np.tril_indices(q)
    order = np.lexsort((rows, columns))
    factor[rows[order], columns[order]] = values
    return factor


def profiled_loglik(
    values: np.ndarray, Z: np.ndarray, codes: np.ndarray, y: np.ndarray, X: np.ndarray, reml: bool = True
) -> float:
    """Log-likelihood at a relative factor of one unstructured term, maximised over sigma and beta."""
    n, p = X.shape
    factor = relative_factor(values, Z.shape[1])
    V = marginal([(Z, codes, factor @ factor.T)], 1.0, n)
    beta, _ = gls(V, y, X)
    r = y - X @ beta
    sigma2 = r @ np.linalg.solve(V, r) / (n - p if reml else n)
    return loglik(sigma2 * V, y, X, reml)


def best_loglik(
    Z: np.ndarray,
    codes: np.ndarray,
    y: np.ndarray,
    X: np.ndarray,
    reml: bool = True,
    seed: int = 0,
    starts: int = 4,
) -> float:
    """Best log-likelihood that scipy finds from several starts, for one unstructured term."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(seed)
    q = Z.shape[1]
    size = q * (q + 1) // 2
    diagonal = relative_factor(np.arange(size, dtype=float), q).diagonal().astype(int)
    identity = np.zeros(size)
    identity[diagonal] = 1.0
    candidates = [identity, 0.1 * identity, *(rng.normal(size=size) for _ in range(starts - 2))]
    best = profiled_loglik(np.zeros(size), Z, codes, y, X, reml)
    for start in candidates:
        found = minimize(lambda v: -profiled_loglik(v, Z, codes, y, X, reml), start, method="BFGS")
        best = max(best, -found.fun)
    return float(best)


# ---------------------------------------------------------------------------- balanced one-way, closed forms


def mean_squares(table: np.ndarray) -> tuple[float, float]:
    """(between, within) mean squares of a (groups, rows) table."""
    groups, m = table.shape
    means = table.mean(axis=1)
    between = m * np.sum((means - table.mean()) ** 2) / (groups - 1)
    within = np.sum((table - means[:, None]) ** 2) / (groups * (m - 1))
    return float(between), float(within)


def one_way_estimates(table: np.ndarray, reml: bool = True) -> tuple[float, float]:
    """(group variance, residual variance): ANOVA estimates, truncated at 0, of y ~ 1 + (1 | group)."""
    groups, m = table.shape
    between, within = mean_squares(table)
    scaled = between if reml else between * (groups - 1) / groups
    if scaled > within:
        return (scaled - within) / m, within
    total = np.sum((table - table.mean()) ** 2)
    return 0.0, float(total / (table.size - 1 if reml else table.size))


def one_way_loglik(table: np.ndarray, variance: float, residual: float, reml: bool = True) -> float:
    """Log-likelihood of y ~ 1 + (1 | group) from the eigenvalues of V, maximised over the mean."""
    groups, m = table.shape
    n = table.size
    between, within = mean_squares(table)
    top = residual + m * variance
    value = groups * np.log(top) + groups * (m - 1) * np.log(residual)
    value += (groups - 1) * between / top + groups * (m - 1) * within / residual
    if reml:
        return float(-0.5 * ((n - 1) * LOG_2PI + value + np.log(n / top)))
    return float(-0.5 * (n * LOG_2PI + value))


# ---------------------------------------------------------------------------- finite differences


def gradient(f: Callable[[np.ndarray], float | np.ndarray], x: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Five-point central differences of a scalar or array function; the last axis is x."""
    x = np.asarray(x, dtype=float)
    columns = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        columns.append(
            (8 * (np.asarray(f(x + e)) - f(x - e)) - (np.asarray(f(x + 2 * e)) - f(x - 2 * e))) / (12 * step)
        )
    return np.stack(columns, axis=-1)


def hessian(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 5e-3) -> np.ndarray:
    """Five-point differences of five-point differences (about 1e-7 relative)."""
    return gradient(lambda z: gradient(f, z, step), x, step)
