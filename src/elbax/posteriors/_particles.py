"""A distribution that is known by weighted draws."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from .._algebra import is_label
from .._program import program
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ..families import AbstractFamily
from ..families._rowwise import rowwise
from ..families._undefined import where_defined


class Particles(eqx.Module):
    r"""$q = \sum_s \tilde w_s \delta_{z_s}$, its draws $z_s$ being from a density r that they know.

    Expectations are weighted means. As entropy counts $-\sum_s \tilde w_s \log(S\, \tilde w_s\, r(z_s))$:
    with it the bound is $\log \frac1S \sum_s p(x, z_s) / r(z_s)$ where $\tilde w_s \propto p(x, z_s) /
    r(z_s)$ (the importance weighted bound, Burda et al. 2016), and log p(x) where r is the exact posterior.

    Every answer V has a derivative in r's parameters φ whose mean is that of V's mean. Continuous draws move with
    φ; discrete ones do not, and their derivative has the score $\sum_s (V - V_{-s})\, \partial_\phi \log r(z_s)$
    besides, $V_{-s}$ being what the other draws alone give (Mnih and Rezende 2016).

    **Fields:**

    - `z`: the draws, with a leading axis.
    - `log_weights`: $\log \tilde w_s$, normalized.
    - `log_density`: log r(z_s).
    - `family`: the family of the latent; `None` for draws of a distribution of another library.

    Axes before that of the draws are a batch, over which all methods act row by row. Of weights with NaN among
    them a draw is −1 if it is an integer, NaN if it is not.
    """

    z: PyTree
    log_weights: Float[Array, "*batch S"]
    log_density: Float[Array, "*batch S"]
    family: AbstractFamily | None

    @property
    def batch_ndim(self) -> int:
        return jnp.ndim(self.log_weights) - 1

    @property
    def _known_family(self) -> AbstractFamily:
        if self.family is None:
            raise TypeError(
                "These are draws of a distribution of another library, whose statistics are not known outside of "
                "a pass over data. Average what you need of `z` with exp(`log_weights`)."
            )
        return self.family

    def _average(self, values: PyTree) -> PyTree:
        def one(leaf):
            # What says which, such as a length, is the same in all draws.
            if is_label(leaf) and leaf.dtype != bool:
                return leaf[0]
            return self._estimate(_average, leaf)

        return jax.tree.map(one, values)

    def _estimate(self, function: Callable[[Array, Array], Array], values: Array) -> Array:
        """function(values, log weights), with the score in its derivative where draws do not move."""
        value = function(values, self.log_weights)
        if self.family is None or not self.family.discrete:
            return value
        draws = jax.lax.stop_gradient((values, self.log_weights))
        return _scored(function, value, draws, self.log_density)

    @program
    @rowwise("q")
    def mean(self) -> PyTree:
        return self._average(jax.vmap(self._known_family.statistics)(self.z))

    @program
    @rowwise("q", "potentials")
    def bound(self, potentials: PyTree) -> Scalar:
        family = self._known_family
        scores = jax.vmap(lambda z: family.score(potentials, z))(self.z)
        return self._average(scores) + self.entropy().astype(scores.dtype)

    @program
    @rowwise("q")
    def entropy(self) -> Scalar:
        return self._estimate(_entropy, -self.log_density)

    @rowwise("q", "function", "key")
    def expect(self, function: Callable[[Any], Any], key: Key | None = None) -> Any:
        return self._average(jax.vmap(function)(self.z))

    @program
    @rowwise("q", "key")
    def sample(self, key: Key) -> PyTree:
        return self._pick(jax.random.categorical(key, self.log_weights))

    @program
    @rowwise("q")
    def mode(self) -> PyTree:
        """The draw of largest weight; of equal weights, of highest density."""
        best = jnp.lexsort((self.log_density, self.log_weights))[-1]
        return self._pick(best)

    def _pick(self, which: Array) -> PyTree:
        some = jnp.isfinite(jnp.max(self.log_weights))
        return where_defined(some, jax.tree.map(lambda leaf: leaf[which], self.z))


def _average(values: Array, log_weights: Array) -> Array:
    """Σₛ wₛ vₛ for weights that are normalized here."""
    weights = jnp.exp(log_weights - jax.nn.logsumexp(log_weights))
    dtype = weights.dtype if is_label(values) else values.dtype
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - 1)).astype(dtype)
    # A draw of no weight contributes 0, not 0 · ∞; one of weight NaN NaN.
    return jnp.sum(weights * jnp.where(weights == 0, 0, values), 0)


def _entropy(surprise: Array, log_weights: Array) -> Array:
    """Σₛ wₛ (−log r(zₛ) − log S wₛ)."""
    even = jnp.log(jnp.asarray(len(log_weights), log_weights.dtype))
    relative = even + log_weights - jax.nn.logsumexp(log_weights)
    return _average(surprise - relative.astype(surprise.dtype), log_weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _scored(
    function: Callable, value: Array, draws: tuple[Array, Array], log_density: Array
) -> Array:
    """The value, whose derivative has the score of the draws besides its own."""
    return value


@functools.partial(_scored.defjvp, symbolic_zeros=True)
def _(function, primals, tangents):
    value, draws, log_density = primals
    own, _, slope = tangents
    own = jnp.zeros_like(value) if isinstance(own, SymbolicZero) else own
    if isinstance(slope, SymbolicZero):
        return value, own
    number = len(log_density)
    if number == 1:
        learned = value[None]
    else:
        others = (np.arange(number)[:, None] + np.arange(1, number)) % number
        leave_one_out = lambda rows: function(*jax.tree.map(lambda leaf: leaf[rows], draws))
        learned = value - jax.vmap(leave_one_out)(others)
    return value, own + jnp.tensordot(slope.astype(learned.dtype), learned, 1)
