"""How a dynamic program sums: over all paths, over the best one, or over one drawn at random."""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Key


class AbstractSemiring(eqx.Module):
    r"""A way to sum log-weights. In all semirings, products are sums of logarithms.

    A log-normalizer written with `sum` is the log-partition function in `LOG` and the score of the best
    configuration in `MAX`. Its gradient is the marginals in `LOG`, the statistics of the best configuration in
    `MAX`, and those of one draw in `Sampling`: each sum passes its cotangent to all terms in proportion, to the
    largest, or to one drawn in proportion (Goodman 1999; Eisner 2016). A term of −∞ is absent. A sum without terms
    is −∞, with derivative zero.
    """

    @abc.abstractmethod
    def total(self, x: Array, axis: int) -> Array:
        """Returns the sum over one axis; its derivative is not defined here."""

    def sum(self, x: Array, axis: int, key: Key | None = None) -> Array:
        """Returns the sum over one axis; `key` comes from `keys`."""
        return _sum(self, x, key, axis)

    @abc.abstractmethod
    def shares(self, x: Array, total: Array, axis: int, key: Key | None = None) -> Array:
        """Returns the derivative of `total = sum(x, axis, key)` in each term, 0 for an absent term."""

    def total_of(self, terms: list[Array]) -> Array:
        """Returns `total` of a few arrays, entry by entry."""
        return self.total(jnp.stack(terms), 0)

    def shares_of(self, terms: list[Array], total: Array, key: Key | None = None) -> list[Array]:
        """Returns `shares` of a few arrays."""
        return list(self.shares(jnp.stack(terms), total, 0, key))

    def keys(self, number: int) -> Array | None:
        """Returns one key for each of `number` sums, or None if nothing is drawn."""
        return None


class _Log(AbstractSemiring):
    def total(self, x, axis):
        top = jax.lax.stop_gradient(jnp.max(x, axis, keepdims=True))
        top = jnp.where(jnp.isfinite(top), top, 0)
        return jnp.squeeze(top, axis) + jnp.log(jnp.sum(jnp.exp(x - top), axis))

    def total_of(self, terms):
        # Without a stacked axis XLA fuses it into one loop.
        top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, terms))
        top = jnp.where(jnp.isfinite(top), top, 0)
        return top + jnp.log(sum(jnp.exp(term - top) for term in terms))

    def shares(self, x, total, axis, key=None):
        return jnp.exp(x - jnp.expand_dims(jnp.where(jnp.isfinite(total), total, 0), axis))

    def shares_of(self, terms, total, key=None):
        total = jnp.where(jnp.isfinite(total), total, 0)
        return [jnp.exp(term - total) for term in terms]


class _Max(AbstractSemiring):
    def total(self, x, axis):
        return jnp.max(x, axis)

    def shares(self, x, total, axis, key=None):
        return _one_hot(x, x, axis)


LOG = _Log()
MAX = _Max()


class Sampling(_Log):
    """Sums as `LOG` does; its derivative selects one term, drawn in proportion."""

    key: Key

    def shares_of(self, terms, total, key=None):
        return list(self.shares(jnp.stack(terms), total, 0, key))

    def shares(self, x, total, axis, key=None):
        noise = jax.random.gumbel(self.key if key is None else key, x.shape, x.dtype)
        return _one_hot(x, x + noise, axis)

    def keys(self, number: int) -> Array:
        return jax.random.split(self.key, number)


def _one_hot(x: Array, scores: Array, axis: int) -> Array:
    """Returns the indicator of the present term with the highest score; a tie selects one."""
    best = jnp.argmax(jnp.where(jnp.isneginf(x), -jnp.inf, scores), axis)
    chosen = jax.nn.one_hot(best, x.shape[axis], dtype=x.dtype, axis=axis)
    return jnp.where(jnp.isneginf(x), 0, chosen)


# The derivative of JAX's own logsumexp is NaN if all terms are −∞.
# The semiring is a traced argument because it may hold a key.
@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _sum(semiring: AbstractSemiring, x: Array, key: Key | None, axis: int) -> Array:
    return semiring.total(x, axis)


@_sum.defjvp
def _(axis, primals, tangents):
    (semiring, x, key), (_, tangent, _) = primals, tangents
    total = _sum(semiring, x, key, axis)
    return total, jnp.sum(semiring.shares(x, total, axis, key) * tangent, axis)
