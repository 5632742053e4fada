"""A real vector with independent Gaussian coordinates."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._types import Any, Array, Callable, Float, Key, Scalar
from ._family import AbstractFamily


class DiagonalGaussian(AbstractFamily):
    r"""A Gaussian latent $z \in R^d$ with independent coordinates: $t(z) = (z, -\tfrac12 z^2)$.

    The natural parameters are (h, τ), each of shape `(dim,)`: τ are the precisions and $h = \tau m$.
    $A(h, \tau) = \tfrac12 \sum_i (h_i^2 / \tau_i - \log \tau_i + \log 2\pi)$. An encoder returns 2·dim numbers:
    the mean and the log standard deviations.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.DiagonalGaussian(1)((jnp.array([2.0]), jnp.array([4.0])))
    >>> print(q.mode(), q.entropy().round(4))
    [0.5] 0.7258

    ```
    """

    event_ndim: ClassVar[int] = 1

    dim: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("DiagonalGaussian", dim=self.dim)

    @property
    def natural_shapes(self) -> Any:
        return (self.dim,), (self.dim,)

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0]) - 1

    def log_normalizer(self, natural: tuple) -> Scalar:
        linear, precision = natural
        return 0.5 * jnp.sum(linear**2 / precision - jnp.log(precision) + math.log(2 * math.pi))

    def mean(self, natural: tuple) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        linear, precision = natural
        mean = linear / precision
        return mean, -0.5 * (1 / precision + mean**2)

    def entropy(self, natural: tuple) -> Scalar:
        return 0.5 * jnp.sum(math.log(2 * math.pi * math.e) - jnp.log(natural[1]))

    def statistics(self, z: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        return z, -0.5 * z**2

    def sample(self, natural: tuple, key: Key) -> Float[Array, " d"]:
        linear, precision = natural
        noise = jax.random.normal(key, (self.dim,), linear.dtype)
        return linear / precision + noise / jnp.sqrt(precision)

    def mode(self, natural: tuple) -> Float[Array, " d"]:
        return natural[0] / natural[1]

    def from_network(self, output: Float[Array, " size"]) -> tuple[Array, Array]:
        if output.shape != (2 * self.dim,):
            raise ValueError(
                f"DiagonalGaussian({self.dim}): an encoder must return {2 * self.dim} numbers (mean, log "
                f"standard deviations); got shape {output.shape}."
            )
        precision = jnp.exp(-2 * output[self.dim :])
        return precision * output[: self.dim], precision

    def read(
        self, function: Callable[[Any], Scalar], dtype: Any = float
    ) -> tuple[tuple[Array, Array], Scalar]:
        """Expands to second order at the origin; a separable function has one second derivative per coordinate."""
        origin = jnp.zeros(self.dim, dtype)
        constant, linear = jax.value_and_grad(function)(origin)
        _, curvature = jax.jvp(jax.grad(function), (origin,), (jnp.ones(self.dim, dtype),))
        return (linear, -curvature), constant
