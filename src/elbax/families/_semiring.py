"""How a dynamic program adds up: over all paths, over the best one, or over one drawn at random."""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Array, Key


class AbstractSemiring(eqx.Module):
    r"""A way to sum log-weights; products are sums of logarithms in all of them.

    A log-normalizer written with `sum` is the log-partition function in `LOG`, the score of the best
    configuration in `MAX`. Its gradient is the marginals in `LOG`, the statistics of the best
    configuration in `MAX`, and those of one draw in `Sampling`: each sum passes its cotangent on to all terms
    in proportion, to the largest, or to one drawn in proportion (Goodman 1999; Eisner 2016).
    −∞ is a term that is not there, and a sum of none is −∞, with a derivative of zero.
    """

    @abc.abstractmethod
    def sum(self, x: Array, axis: int, key: Key | None = None) -> Array:
        """The sum over one axis; `key` as `keys` gave it."""

    def keys(self, number: int) -> Array | None:
        """One key for each of that many sums, or None where nothing is drawn."""
        return None


class _Log(AbstractSemiring):
    def sum(self, x: Array, axis: int, key: Key | None = None) -> Array:
        return _log_sum(x, axis)


class _Max(AbstractSemiring):
    def sum(self, x: Array, axis: int, key: Key | None = None) -> Array:
        return _max(x, axis)


LOG = _Log()
MAX = _Max()


class Sampling(AbstractSemiring):
    """Sums as `LOG` does, and its derivative follows one term drawn in proportion."""

    key: Key

    def sum(self, x: Array, axis: int, key: Key | None = None) -> Array:
        return _sampled(x, self.key if key is None else key, axis)

    def keys(self, number: int) -> Array:
        return jax.random.split(self.key, number)


def _stable(x: Array, axis: int) -> Array:
    top = jax.lax.stop_gradient(jnp.max(x, axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.squeeze(top, axis) + jnp.log(jnp.sum(jnp.exp(x - top), axis))


def _passed(weights: Array, tangent: Array, axis: int) -> Array:
    # A term that is not there has weight 0, and whatever tangent.
    return jnp.sum(jnp.where(weights > 0, weights * tangent, 0), axis)


# JAX's own logsumexp has NaN for a derivative where all terms are −∞, and its residuals hold more.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_sum(x: Array, axis: int) -> Array:
    return _stable(x, axis)


@_log_sum.defjvp
def _(axis, primals, tangents):
    (x,), (tangent,) = primals, tangents
    total = _log_sum(x, axis)
    shift = jnp.expand_dims(jnp.where(jnp.isfinite(total), total, 0), axis)
    return total, _passed(jnp.exp(x - shift), tangent, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max(x: Array, axis: int) -> Array:
    return jnp.max(x, axis)


def _one_hot(x: Array, scores: Array, axis: int) -> Array:
    """One of the terms that are there, the one of highest score (ties give one)."""
    best = jnp.argmax(jnp.where(jnp.isneginf(x), -jnp.inf, scores), axis)
    chosen = jax.nn.one_hot(best, x.shape[axis], dtype=x.dtype, axis=axis)
    return jnp.where(jnp.isneginf(x), 0, chosen)


@_max.defjvp
def _(axis, primals, tangents):
    (x,), (tangent,) = primals, tangents
    return _max(x, axis), _passed(_one_hot(x, x, axis), tangent, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _sampled(x: Array, key: Key, axis: int) -> Array:
    return _stable(x, axis)


@_sampled.defjvp
def _(axis, primals, tangents):
    (x, key), (tangent, _) = primals, tangents
    noise = jax.random.gumbel(key, x.shape, x.dtype)
    return _stable(x, axis), _passed(_one_hot(x, x + noise, axis), tangent, axis)
