"""Seeded data sets that fitting programs stumble over, in batches of eight lanes: `CASES[name](rng)`.

Most have 48 rows in 8 groups and two columns of X, so that few shapes are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlmm import Diagonal, Model, Term
from jaxlmm.covariance import Identity

LANES, N, GROUPS = 8, 48, 8

CONVERGED = frozenset({"CONVERGED"})
BAD = frozenset({"BAD_RESPONSE"})
UNTOLD = frozenset({"BAD_COVARIATE"})
PERFECT = frozenset({"PERFECT_FIT"})
# Random slopes of nearly collinear columns: the solver's chart may be too narrow a valley, and then it has to say so.
NARROW = CONVERGED | frozenset({"STALLED", "MAX_ITERATIONS"})
# The residual variance tends to zero, or nothing tells it from a group's: an honest program may give up in many ways.
GIVES_UP = frozenset({"PERFECT_FIT", "STALLED", "MAX_ITERATIONS", "NOT_OPTIMAL", "NOT_FINITE", "RANK_DEFICIENT"})


@dataclass(frozen=True)
class Batch:
    """Data sets to be fitted in one call.

    Attributes
    ----------
    models : a model a lane, or one model that has the responses Y (lanes, n)
    allowed : the statuses a lane may end in, by name, a set a lane
    """

    models: Sequence[Model]
    Y: np.ndarray | None
    allowed: Sequence[frozenset[str]]

    def __len__(self):
        return len(self.allowed)

    def lane(self, i):
        return self.models[i] if self.Y is None else self.models[0].replace(y=self.Y[i])


CASES: dict[str, Callable[[np.random.Generator], Batch]] = {}


def case(f):
    CASES[f.__name__.replace("_", " ")] = f
    return f


def of_models(models, allowed=CONVERGED):
    models = list(models)
    return Batch(models, None, [allowed] * len(models) if isinstance(allowed, frozenset) else allowed)


def of_responses(model, Y, allowed=CONVERGED):
    return Batch([model], Y, [allowed] * len(Y) if isinstance(allowed, frozenset) else allowed)


# ---------------------------------------------------------------------------- ingredients


def uneven(rng, n=N, groups=GROUPS):
    """Codes of groups of random sizes, in no order, every group present."""
    return rng.permutation(np.r_[np.arange(groups), rng.integers(0, groups, n - groups)])


def with_intercept(*columns):
    return np.column_stack([np.ones(len(columns[0])), *columns])


def effects(rng, Z, codes, root=1.0):
    """One draw of random effects; `root` is a factor of their covariance, or one standard deviation."""
    u = rng.normal(size=(codes.max() + 1, Z.shape[1]))
    u = u @ root.T if np.ndim(root) else u * root
    return np.sum(Z * u[codes], 1)


def slopes(rng, x=None, n=N, groups=GROUPS, root=1.0, structure=None):
    """Benign random slopes."""
    codes, x = uneven(rng, n, groups), rng.normal(size=n) if x is None else x
    X = with_intercept(x)
    return Model(X.sum(1) + effects(rng, X, codes, root) + rng.normal(size=n), X, [Term(X, codes, structure)])


def responses(rng, model, root=1.0, sigma=1.0, b=LANES):
    """Responses (b, n) of a model with one term."""
    (term,) = model.random
    draws = [effects(rng, term.Z, term.group, root) for _ in range(b)]
    return model.X.sum(1) + np.stack(draws) + sigma * rng.normal(size=(b, len(model.y)))


def intercepts(rng, codes=None, effect=1.0, **options):
    """Benign random intercepts with one covariate."""
    codes = uneven(rng) if codes is None else codes
    n = len(codes)
    X, one = with_intercept(rng.normal(size=n)), np.ones((n, 1))
    return Model(X.sum(1) + effects(rng, one, codes, effect) + rng.normal(size=n), X, [Term(one, codes)], **options)


def spread(rng, low=-8.0, high=8.0, size=None):
    """Powers of ten at random."""
    return 10 ** rng.uniform(low, high, size)


# ---------------------------------------------------------------------------- scales and offsets


@case
def scales_of_y(rng):
    model = slopes(rng)
    return of_responses(model, responses(rng, model) * 10 ** np.linspace(-8, 8, LANES)[:, None])


def rescaled(rng, structure=None, engine="auto", n=N):
    plain = slopes(rng, n=n)
    X, Z = plain.X * spread(rng, size=2), plain.X * spread(rng, size=2)
    return Model(plain.y * spread(rng), X, [Term(Z, plain.random[0].group, structure)], engine=engine)


@case
def scales_of_every_column(rng):
    return of_models(rescaled(rng) for _ in range(LANES))


@case
def scales_with_independent_effects(rng):
    return of_models(rescaled(rng, Diagonal()) for _ in range(LANES))


@case
def scales_in_the_dense_engine(rng):
    return of_models(rescaled(rng, engine="dense", n=24) for _ in range(LANES))


@case
def scales_of_all_weights(rng):
    return of_models(intercepts(rng, weights=rng.uniform(0.5, 2, N) * w) for w in 10 ** np.linspace(-8, 8, LANES))


@case
def weights_unlike_each_other(rng):
    """Up to eight orders of magnitude within a data set."""
    return of_models(intercepts(rng, weights=spread(rng, -w, w, N)) for w in np.linspace(0.5, 4, LANES))


@case
def offsets_of_y(rng):
    model = slopes(rng)
    offsets = np.array([1e9, -1e9, 1e9, 1e8, 1e7, 1e6, 1e5, 1e3])
    return of_responses(model, responses(rng, model) + offsets[:, None])


@case
def known_offsets(rng):
    """Large known parts of the mean, constant and varying, in the response too."""
    known = [np.full(N, 1e9), -1e9 * rng.uniform(1, 2, N), *(10.0**k * rng.normal(size=N) for k in range(3, 9))]
    plain = [intercepts(rng) for _ in known]
    return of_models(Model(m.y + o, m.X, m.random, offset=o) for m, o in zip(plain, known, strict=True))


@case
def offsets_of_x(rng):
    """A covariate far from zero, such as a year or a time stamp, as a fixed effect and with random slopes."""
    models = []
    for offset in 10.0 ** np.arange(1, 1 + LANES):
        plain = slopes(rng)
        X = plain.X + [0.0, offset]
        models.append(Model(plain.y, X, [Term(X, plain.random[0].group)]))
    return of_models(models, [CONVERGED] * 3 + [NARROW] * 5)


@case
def offset_of_x_of_1e9(rng):
    """X keeps the offset; the random slopes are of the centred covariate."""
    plain = [slopes(rng) for _ in range(LANES)]
    return of_models(Model(m.y, m.X + [0.0, 1e9], m.random) for m in plain)


# ---------------------------------------------------------------------------- collinear columns


@case
def nearly_collinear_x(rng):
    models = []
    for near in 10.0 ** -np.arange(1, 1 + LANES):
        plain = intercepts(rng)
        X = np.column_stack([plain.X, plain.X[:, 1] + near * rng.normal(size=N)])
        models.append(Model(plain.y, X, plain.random))
    return of_models(models)


@case
def nearly_collinear_z(rng):
    models = []
    for near in 10.0 ** -np.arange(1, 1 + LANES):
        plain = slopes(rng)
        Z = np.column_stack([plain.X[:, 1], plain.X[:, 1] + near * rng.normal(size=N)])
        models.append(Model(plain.y, plain.X, [Term(Z, plain.random[0].group)]))
    return of_models(models, [CONVERGED] * 3 + [NARROW] * 5)


@case
def repeated_and_empty_columns_of_z(rng):
    """Covariances that the data say nothing about: two equal columns, or one of zeros, or slopes of a constant."""
    models = []
    for i in range(LANES):
        plain = slopes(rng)
        second = (plain.X[:, 0], np.zeros(N), 2.0 * plain.X[:, 0], 1e-8 * plain.X[:, 0])[i % 4]
        models.append(Model(plain.y, plain.X, [Term(np.column_stack([plain.X[:, 0], second]), plain.random[0].group)]))
    return of_models(models)


@case
def slopes_of_a_covariate_of_the_group(rng):
    """The covariate is constant within groups: one number a group, a variance that depends on it."""
    models = []
    for _ in range(LANES):
        codes = uneven(rng)
        X = with_intercept(rng.normal(size=GROUPS)[codes])
        models.append(Model(X.sum(1) + effects(rng, X, codes) + rng.normal(size=N), X, [Term(X, codes)]))
    return of_models(models)


# ---------------------------------------------------------------------------- groups


@case
def one_row_groups(rng):
    """Sixteen groups of which ever more have one row, in the end all but one."""
    models = []
    for replicated in (8, 6, 5, 4, 3, 2, 1, 1):
        codes = rng.permutation(np.r_[np.arange(16), rng.integers(0, replicated, N - 16)])
        models.append(intercepts(rng, codes))
    return of_models(models)


@case
def slopes_in_one_row_groups(rng):
    models = []
    for _ in range(LANES):
        codes = rng.permutation(np.r_[np.arange(16), rng.integers(0, 3, N - 16)])
        X = with_intercept(rng.normal(size=N))
        models.append(Model(X.sum(1) + effects(rng, X, codes) + rng.normal(size=N), X, [Term(X, codes)]))
    return of_models(models)


@case
def every_row_its_own_group(rng):
    """Only the sum of the two variances counts: any division of it is an optimum, that without residual excepted."""
    codes = np.arange(24)
    return of_models((intercepts(rng, codes) for _ in range(LANES)), CONVERGED | GIVES_UP)


@case
def every_row_its_own_group_with_weights(rng):
    """Known unequal variances tell the two apart; the residual may be better without."""
    codes = np.arange(24)
    models = (intercepts(rng, codes, weights=spread(rng, -1, 1, 24)) for _ in range(LANES))
    return of_models(models, CONVERGED | GIVES_UP)


@case
def two_groups(rng):
    return of_models(intercepts(rng, uneven(rng, groups=2), effect) for effect in (0, 0, 0.5, 1, 1, 5, 100, 1e4))


@case
def slopes_of_two_groups(rng):
    return of_models(slopes(rng, groups=2) for _ in range(LANES))


def few_rows(rng):
    """Three groups in nine to twelve rows: several optima are common, and singular ones."""
    return slopes(rng, n=int(rng.integers(9, 13)), groups=3, root=rng.uniform(0, 2))


@case
def three_groups_of_few_rows(rng):
    return of_models(few_rows(rng) for _ in range(LANES))


@case
def more_effects_than_rows(rng):
    """Pairs with random slopes: two effects a group of two rows, so the residual may vanish in the optimum."""
    models = []
    for _ in range(LANES):
        codes, X = np.repeat(np.arange(12), 2), with_intercept(rng.normal(size=24))
        models.append(Model(X.sum(1) + effects(rng, X, codes) + rng.normal(size=24), X, [Term(X, codes)]))
    return of_models(models, CONVERGED | GIVES_UP)


@case
def groups_in_x(rng):
    """In half of the lanes the groups are fixed effects as well, and nothing is left to tell their variance."""
    models = []
    for i in range(LANES):
        codes = uneven(rng, groups=2)
        X = np.eye(2)[codes] if i % 2 else with_intercept(rng.normal(size=N))
        y = rng.normal(size=2)[codes] + rng.normal(size=N)
        models.append(Model(y, X, [Term(np.ones(N), codes)], checks=False))
    return of_models(models, [UNTOLD if i % 2 else CONVERGED for i in range(LANES)])


# ---------------------------------------------------------------------------- several terms


@case
def crossed_in_few_cells(rng):
    models = []
    for i in range(LANES):
        first = uneven(rng)
        second = (first + rng.integers(0, 2, N)) % 4 if i % 2 else rng.integers(0, 4, N)
        plain = intercepts(rng, first, effect=i % 3)
        models.append(Model(plain.y, plain.X, [*plain.random, Term(np.ones(N), np.r_[second[:-4], 0:4])]))
    return of_models(models)


@case
def terms_that_are_the_same(rng):
    """Only the sum of their variances counts."""
    models = []
    for i in range(LANES):
        plain = intercepts(rng, effect=i % 2)
        again = Term(np.ones(N), rng.permutation(GROUPS)[plain.random[0].group])
        models.append(Model(plain.y, plain.X, [*plain.random, again], checks=False))
    return of_models(models)


@case
def nested_with_single_members(rng):
    """Half of the outer groups have one inner group."""
    inner = np.repeat(np.arange(6), 8)
    outer = np.array([0, 0, 1, 1, 2, 3])[inner]
    models = []
    for i in range(LANES):
        order = rng.permutation(N)
        plain = intercepts(rng, inner[order], effect=(0, 1, 1, 1e3)[i % 4])
        models.append(Model(plain.y, plain.X, [*plain.random, Term(np.ones(N), outer[order])]))
    return of_models(models)


# ---------------------------------------------------------------------------- the boundary


@case
def zero_variances(rng):
    """No slope variance, none at all, negative correlation within groups: every lane on some boundary or near it."""
    model = slopes(rng)
    codes, X = model.random[0].group, model.X
    noise = rng.normal(size=(LANES, N))
    means = np.stack([np.bincount(codes, e) / np.bincount(codes) for e in noise])[:, codes]
    intercept = np.diag([1.0, 0.0])
    group = np.stack([effects(rng, X, codes, intercept) for _ in range(LANES)])
    return of_responses(model, X.sum(1) + np.where(np.arange(LANES)[:, None] % 2, group + noise, noise - means))


@case
def perfect_correlations(rng):
    roots = [np.array([[a, 0.0], [b, 0.0]]) for a, b in rng.normal(size=(LANES, 2))]
    return of_models(slopes(rng, root=root) for root in roots)


@case
def zero_variances_of_independent_effects(rng):
    roots = [np.diag([0.0, float(i % 2)]) for i in range(LANES)]
    return of_models(slopes(rng, root=root, structure=Diagonal()) for root in roots)


@case
def common_variance(rng):
    return of_models(slopes(rng, root=root, structure=Identity()) for root in (0, 0, 1e-3, 0.1, 1, 10, 1e3, 1e6))


# ---------------------------------------------------------------------------- perfect and degenerate responses


@case
def perfect_fits(rng):
    """By X alone, by X and the random effects, and nearly so."""
    model = slopes(rng)
    Y = responses(rng, model, sigma=0.0)
    Y[0], Y[1] = model.X.sum(1), 1e8 * model.X[:, 1]
    noise = np.array([0, 0, 0, 0, 1e-12, 1e-6, 1e-4, 1e-2])
    allowed = [BAD, BAD, PERFECT, PERFECT, PERFECT, CONVERGED, CONVERGED, CONVERGED]
    return of_responses(model, Y + noise[:, None] * rng.normal(size=(LANES, N)), allowed)


@case
def constant_within_groups(rng):
    """Perfect fits by the random intercepts alone, beside any X."""
    models = []
    for _ in range(LANES):
        plain = intercepts(rng)
        y = spread(rng) * (rng.normal(size=GROUPS)[plain.random[0].group] + plain.X @ rng.normal(size=2))
        models.append(Model(y, plain.X, plain.random))
    return of_models(models, PERFECT)


@case
def degenerate_responses(rng):
    """Constants, spikes, two values, outliers, heavy tails; a group of two rows fits a spike in one of them exactly."""
    model = slopes(rng)
    Y = responses(rng, model)
    Y[0], Y[1], Y[2] = 3.0, 0.0, 0.0
    Y[2, 7] = 1.0
    Y[3] = rng.integers(0, 2, N)
    Y[4, 0] = 1e12
    Y[5] = rng.standard_cauchy(N)
    Y[6] = np.round(rng.normal(size=N))
    Y[7] = np.sign(rng.normal(size=N)) * np.exp(5 * rng.normal(size=N))
    spike = CONVERGED | GIVES_UP
    return of_responses(model, Y, [BAD, BAD, spike, CONVERGED, spike, *[CONVERGED] * 3])


@case
def not_finite(rng):
    model = slopes(rng)
    Y = responses(rng, model)
    Y[0, 3], Y[2, 0], Y[4, -1], Y[5] = np.nan, np.inf, -np.inf, np.nan
    Y[6, :2] = np.inf, -np.inf
    return of_responses(model, Y, [BAD, CONVERGED, BAD, CONVERGED, BAD, BAD, BAD, CONVERGED])


@case
def beyond_the_range_of_squares(rng):
    """Finite numbers whose squares are not, or are zero: no number may come out wrong."""
    model = slopes(rng)
    sizes = np.array([1e-300, 1e-200, 1e-160, 1e-100, 1e100, 1e150, 1e200, 1e300])
    allowed = CONVERGED | BAD | frozenset({"NOT_FINITE"})
    return of_responses(model, responses(rng, model) * sizes[:, None], allowed)


# ---------------------------------------------------------------------------- rows


@case
def duplicated_rows(rng):
    """Half of the rows again; or all of them; or one row in every group many times; or whole groups under new names."""
    models = []
    for i in range(LANES):
        plain = slopes(rng, n=24)
        codes = plain.random[0].group
        rows = [np.r_[0:24, 0:12], np.r_[0:24, 0:24], np.r_[0:24, [0] * 24], np.r_[0:24, 0:24]][i % 4]
        codes = codes[rows]
        if i % 4 == 3:
            codes[24:] += GROUPS
        models.append(Model(plain.y[rows], plain.X[rows], [Term(plain.X[rows], codes)]))
    return of_models(models)


@case
def groups_of_duplicates(rng):
    """Every row twice, each pair a group: nothing varies within groups."""
    models = []
    for _ in range(LANES):
        once, codes = intercepts(rng, np.arange(16)), np.repeat(np.arange(16), 2)
        models.append(Model(spread(rng) * once.y[codes], once.X[codes], [Term(np.ones(32), codes)]))
    return of_models(models, PERFECT)


def kept(rng, codes, visit, pattern):
    """Rows that are not missing."""
    n = len(codes)
    return {
        "at random": lambda: rng.random(n) < 0.6,
        "drop-out": lambda: visit <= rng.integers(1, 6, GROUPS)[codes],
        "one visit missed by all": lambda: visit != 3,
        "one group complete": lambda: (codes == 0) | (visit == 0) | ((codes == 1) & (visit < 3)),
        "two groups lost": lambda: codes >= 2,
        "every other": lambda: (codes + visit) % 2 == 0,
        "one group with one row": lambda: (codes > 0) | (visit == 5),
        "the covariate has two values left": lambda: (visit == 0) | (visit == 5),
    }[pattern]()


@case
def missing_patterns(rng):
    codes, visit = np.divmod(np.arange(N), 6)
    patterns = [
        "at random", "drop-out", "one visit missed by all", "one group complete", "two groups lost", "every other",
        "one group with one row", "the covariate has two values left",
    ]  # fmt: skip
    models = []
    for pattern in patterns:
        rows = rng.permutation(np.flatnonzero(kept(rng, codes, visit, pattern)))
        X = with_intercept(visit[rows].astype(float))
        y = X.sum(1) + effects(rng, X, codes[rows], np.diag([1.0, 0.5])) + rng.normal(size=len(rows))
        models.append(Model(y, X, [Term(X, codes[rows])]))
    return of_models(models)
