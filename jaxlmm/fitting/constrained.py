"""Covariance parameters as a function of fewer, ``theta = h(phi)``: what is estimated, and errors of what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..pytrees import frozen_pytree
from ..runtime.precision import pure
from .units import Estimates

Through = Callable[[Array], Any]


@frozen_pytree()
@dataclass(frozen=True, eq=False)
class Constrained(Estimates):
    """Estimates of a fit over phi, of which ``theta = h(phi)``. Decrement and `min_eigenvalue` are those in phi.

    Attributes
    ----------
    phi (j,), phi_vcov (j, j) : estimates and the inverse of their observed information; NaN where the data, or h, do
        not determine phi
    theta_vcov : (k, k) of theta, by the delta method
    """

    phi: Any
    phi_vcov: Any
    theta_vcov: Any

    def delta(self, g: Callable[[Array], Any]) -> tuple[Array, Array]:
        """Values (m,) of a function of phi, and their covariance (m, m) by the delta method; of one lane."""
        with pure():
            value, J = jnp.atleast_1d(g(self.phi)), jnp.atleast_2d(jax.jacfwd(g)(self.phi))
            return value, J @ self.phi_vcov @ J.T
