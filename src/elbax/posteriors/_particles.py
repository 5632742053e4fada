"""Distributions represented by weighted draws."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from .._math.algebra import is_label
from .._program import program
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ..families import AbstractFamily, AnyLatent
from ..families._rowwise import rowwise
from ..families._undefined import where_defined


class Particles(eqx.Module):
    r"""Weighted draws $q = \sum_s \tilde w_s \delta_{z_s}$, where the $z_s$ have a known density r.

    Expectations are weighted means. The entropy is defined as $-\sum_s \tilde w_s \log(S\, \tilde w_s\, r(z_s))$.
    If $\tilde w_s \propto p(x, z_s) / r(z_s)$, the bound is then $\log \frac1S \sum_s p(x, z_s) / r(z_s)$, the
    importance weighted bound (Burda et al. 2016); if r is the exact posterior, it is log p(x).

    The derivative of every value V in the parameters φ of r is an unbiased estimate of the derivative of V's mean.
    Continuous draws move with φ. Discrete draws do not; their derivative also contains the score $\sum_s (V -
    V_{-s})\, \partial_\phi \log r(z_s)$, where $V_{-s}$ is the value from the other draws alone (Mnih and Rezende
    2016).

    Axes before that of the draws are batch axes, and all methods return one value per row. If a weight is NaN, a
    sample or mode is NaN, −1 for integers and False for booleans.

    **Fields:**

    - `z`: the draws, with an axis of length S.
    - `log_weights`: $\log \tilde w_s$, normalized.
    - `log_density`: log r(z_s).
    - `family`: the family of the latent; `None` for draws of a distribution of another library.
    """

    z: PyTree
    log_weights: Float[Array, "*batch S"]
    log_density: Float[Array, "*batch S"]
    family: AbstractFamily | None
    moves: bool = eqx.field(static=True, default=True)

    @property
    def batch_ndim(self) -> int:
        return jnp.ndim(self.log_weights) - 1

    @property
    def _known_family(self) -> AbstractFamily:
        if self.family is None:
            raise TypeError(
                "Particles: these draws are from a distribution of another library, so their statistics are not "
                "known outside of a pass over data. For an expectation, average a function of `z` with weights "
                "exp(`log_weights`)."
            )
        return self.family

    @property
    def discrete(self) -> bool:
        """Whether draws do not move with the parameters of their density, so that derivatives need its score."""
        return not self.moves or _is_discrete(self.family, self.z)

    def _average(self, values: PyTree) -> PyTree:
        def one(leaf):
            # A label, such as a length, is the same in all draws.
            if is_label(leaf) and leaf.dtype != bool:
                return leaf[0]
            return self._estimate(_average, leaf)

        return jax.tree.map(one, values)

    def _estimate(self, function: Callable[[Array, Array], Array], values: Array) -> Array:
        """Returns function(values, log weights); its derivative contains the score if draws do not move."""
        value = function(values, self.log_weights)
        if not self.discrete:
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
        """Returns the draw of largest weight; among equal weights, the one of highest density."""
        best = jnp.lexsort((self.log_density, self.log_weights))[-1]
        return self._pick(best)

    def _pick(self, which: Array) -> PyTree:
        some = jnp.isfinite(jnp.max(self.log_weights))
        return where_defined(some, jax.tree.map(lambda leaf: leaf[which], self.z))


def moves(q: Any, z: PyTree) -> bool:
    """Returns whether draws z of q are differentiable functions of its parameters."""
    # By `has_rsample`, numpyro and torch mark continuous distributions that cannot be reparameterized.
    return getattr(q, "has_rsample", True) and not _is_discrete(getattr(q, "family", None), z)


def _is_discrete(family: Any, z: PyTree) -> bool:
    """Returns whether z is discrete, at least in part, by its family or, without one, by its dtypes."""
    named = isinstance(family, AbstractFamily) and not isinstance(family, AnyLatent)
    return not family.moves if named else any(map(is_label, jax.tree.leaves(z)))


def _average(values: Array, log_weights: Array) -> Array:
    """Returns Σₛ wₛ vₛ, with the weights normalized."""
    weights = jnp.exp(log_weights - jax.nn.logsumexp(log_weights))
    dtype = weights.dtype if is_label(values) else values.dtype
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - 1)).astype(dtype)
    # A draw of weight 0 contributes 0, not 0 · ∞; one of weight NaN contributes NaN.
    return jnp.sum(weights * jnp.where(weights == 0, 0, values), 0)


def _entropy(surprise: Array, log_weights: Array) -> Array:
    """Returns Σₛ wₛ (−log r(zₛ) − log S wₛ)."""
    even = jnp.log(jnp.asarray(len(log_weights), log_weights.dtype))
    relative = even + log_weights - jax.nn.logsumexp(log_weights)
    return _average(surprise - relative.astype(surprise.dtype), log_weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _scored(
    function: Callable, value: Array, draws: tuple[Array, Array], log_density: Array
) -> Array:
    """Returns the value; its derivative also contains the score of the draws."""
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
