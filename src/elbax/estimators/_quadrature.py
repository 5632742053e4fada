"""Gauss–Hermite quadrature."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import matmul
from .._math.linear_algebra import cholesky, invert_triangle
from ..families import DiagonalGaussian, Gaussian
from ._estimator import AbstractEstimator


_MOST = 2**17


class Quadrature(AbstractEstimator):
    r"""Computes $\sum_i w_i \log p(x, m + L u_i) + H(q)$ over a product grid of Gauss–Hermite points.

    $L L^\top$ is q's covariance. n points per dimension are exact for polynomials of degree 2n − 1 in each
    coordinate. The grid has n^d points, so it is for few dimensions.

    **Arguments:** `num_points`: n, the number of points per dimension.
    """

    num_points: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        check_count("Quadrature", num_points=self.num_points)

    @property
    def exact(self) -> bool:
        return True

    def check(self, family):
        if not isinstance(family, Gaussian | DiagonalGaussian):
            raise TypeError(
                f"Quadrature: the latent must be Gaussian or DiagonalGaussian, got {type(family).__name__}. For "
                "a finite latent use Enumeration."
            )
        if self.num_points**family.dim > _MOST:
            raise TypeError(
                f"Quadrature: {self.num_points} points in each of {family.dim} dimensions are "
                f"{float(self.num_points) ** family.dim:.2g} points, more than {_MOST}. Use fewer points, or "
                "Reparameterized, which samples."
            )

    def __call__(self, log_joint, q, key):
        return self.average(log_joint, q, key) + q.entropy()

    def average(self, function, q, key):
        linear, precision = q.natural
        points, weights = _grid(self.num_points, len(linear))
        points = jnp.asarray(points, linear.dtype)
        if precision.ndim == 1:
            z = linear / precision + points / jnp.sqrt(precision)
        else:
            # J = C Cᵀ, so that m + C⁻ᵀ u has covariance J⁻¹.
            inverse = invert_triangle(cholesky(precision))
            z = matmul(matmul(inverse, linear), inverse) + matmul(points, inverse)
        values = jax.vmap(function)(z)
        return jnp.sum(jnp.asarray(weights, values.dtype) * values)


@functools.cache
def _grid(number: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns points (number^dim, dim) and weights for a standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(number)
    weights = weights / weights.sum()
    grid = np.stack(np.meshgrid(*[points] * dim, indexing="ij"), -1).reshape(-1, dim)
    product = functools.reduce(np.multiply.outer, [weights] * dim).reshape(-1)
    return grid, product
