"""A distribution that is known by weighted draws."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._algebra import is_label
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ..families import AbstractFamily


class Particles(eqx.Module):
    r"""$q = \sum_s \tilde w_s \delta_{z_s}$, its draws $z_s$ being from a density r that they know.

    Expectations are weighted means. As entropy counts $-\sum_s \tilde w_s \log(S\, \tilde w_s\, r(z_s))$:
    with it the bound is $\log \frac1S \sum_s p(x, z_s) / r(z_s)$ where $\tilde w_s \propto p(x, z_s) /
    r(z_s)$ (the importance weighted bound, Burda et al. 2016), and log p(x) where r is the exact posterior.

    **Fields:**

    - `z`: the draws, with a leading axis.
    - `log_weights`: $\log \tilde w_s$, normalized.
    - `log_density`: log r(z_s).
    """

    z: PyTree
    log_weights: Float[Array, " S"]
    log_density: Float[Array, " S"]
    family: AbstractFamily

    def _average(self, values: PyTree) -> PyTree:
        weights = jnp.exp(self.log_weights)

        def one(leaf):
            # What says which, such as a length, is the same in all draws.
            if is_label(leaf) and leaf.dtype != bool:
                return leaf[0]
            spread = weights.reshape(weights.shape + (1,) * (leaf.ndim - 1)).astype(
                jnp.result_type(leaf.dtype, weights.dtype) if leaf.dtype != bool else weights.dtype
            )
            # A draw of no weight contributes 0, not 0 · ∞.
            inside = jnp.where(spread > 0, leaf, 0)
            return jnp.sum(jnp.where(spread > 0, spread * inside, 0), 0)

        return jax.tree.map(one, values)

    def mean(self) -> PyTree:
        return self._average(jax.vmap(self.family.statistics)(self.z))

    def bound(self, potentials: PyTree) -> Scalar:
        scores = jax.vmap(lambda z: self.family.score(potentials, z))(self.z)
        return self._average(scores) + self.entropy().astype(scores.dtype)

    def entropy(self) -> Scalar:
        number = jnp.log(jnp.asarray(len(self.log_weights), self.log_density.dtype))
        return -self._average(self.log_weights + number + self.log_density)

    def expect(self, function: Callable[[Any], Any], key: Key | None = None) -> Any:
        return self._average(jax.vmap(function)(self.z))

    def sample(self, key: Key) -> PyTree:
        which = jax.random.categorical(key, self.log_weights)
        return jax.tree.map(lambda leaf: leaf[which], self.z)

    def mode(self) -> PyTree:
        """The draw of largest weight; of equal weights, of highest density."""
        best = jnp.lexsort((self.log_density, self.log_weights))[-1]
        return jax.tree.map(lambda leaf: leaf[best], self.z)
