"""A latent with finitely many values."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import log, vdot
from .._types import Any, Array, Callable, Float, Int, Key, Scalar
from ._conjugate import AbstractConjugateFamily
from ._undefined import where_defined


class Categorical(AbstractConjugateFamily):
    r"""A categorical latent z ∈ {0, …, K − 1} with $t(z) = e_z$ (one-hot) and $A(\eta) = \log \sum_k e^{\eta_k}$.

    The natural parameters are logits of shape `(num_values,)`. They need not be normalized; −∞ marks an
    impossible value. The mean parameters are the probabilities (responsibilities).

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.Categorical(2)(jnp.log(jnp.array([1.0, 3.0])))
    >>> print(q.mean().round(4))
    [0.25 0.75]

    ```
    """

    num_values: int = eqx.field(static=True)

    discrete: ClassVar[bool] = True
    finite: ClassVar[bool] = True
    event_ndim: ClassVar[int] = 0

    def __check_init__(self):
        check_count("Categorical", num_values=self.num_values)

    @property
    def event_shape(self) -> Any:
        return (self.num_values,)

    @property
    def natural_shapes(self) -> Any:
        return ((self.num_values,),)

    def batch_ndim(self, natural: Float[Array, "..."]) -> int:
        return jnp.ndim(natural) - 1

    def _normalize(self, natural: Float[Array, " K"]) -> tuple[Scalar, Float[Array, " K"]]:
        """Returns (A(η), ∇A(η)), computed from one set of exponentials."""
        top = jax.lax.stop_gradient(jnp.max(natural))
        odds = jnp.exp(natural - jnp.where(jnp.isfinite(top), top, 0))
        total = jnp.sum(odds)
        return top + jnp.log(total), odds / total

    def log_normalizer(self, natural: Float[Array, " K"]) -> Scalar:
        return self._normalize(natural)[0]

    def mean(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        return self._normalize(natural)[1]

    def statistics(self, z: Int[Array, ""]) -> Float[Array, " K"]:
        return jax.nn.one_hot(z, self.num_values)

    def sample(self, natural: Float[Array, " K"], key: Key) -> Int[Array, ""]:
        # One uniform number; the Gumbel trick needs one for every value. The level lies in (0, last], so a value
        # of probability 0 is never selected.
        cumulative = jnp.cumsum(self.mean(natural))
        level = (1 - jax.random.uniform(key, dtype=cumulative.dtype)) * cumulative[-1]
        drawn = jnp.sum(cumulative < level, dtype=int)
        return where_defined(cumulative[-1] > 0, drawn)

    def mode(self, natural: Float[Array, " K"]) -> Int[Array, ""]:
        return where_defined(jnp.isfinite(jnp.max(natural)), jnp.argmax(natural))

    def mode_statistics(self, natural: Float[Array, " K"]) -> Float[Array, " K"]:
        mode = self.mode(natural)
        return where_defined(mode >= 0, self.statistics(mode))

    def from_network(self, output: Float[Array, " K"]) -> Float[Array, " K"]:
        if output.shape != (self.num_values,):
            raise ValueError(
                f"Categorical({self.num_values}): an encoder must return {self.num_values} logits, shape "
                f"({self.num_values},); got shape {output.shape}."
            )
        return output

    def read(
        self, function: Callable[[Any], Scalar], dtype: Any = float
    ) -> tuple[Float[Array, " K"], Scalar]:
        """Enumerates all values: λₖ = function(k), c = 0."""
        potentials = jax.vmap(function)(jnp.arange(self.num_values))
        return potentials, jnp.zeros((), potentials.dtype)

    def bound(self, natural: Float[Array, " K"], potentials: Float[Array, " K"]) -> Scalar:
        # An impossible value has μ = 0 and contributes 0, not 0 · (−∞ + ∞): hence the two `where`s, placed inside
        # so that the gradient is finite too.
        log_normalizer, mean = self._normalize(natural)
        possible = mean > 0
        gap = jnp.where(possible, potentials, 0) - jnp.where(possible, natural, 0)
        return log_normalizer + vdot(mean, gap)

    def log_prob(self, natural: Float[Array, " K"], z: Int[Array, ""]) -> Scalar:
        return self.score(natural, z) - self.log_normalizer(natural)

    def score(self, natural: Float[Array, " K"], z: Int[Array, ""]) -> Scalar:
        inside = (z >= 0) & (z < self.num_values)
        return jnp.where(inside, natural[jnp.where(inside, z, 0)], -jnp.inf)

    def expect(
        self, natural: Float[Array, " K"], function: Callable[[Any], Any], key: Key | None
    ) -> Any:
        """Returns the exact sum over all values; `key` is not used."""
        mean = self.mean(natural)
        values = jax.vmap(function)(jnp.arange(self.num_values))

        def average(value):
            weight = mean.reshape(mean.shape + (1,) * (value.ndim - 1))
            return jnp.sum(jnp.where(weight > 0, weight * jnp.where(weight > 0, value, 0), 0), 0)

        return jax.tree.map(average, values)

    def coordinates(self, z: Int[Array, "..."]) -> Float[Array, "... K"]:
        """Returns the one-hot vector of z."""
        return jax.nn.one_hot(z, self.num_values)

    def of_coordinates(self, point: Array) -> Array:
        return point

    def center(self, natural: Array) -> Array:
        return jax.nn.softmax(natural, -1)

    def near(self, point: Array) -> Array:
        return self.to_unconstrained(point)

    def nodes(self, natural: Array) -> Array:
        """Returns the probabilities: a function that is linear in the one-hot vector has its mean there."""
        return jax.nn.softmax(natural, -1)[None]

    def read_about(self, function: Callable[[Any], Scalar], point: Array) -> Array:
        """A function that is linear in the one-hot vector has its values as the gradient."""
        return jax.grad(function)(point)

    def to_unconstrained(self, point: Array) -> Array:
        return log(point)

    def from_unconstrained(self, free: Array) -> Array:
        return jax.nn.softmax(free, -1)

    def origin(self, dtype: Any) -> Array:
        return jnp.full((self.num_values,), 1 / self.num_values, dtype)
