"""Small fits with dependent rows of many kinds, and their dense covariance matrices, for tests of robustness."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

import jaxlmm
from jaxlmm.fitting.estimate import blocks_at
from jaxlmm.likelihood.engines import DENSE, Whole


@functools.cache
def data():
    """Rows of 18 subjects in 6 sites, 2 to 4 visits each, shuffled."""
    rng = np.random.default_rng(4)
    rows = [(s, v) for s in range(18) for v in range(4) if rng.random() < 0.8 or v < 2]
    subject, visit = np.array(rows)[rng.permutation(len(rows))].T
    n = len(rows)
    x, site = np.round(rng.normal(size=n), 2), subject // 3
    arm = np.where(subject % 2 == 1, "b", "a")
    y = 3.0 + x + 0.4 * visit + rng.normal(size=6)[site] + 1.2 * rng.normal(size=18)[subject]
    y = y + 0.9 * rng.normal(size=18)[subject] * visit + rng.normal(size=n) * (0.5 + 0.4 * (x > 0))
    columns = {"y": y, "x": x, "t": visit * 1.0, "arm": arm, "w": np.round(rng.uniform(0.5, 2.0, n), 2)}
    levels = {"id": [f"s{i:02d}" for i in subject], "site": [f"c{i}" for i in site], "visit": visit}
    return pd.DataFrame({**columns, **levels, "o": 0.1 * np.arange(n)})


def relatives():
    """Relationship of the subjects: siblings within sites."""
    return 0.5 * np.kron(np.eye(6), np.ones((3, 3))) + 0.5 * np.eye(18)


@functools.cache
def fitted(kind, method="REML"):
    """A fit of one of several kinds."""
    return fit_rows(kind, np.ones(len(data()), bool), method)


def fit_rows(kind, keep, method="REML"):
    """The same of some of the rows."""
    options = {
        "slopes": {"formula": "y ~ x + t * arm + (t | id)", "weights": "w", "offset": "o"},
        "nested": {"formula": "y ~ x + t + (1 | site/id)"},
        "serial": {"formula": "y ~ x + t * arm", "residual": "ar1(visit | id)", "weights": "w"},
        "both": {"formula": "y ~ x + t + (1 | site)", "residual": "ar1(visit | id)", "weights": "w"},
        "field": {"formula": "y ~ x + t + ou(t | id)", "weights": "w"},
        "kin": {"formula": "y ~ x + t + (1 | id)", "relationship": {"id": relatives()}},
        "crossed": {"formula": "y ~ x + (1 | site) + (1 | visit)"},
        "singular": {"formula": "y2 ~ x + t + (t | id)"},
    }[kind]
    frame = data().assign(y2=lambda d: d.y - d.groupby("id").y.transform("mean"))
    if "relationship" in options:
        levels = np.unique(frame.id)
        known = np.isin(levels, frame.id[keep])
        options["relationship"] = {"id": relatives()[np.ix_(known, known)]}
    return jaxlmm.lmm(**options, data=frame[keep], method=method)


KINDS = ("slopes", "nested", "serial", "both", "field", "kin")
CLUSTERS = {"nested": "site", "both": "site", "kin": "site"}  # of V, "id" for the others


def covariance(fit):
    """V and R (n, n) at the estimate."""
    model = fit.model
    root = np.ones(fit.nobs) if model.weights is None else np.sqrt(model.weights)
    one = root[:, None]
    Z = tuple(part.Z * one if isinstance(part, jaxlmm.Term) else one for part in model.random)
    engine = Whole(one, Z, (*model.random, model.residual), DENSE)
    C = blocks_at(model, fit.estimate)
    V = np.asarray(engine.covariance(C))
    R = np.asarray(engine.covariance(C._replace(random=tuple(0.0 * np.asarray(G) for G in C.random))))
    return V / np.outer(root, root), R / np.outer(root, root)


def residuals(fit):
    """y - offset - X beta."""
    return fit.model.y - fit.model.X @ fit.coef - (0.0 if fit.model.offset is None else fit.model.offset)
