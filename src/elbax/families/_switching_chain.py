"""A Gaussian path whose linear dynamics switch along a Markov chain."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import product
from .._math.linear_algebra import invert_triangle, root_of_inverse
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ._ascending import AbstractAscending
from ._factored import factored, no_blocks
from ._gaussian_chain import GaussianChain
from ._independent import Product
from ._kalman import at, expected_score, Moments
from ._markov_chain import MarkovChain


class SwitchingChain(AbstractAscending):
    r"""A path of switches and a Gaussian path, $q(s, z) = q(s)\, q(z)$, two exact chains.

    Their joint density is that of a linear state space whose step t has the parameters of regime $s_t$. Its
    posterior is a mixture of $K^T$ Gaussian paths, and the two blocks approximate it (Ghahramani and Hinton 2000).
    A latent is the pair (switches (T,), states (T, dim)).

    Members have the natural parameters of a `MarkovChain` and of a `GaussianChain`, as a pair. Potentials are
    `{"switches": {"initial": (K,), "transition": (K, K)}, "regimes": natural parameters of K Gaussian chains}`.
    The latter have a leading axis of regimes, and a root for every conditional. The log-density is linear in the
    shares of the regimes at each step:

    - The Gaussian chain given the shares is again one. Of regimes with precisions $P_k$, matrices $A_k$ and
        offsets $b_k$ at a step it has $\bar P = \sum_k q_k P_k$, $\bar A = \bar P^{-1} \sum_k q_k P_k A_k$ and
        $\bar b$ alike, and the factor $-\tfrac12 \sum_k q_k |(A_k - \bar A) z + b_k - \bar b|^2_{P_k}$, a sum of
        squares.
    - The Markov chain given the states has the derivatives of the bound in the shares as its potentials.

    **Arguments:**

    - `num_regimes`, `dim`: K and the dimension of the states.

    Every conditional must have noise in all directions.
    """

    linear: ClassVar[bool] = False
    event_ndim: ClassVar[int] = 1

    num_regimes: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def __check_init__(self):
        check_count("SwitchingChain", num_regimes=self.num_regimes, dim=self.dim)

    @property
    def switches(self) -> MarkovChain:
        """The family of the path of switches."""
        return MarkovChain(self.num_regimes)

    @property
    def states(self) -> GaussianChain:
        """The family of the Gaussian path."""
        return GaussianChain(self.dim)

    @property
    def parts(self) -> Product:
        return Product(self.switches, self.states)

    def batch_ndim(self, natural: PyTree) -> int:
        if isinstance(natural, dict):
            return jnp.ndim(natural["switches"]["initial"]) - 1
        return self.parts.batch_ndim(natural)

    def mean(self, natural: PyTree) -> PyTree:
        return self.parts.mean(natural)

    def statistics(self, z: PyTree) -> PyTree:
        return self.parts.statistics(z)

    def start(self, potentials: PyTree) -> PyTree:
        """Returns the natural parameters of switches without data, and of the states given these."""
        switches = _without_data(potentials)
        shares = self.switches.mean(switches)["unary"]
        return switches, averaged(potentials["regimes"], shares)

    def ascend(self, natural: PyTree, potentials: PyTree) -> PyTree:
        """Updates the switches given the states, then the states given the switches."""
        regimes = potentials["regimes"]
        _, _, moments = self.states._smoothed(natural[1])
        switches = _without_data(potentials)
        # The bound is linear in the shares, so any positive ones will do.
        anywhere = jnp.ones_like(switches["unary"])
        unary = jax.grad(lambda shares: _expected(regimes, moments, shares))(anywhere)
        switches = switches | {"unary": unary}
        return switches, averaged(regimes, self.switches.mean(switches)["unary"])

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        switches, states = natural
        _, entropy, moments = self.states._smoothed(states)
        shares = self.switches.mean(switches)["unary"]
        of_states = _expected(potentials["regimes"], moments, shares) + entropy
        return self.switches.bound(switches, _without_data(potentials)) + of_states

    def score(self, natural: PyTree, z: tuple[Array, Float[Array, "T d"]]) -> Scalar:
        path, states = z
        regimes = natural["regimes"]
        shares = jax.nn.one_hot(path, self.num_regimes, dtype=states.dtype)
        each = jax.vmap(lambda regime, share: expected_score(regime, at(regime, states), share))
        of_states = jnp.sum(each(regimes, shares.T))
        return self.switches.score(_without_data(natural), path) + of_states

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.parts.sample(natural, key)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        return self.parts.read(function, dtype)


def _without_data(potentials: PyTree) -> PyTree:
    """Returns the natural parameters of the switches before any data."""
    switches, regimes = potentials["switches"], potentials["regimes"]
    steps = regimes["unary"]["target"].shape[1]
    shape = (steps, len(switches["initial"]))
    dtype = switches["initial"].dtype
    return switches | {"unary": jnp.zeros(shape, dtype), "length": regimes["length"][0]}


def _expected(regimes: PyTree, moments: Moments, shares: Float[Array, "T K"]) -> Scalar:
    """Returns the expected exponents of the regimes at their steps, linear in the shares."""
    return jnp.sum(jax.vmap(expected_score, (0, None, 1))(regimes, moments, shares))


def averaged(regimes: PyTree, shares: Float[Array, "T K"]) -> PyTree:
    """Returns the Gaussian chain whose exponent is the average of those of the regimes, up to a constant."""
    # In the padding no regime has a share, and the average does not count.
    even = jnp.full_like(shares, 1 / shares.shape[1])
    shares = jnp.where(jnp.sum(shares, -1, keepdims=True) > 0, shares, even)
    initial, unary = regimes["initial"], regimes["unary"]
    none = jnp.zeros((*initial["mean"].shape, 0), initial["mean"].dtype)
    first = {"matrix": none, "offset": initial["mean"], "root": initial["root"]}
    first = _at_step(shares[0], first)
    seen = {"matrix": unary["rows"], "offset": -unary["target"], "root": unary["root"]}
    seen = _every_step(shares, seen)
    return {
        "initial": {"mean": first["offset"], "root": first["root"]},
        "transition": _every_step(shares[1:], regimes["transition"]),
        "unary": {
            "rows": seen["matrix"],
            "target": -seen["offset"],
            **{name: seen[name] for name in ("root", "linear", "precision")},
        },
        "length": regimes["length"][0],
    }


def _every_step(shares: Float[Array, "T K"], conditional: PyTree) -> PyTree:
    """Maps `_at_step` over steps; a term of a regime may be the same at all steps."""
    axes = {"matrix": 2, "offset": 1, "root": 2}
    conditional = {name: conditional[name] for name in axes}
    places = {name: 1 if conditional[name].ndim > axes[name] + 1 else None for name in axes}
    return jax.vmap(_at_step, (0, places))(shares, conditional)


def _at_step(shares: Float[Array, " K"], conditional: PyTree) -> PyTree:
    """Returns Σ_k q_k log N(y; A_k u + b_k, L_k L_kᵀ) as one conditional times a factor in u."""
    matrix, offset, root = (conditional[name] for name in ("matrix", "offset", "root"))
    whiten = invert_triangle(root)
    weighted = shares[:, None, None] * product(whiten.mT, whiten)
    mean_root = root_of_inverse(jnp.sum(weighted, 0))
    both = jnp.concatenate([matrix, offset[..., None]], -1)
    covariance = product(mean_root, mean_root.T)
    mean = product(covariance, jnp.sum(product(weighted, both), 0))
    # What is left of the squares after the average, in units of each regime's noise.
    left = product(whiten, both - mean)
    square = jnp.sum(shares[:, None, None] * product(left.mT, left), 0)
    return {
        "matrix": mean[:, :-1],
        "offset": mean[:, -1],
        "root": mean_root,
        "linear": -square[:-1, -1],
        "precision": square[:-1, :-1],
    }


@factored.register(SwitchingChain)
def _(family, blocks=None):
    no_blocks(family, blocks)
    return family
