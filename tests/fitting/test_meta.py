"""Meta-analyses with known sampling (co)variances, against metafor 3.8's rma.mv on its published examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxlmm
from jaxlmm.covariance import KnownMatrix

# experiments/references/numbers/meta.R; data: metadat's dat.bcg, dat.berkey1998 and dat.konstantopoulos2011
BCG = np.array([
    [4, 119, 11, 128, 44], [6, 300, 29, 274, 55], [3, 228, 11, 209, 42], [62, 13536, 248, 12619, 52],
    [33, 5036, 47, 5761, 13], [180, 1361, 372, 1079, 44], [8, 2537, 10, 619, 19], [505, 87886, 499, 87892, 13],
    [29, 7470, 45, 7232, 27], [17, 1699, 65, 1600, 42], [186, 50448, 141, 27197, 18], [5, 2493, 3, 2338, 33],
    [27, 16886, 29, 17825, 33],
])  # fmt: skip
BERKEY = {"PD": [0.47, 0.20, 0.40, 0.26, 0.56], "AL": [-0.32, -0.60, -0.12, -0.31, -0.39]}
SAMPLING = [  # var PD, cov, var AL
    [0.0075, 0.0030, 0.0077], [0.0057, 0.0009, 0.0008], [0.0021, 0.0007, 0.0014], [0.0029, 0.0009, 0.0015],
    [0.0148, 0.0072, 0.0304],
]  # fmt: skip
SCHOOLS = {
    11: ([-0.18, -0.22, 0.23, -0.3], [0.118, 0.118, 0.144, 0.144]),
    12: ([0.13, -0.26, 0.19, 0.32], [0.014, 0.014, 0.015, 0.024]),
    18: ([0.45, 0.38, 0.29], [0.023, 0.043, 0.012]),
    27: ([0.16, 0.65, 0.36, 0.6], [0.02, 0.004, 0.004, 0.007]),
    56: ([0.08, 0.04, 0.19, -0.06], [0.019, 0.007, 0.005, 0.004]),
    58: ([-0.18, 0, 0, -0.28, -0.04, -0.3, 0.07, 0, 0.05, -0.08, -0.09],
         [0.02, 0.018, 0.019, 0.022, 0.02, 0.021, 0.006, 0.007, 0.007, 0.007, 0.007]),
    71: ([0.3, 0.98, 1.19], [0.015, 0.011, 0.01]),
    86: ([-0.07, -0.05, -0.01, 0.02, -0.03, 0, 0.01, -0.1], [0.001] * 8),
    91: ([0.5, 0.66, 0.2, 0, 0.05, 0.07], [0.01, 0.011, 0.01, 0.009, 0.013, 0.013]),
    108: ([-0.52, 0.7, -0.03, 0.27, -0.34], [0.031, 0.031, 0.03, 0.03, 0.03]),
    644: ([0.12, 0.61, 0.04, -0.05], [0.087, 0.082, 0.067, 0.067]),
}  # fmt: skip


def bcg():
    a, b, c, d, latitude = BCG.T.astype(float)
    y, v = np.log(a / (a + b) / (c / (c + d))), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)
    return pd.DataFrame({"trial": range(13), "y": y, "w": 1 / v, "latitude": latitude})


def schools():
    rows = [(d, k, y, 1 / v) for d, (ys, vs) in SCHOOLS.items() for k, (y, v) in enumerate(zip(ys, vs, strict=True))]
    return pd.DataFrame(rows, columns=["district", "school", "y", "w"])


def outcomes(method):
    data = pd.DataFrame(BERKEY).assign(trial=range(5)).melt("trial", var_name="outcome", value_name="y")
    data = data.sort_values("trial", kind="stable", ignore_index=True).assign(row=range(10))
    V = np.zeros((10, 10))
    for i, (first, both, second) in enumerate(SAMPLING):  # PD before AL in each trial
        V[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[first, both], [both, second]]
    residual = KnownMatrix(variance=1.0, known=V).over("row")
    return jaxlmm.lmm("y ~ 0 + outcome + (0 + outcome | trial)", data, method, residual=residual)


def check(fit, coef, se, rtol=2e-6):
    assert fit.converged
    np.testing.assert_allclose(fit.coef, coef, rtol=rtol)
    np.testing.assert_allclose(fit.se, se, rtol=rtol)


@pytest.mark.parametrize(
    ("method", "coef", "se", "variances", "correlation"),
    [
        ("REML", [-0.3392153206, 0.3534281447], [0.08790528031, 0.05884846744], [0.03265145152, 0.01173293266],
         0.6087963223),
        pytest.param("ML", [-0.3379382730, 0.3448410607], [0.07976377573, 0.04946150907],
                     [0.02614498815, 0.007002741055], 0.6992057822, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_two_outcomes_with_known_covariances(method, coef, se, variances, correlation):
    """By ML metafor stops 5e-9 below the optimum, and its numbers are 1e-4 from it (dense: SE .04945984)."""
    fit, rtol = outcomes(method), 1e-5 if method == "REML" else 1e-4
    check(fit, coef, se, rtol)
    if method == "ML":
        np.testing.assert_allclose([fit.loglik, fit.se[1]], [5.8406568848, 0.04945984], rtol=5e-7)
    G = fit.estimate.covariances[0]
    np.testing.assert_allclose(np.diagonal(G), variances, rtol=20 * rtol)
    np.testing.assert_allclose(G[0, 1] / np.sqrt(G[0, 0] * G[1, 1]), correlation, rtol=20 * rtol)


@pytest.mark.slow
def test_one_outcome():
    data, known = bcg(), {"weights": "w", "residual": "iid(variance=1)"}
    check(jaxlmm.lmm("y ~ 1", data, **known), [-0.4302851637], [0.04049875171])
    fit = jaxlmm.lmm("y ~ 1 + (1 | trial)", data, **known)
    check(fit, [-0.7145323437], [0.1797815201])
    np.testing.assert_allclose(fit.estimate.covariances[0], 0.3132432753, rtol=1e-5)
    fit = jaxlmm.lmm("y ~ latitude + (1 | trial)", data, "ML", **known)
    check(fit, [0.2821071765, -0.02950933541], [0.1871845513, 0.005487736168], 1e-5)
    np.testing.assert_allclose(fit.estimate.covariances[0], 0.03435143973, rtol=1e-4)
    np.testing.assert_allclose(fit.loglik, -7.685665528, rtol=1e-9)


@pytest.mark.slow
def test_three_levels():
    fit = jaxlmm.lmm("y ~ 1 + (1 | district/school)", schools(), weights="w", residual="iid(variance=1)")
    check(fit, [0.1847131640], [0.08455592001])
    found = [float(G[0, 0]) for G in fit.estimate.covariances]
    np.testing.assert_allclose(sorted(found), [0.0327365157, 0.0650619469], rtol=1e-5)
