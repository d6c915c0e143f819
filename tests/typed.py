"""What a type checker knows of the public functions: `mypy` reads this file, nothing runs it."""

from __future__ import annotations

from typing import assert_type

import jax
import numpy as np

import jaxlmm
from jaxlmm.estimates.ranef import RandomEffects
from jaxlmm.estimates.varcorr import VarCorr
from jaxlmm.frames.tables import Summary
from jaxlmm.inference.delta import Delta
from jaxlmm.inference.fixed_effects.anova import Anova
from jaxlmm.inference.fixed_effects.linear import LinearTest
from jaxlmm.inference.means.table import EMMeans
from jaxlmm.inference.profiles.profile import Profile
from jaxlmm.inference.ratios.criteria import ConditionalAIC
from jaxlmm.inference.ratios.exact import ExactTest
from jaxlmm.inference.robust.influence import Influence
from jaxlmm.inference.robust.sandwich import Sandwich
from jaxlmm.inference.robust.scores import Scores
from jaxlmm.simulation.draws import Draws
from jaxlmm.study.results import Results

fit = jaxlmm.lmm("y ~ x + (1 | g)", {"y": [1.0], "x": [2.0], "g": ["a"]})
assert_type(fit, jaxlmm.Fit)
assert_type(fit.loglik, float)
assert_type(fit.coef, np.ndarray)
assert_type(fit.coef_names, tuple[str, ...])
assert_type(fit.sigma, float | None)
assert_type(fit.converged, bool)
assert_type(fit.varcorr(), VarCorr)
assert_type(fit.ranef(), RandomEffects)
assert_type(fit.summary(), Summary)
assert_type(fit.test("x"), LinearTest)
assert_type(fit.anova(), Anova)
assert_type(fit.emmeans("x"), EMMeans)
assert_type(fit.comparisons("x"), EMMeans)
assert_type(fit.slopes("x"), EMMeans)
assert_type(fit.predictions(), EMMeans)
assert_type(fit.sandwich(), Sandwich)
assert_type(fit.scores(), Scores)
assert_type(fit.influence(), Influence)
assert_type(fit.profile(), Profile)
assert_type(fit.bootstrap(), jaxlmm.Bootstrap)
assert_type(fit.draws(), Draws)
assert_type(fit.icc(), Delta)
assert_type(fit.caic(), ConditionalAIC)
assert_type(fit.simulate(), np.ndarray)
assert_type(fit.refit(np.zeros((2, 1))), jaxlmm.Fit | jaxlmm.BatchFit)
assert_type(fit.save("fit"), None)
assert_type(jaxlmm.load("fit"), jaxlmm.Fit | jaxlmm.BatchFit)
assert_type(jaxlmm.compare(fit, fit), jaxlmm.Comparison)
assert_type(jaxlmm.rlrt(fit), ExactTest)
assert_type(fit.model, jaxlmm.Model)
assert_type(jaxlmm.reml(fit.theta, fit.model), jax.Array)
assert_type(jaxlmm.fit(fit.model), jaxlmm.Estimates)

batch = jaxlmm.fit_batch(fit.model, np.zeros((2, 1)))
assert_type(batch, jaxlmm.BatchFit)
assert_type(batch.converged, np.ndarray)
assert_type(batch[0], jaxlmm.Replicate)
assert_type(jaxlmm.Unstructured() + jaxlmm.covariance.Identity(), jaxlmm.covariance.Sum)
assert_type(jaxlmm.study.read("results"), Results)
