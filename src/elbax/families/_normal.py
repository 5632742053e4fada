"""A real number with a Gaussian distribution."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Any, Array, Callable, Key, Scalar
from ._conjugate import AbstractConjugateFamily


class Normal(AbstractConjugateFamily):
    r"""A Gaussian number z with $t(z) = (z, -\tfrac12 z^2)$.

    $A(h, J) = \tfrac12 (h^2 / J - \log J + \log 2\pi)$. The natural
    parameters are (h, J): J is the precision and h = J m. An encoder returns the mean and the log standard
    deviation. `Gaussian` is a vector.

    ```python
    >>> import elbax
    >>> q = elbax.families.Normal().from_description(mean=0.5, precision=4.0)
    >>> print(q.mode(), q.entropy().round(4))
    0.5 0.7258

    ```
    """

    event_ndim: ClassVar[int] = 0
    event_shape: ClassVar[Any] = ()

    def batch_ndim(self, natural: tuple) -> int:
        return jnp.ndim(natural[0])

    def from_description(self, *, mean: Any, precision: Any) -> Any:
        """Returns N(mean, 1 / precision), one for each entry of arrays."""
        mean, precision = jnp.broadcast_arrays(
            jnp.asarray(mean, float), jnp.asarray(precision, float)
        )
        return self((precision * mean, precision))

    def log_normalizer(self, natural: tuple) -> Scalar:
        linear, precision = natural
        return 0.5 * (linear**2 / precision - jnp.log(precision) + math.log(2 * math.pi))

    def mean(self, natural: tuple) -> tuple[Scalar, Scalar]:
        mean = self.center(natural)
        return mean, -0.5 * (1 / natural[1] + mean**2)

    def entropy(self, natural: tuple) -> Scalar:
        return 0.5 * (math.log(2 * math.pi * math.e) - jnp.log(natural[1]))

    def statistics(self, z: Scalar) -> tuple[Scalar, Scalar]:
        return z, -0.5 * z**2

    def sample(self, natural: tuple, key: Key) -> Scalar:
        noise = jax.random.normal(key, dtype=natural[1].dtype)
        return self.center(natural) + noise / jnp.sqrt(natural[1])

    def mode(self, natural: tuple) -> Scalar:
        return self.center(natural)

    def from_network(self, output: Array) -> tuple[Scalar, Scalar]:
        precision = jnp.exp(-2 * output[1])
        return precision * output[0], precision

    def center(self, natural):
        return natural[0] / natural[1]

    def near(self, point):
        return point, jnp.ones_like(point)

    def nodes(self, natural):
        center, deviation = self.center(natural), 1 / jnp.sqrt(natural[1])
        return jnp.stack([center + deviation, center - deviation])

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> tuple[Array, Array]:
        """Entries do not interact, so one product with ones has all second derivatives."""
        slope, curvature = jax.jvp(jax.grad(function), (point,), (jnp.ones_like(point),))
        return slope - curvature * point, -curvature

    def to_unconstrained(self, point):
        return point

    def from_unconstrained(self, free):
        return free

    def origin(self, dtype):
        return jnp.zeros((), dtype)
