"""The base class of covariance structures: annotated natural parameters in, a covariance matrix out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax import Array

from ..errors import JaxlmmError
from ..linalg import lower_from_vector, tril_indices
from .over import Over
from .parametric import Parametric

if TYPE_CHECKING:
    from .composition import Kronecker, Product, Sum


class Covariance(Parametric):
    """A covariance structure: a small frozen pytree whose leaves are natural parameters.

    A subclass declares its natural parameters as annotated fields and implements `matrix`; that is all::

        class OrnsteinUhlenbeck(jaxlmm.Covariance):
            variance: Variance
            range: Positive

            def matrix(self, t):
                return self.variance * jnp.exp(-abs(t[:, None] - t[None, :]) / self.range)

    Field kinds are `Variance`, `Positive`, `Correlation`, `CovarianceMatrix`; ``Annotated[Variance, each_level]``
    is a vector with one entry a level. Fields without a kind are static options. `matrix` must be homogeneous of
    degree one in its `Variance` and `CovarianceMatrix` fields and positive semidefinite at all allowed values.
    An instance without values (``OrnsteinUhlenbeck()``) is a structure to be estimated; a field that is given a value
    is fixed at it (``OrnsteinUhlenbeck(range=2.0)``), and `tied` makes entries of a vector share a parameter.
    ``A + B``, ``A * B`` and ``A @ B`` are the sum, the elementwise and the Kronecker product.
    """

    def matrix(self, levels: Any) -> Array:
        """Covariance matrix (m, m) at `levels` (m,): positions 0, 1, ... of the levels, or coordinates."""
        raise NotImplementedError(f"{type(self).__name__} must implement matrix(self, levels)")

    def over(self, text: str) -> Over:
        """The structure over columns of a data frame: ``"time | id"``, ``"lat + lon"``, ``"visit | arm / id"``."""
        return Over(self, text)

    def __add__(self, other: Covariance) -> Sum:
        from .composition import Sum

        return Sum(self, other)

    def __mul__(self, other: Covariance) -> Product:
        from .composition import Product

        return Product(self, other)

    def __matmul__(self, other: Covariance) -> Kronecker:
        from .composition import Kronecker

        return Kronecker(self, other)

    @property
    def is_matrix(self) -> bool:
        """Whether the structure is one free covariance matrix."""
        return len(self.free) == len(self.fields) == 1 and self.free[0].is_matrix and self.free[0].kind.is_whole

    def in_basis(self, s: Any, dim: int, K: Any) -> Any:
        """Coordinates (..., size) of ``K G K'``, K (..., q, q) lower triangular; unchanged unless a free matrix."""
        if not self.is_matrix or dim < 2:
            return s
        rows, columns = tril_indices(dim)
        return (K @ lower_from_vector(s, dim))[..., rows, columns]

    def checked(self, where: str, dim: Any = None) -> Covariance:
        """The structure itself, or a clear error when it cannot be estimated (for `dim` levels, when given)."""
        if not isinstance(self, Covariance) or type(self) is Covariance:
            raise JaxlmmError(f"{where}: expected a covariance structure such as Unstructured(), found {self!r}")
        if self.has_values:
            raise JaxlmmError(
                f"{where}: {type(self).__name__} has values of parameters that are estimated; give a structure without "
                f"values, such as {type(self).__name__}(), or one that is constructed with them, which fixes them"
            )
        if dim is not None:
            self.check_fixed(dim)
            self.size(dim)  # of what is tied
        return self
