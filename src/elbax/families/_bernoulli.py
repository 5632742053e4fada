"""A latent truth value."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._math.algebra import log
from .._math.special import softplus
from .._types import Any, Array, Callable, Float, Int, Key, Scalar
from ._conjugate import AbstractConjugateFamily
from ._undefined import where_defined


class Bernoulli(AbstractConjugateFamily):
    r"""A latent z ∈ {0, 1} with t(z) = z and $A(\eta) = \log(1 + e^\eta)$; η is the logit of z = 1.

    Plates of them are independent switches. An encoder returns the logit.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.families.Bernoulli()(jnp.log(jnp.array([1.0, 3.0])))
    >>> print(q.mean().round(4), q.mode())
    [0.5  0.75] [0 1]

    ```
    """

    discrete: ClassVar[bool] = True
    finite: ClassVar[bool] = True
    event_ndim: ClassVar[int] = 0
    event_shape: ClassVar[Any] = ()

    def batch_ndim(self, natural: Float[Array, "..."]) -> int:
        return jnp.ndim(natural)

    def log_normalizer(self, natural: Scalar) -> Scalar:
        return softplus(natural)

    def mean(self, natural: Scalar) -> Scalar:
        return jax.nn.sigmoid(natural)

    def entropy(self, natural: Scalar) -> Scalar:
        # −p log p − (1 − p) log (1 − p), with log p = −softplus(−η): nothing cancels.
        up, down = jax.nn.sigmoid(natural), jax.nn.sigmoid(-natural)
        finite = jnp.where(jnp.isinf(natural), 0, natural)
        return up * softplus(-finite) + down * softplus(finite)

    def statistics(self, z: Array) -> Array:
        return jnp.asarray(z, jnp.result_type(float)) if z.dtype.kind != "f" else z

    def outside(self, z: Array) -> Array:
        # Between 0 and 1 are relaxed draws, and grey levels as the expectation of black and white.
        value = self.statistics(z)
        return (value < 0) | (value > 1)

    def sample(self, natural: Scalar, key: Key) -> Int[Array, ""]:
        drawn = jax.random.uniform(key, dtype=natural.dtype) < jax.nn.sigmoid(natural)
        return where_defined(~jnp.isnan(natural), drawn.astype(int))

    def mode(self, natural: Scalar) -> Int[Array, ""]:
        return where_defined(~jnp.isnan(natural), (natural > 0).astype(int))

    def from_network(self, output: Array) -> Array:
        return output.reshape(())

    def coordinates(self, z):
        return self.statistics(z)

    def center(self, natural):
        return jax.nn.sigmoid(natural)

    def near(self, point):
        return self.to_unconstrained(point)

    def nodes(self, natural):
        return jax.nn.sigmoid(natural)[None]

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> Array:
        """A function that is linear in z has one derivative."""
        return jax.grad(function)(point)

    def to_unconstrained(self, point):
        return log(point) - log(1 - point)

    def from_unconstrained(self, free):
        return jax.nn.sigmoid(free)

    def origin(self, dtype):
        return jnp.full((), 0.5, dtype)
