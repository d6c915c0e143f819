"""Variance functions: standard deviations as a multiple g of a covariate, with the definitions of nlme.

Pinheiro & Bates 2000, section 5.2.1. Parameters are estimated or given: ``Power(power=0.5)``.
"""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from .helpers import codes
from .kinds import PositiveKind, RealKind, module_of
from .parameter import Positive, Real, each_level
from .parametric import Parametric


class VarianceFunction(Parametric):
    """A positive function of a covariate by which standard deviations are multiplied.

    A subclass declares its parameters, which carry no scale, as a `Covariance` does, and implements `factor`.
    """

    def factor(self, x: Any) -> Array:
        """Multiples (m,) of the standard deviation at values x (m,) of the covariate."""
        raise NotImplementedError(f"{type(self).__name__} must implement factor(self, x)")

    def line(self, x: Any) -> tuple[Any, int] | None:
        """What the logarithm of the factor is about proportional to, and the place of the parameter; None: nothing.

        A parameter beside it is added to the factor, and its coordinate is its logarithm.
        """
        return None


class Power(VarianceFunction):
    """``|x| ** power`` (nlme varPower); x must not be zero."""

    power: Real

    def factor(self, x: Any) -> Array:
        """Multiples (m,) of the standard deviation."""
        return jnp.exp(self.power * jnp.log(jnp.abs(x)))

    def line(self, x: Any) -> tuple[Any, int] | None:
        """The logarithm of the covariate."""
        return module_of(x).log(abs(x)), 0


class Exp(VarianceFunction):
    """``exp(rate * x)`` (nlme varExp)."""

    rate: Real

    def factor(self, x: Any) -> Array:
        """Multiples (m,) of the standard deviation."""
        return jnp.exp(self.rate * x)

    def line(self, x: Any) -> tuple[Any, int] | None:
        """The covariate itself."""
        return x, 0


class ConstPower(VarianceFunction):
    """``const + |x| ** power`` (nlme varConstPower); x must not be zero."""

    const: Annotated[Positive, PositiveKind(first=1.0)]
    power: Annotated[Real, RealKind(first=0.5)]

    def factor(self, x: Any) -> Array:
        """Multiples (m,) of the standard deviation."""
        return self.const + jnp.exp(self.power * jnp.log(jnp.abs(x)))

    def line(self, x: Any) -> tuple[Any, int] | None:
        """The logarithm of the covariate."""
        return module_of(x).log(abs(x)), 1


class Ident(VarianceFunction):
    """A standard deviation for each level, as `ratios` to that of the first (nlme varIdent)."""

    ratios: Annotated[Positive, PositiveKind(first=1.0), each_level - 1]

    def factor(self, x: Any) -> Array:
        """Multiples (m,) of the standard deviation at levels x, integer positions."""
        return jnp.concatenate([jnp.ones(1), self.ratios])[codes(x)]


FUNCTIONS: dict[str, type[VarianceFunction]] = {"power": Power, "exp": Exp, "const_power": ConstPower, "ident": Ident}
