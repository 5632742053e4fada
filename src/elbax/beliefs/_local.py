"""Local reparameterization: draws of what a linear layer returns in place of its weights."""

import itertools
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp

from .._types import Any, Array, Key, PyTree


if TYPE_CHECKING:
    from ._gaussian import GaussianBelief
    from ._whitened import Whitened


class LocalLinear(eqx.Module):
    r"""A linear layer whose weights are independent normals, by a draw of its output.

    Of one input u the outputs are independent, $(W u + b)_i \sim N(\bar W_i u + \bar b_i, \sum_j S_{ij}^2 u_j^2 +
    s_i^2)$, so one draw for each output has the distribution that draws of all weights give, and a gradient of
    less variance (Kingma, Salimans and Welling 2015). It holds for a layer that is called once for a datum.
    """

    mean: eqx.nn.Linear
    variance: eqx.nn.Linear
    key: Key

    def __call__(self, u: Array, *, key: Key | None = None) -> Array:
        center, variance = self.mean(u), self.variance(u**2)
        # An input of 0 without an intercept has variance 0, where the root has no derivative.
        random = variance > 0
        deviation = jnp.where(random, jnp.sqrt(jnp.where(random, variance, 1)), 0)
        return center + deviation * jax.random.normal(self.key, center.shape, center.dtype)


def is_linear(node: Any) -> bool:
    return isinstance(node, eqx.nn.Linear)


def drawn_per_datum(chosen: "GaussianBelief", natural: "Whitened", key: Key) -> PyTree:
    """Returns draws of θ for one datum, with a leading axis, in which every layer draws its outputs."""
    center, deviations = chosen.center(natural), chosen.deviations(natural)
    key, key_rest = jax.random.split(key)
    keys = jax.random.split(key, chosen.num_samples)
    whole = chosen.thetas(natural, key_rest)
    number = itertools.count()

    def one(mean, deviation, drawn):
        place = next(number)
        # A layer in the block with a full covariance is drawn as a whole.
        known = is_linear(mean) and len(jax.tree.leaves(deviation)) == len(jax.tree.leaves(mean))
        if not known:
            return drawn
        each = jax.vmap(lambda key: jax.random.fold_in(key, place))(keys)
        spread = lambda leaf: jnp.broadcast_to(leaf, (chosen.num_samples, *leaf.shape))
        variance = jax.tree.map(lambda leaf: spread(leaf**2), deviation)
        return LocalLinear(jax.tree.map(spread, mean), variance, each)

    return jax.tree.map(one, center, deviations, whole, is_leaf=is_linear)
