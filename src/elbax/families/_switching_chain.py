"""A Gaussian path whose linear dynamics switch along a Markov chain."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import matmul, vdot
from .._math.linear_algebra import invert_triangle, root_of_inverse
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ._ascending import AbstractAscending
from ._factored import factored, no_blocks
from ._gaussian_chain import GaussianChain
from ._independent import Product
from ._markov_chain import MarkovChain


_LOG_2PI = math.log(2 * math.pi)


class SwitchingChain(AbstractAscending):
    r"""A path of switches and a Gaussian path, $q(s, z) = q(s)\, q(z)$, two exact chains.

    Their joint density is that of a linear state space whose step t has the parameters of regime $s_t$. Its
    posterior is a mixture of $K^T$ Gaussian paths, and the two blocks approximate it (Ghahramani and Hinton 2000). A
    latent is the pair (switches (T,), states (T, dim)).

    Members have the natural parameters of a `MarkovChain` and of a `GaussianChain`, as a pair. Potentials are
    `{"switches": {"initial": (K,), "transition": (K, K)}, "regimes": natural parameters of K Gaussian chains}`. The
    latter have a leading axis of regimes, and a root for every conditional. The log-density is linear in the shares
    of the regimes at each step:

    - The Gaussian chain given the shares is again one. Of regimes with precisions $P_k$, matrices $A_k$ and offsets
        $b_k$ at a step it has $\bar P = \sum_k q_k P_k$, $\bar A = \bar P^{-1} \sum_k q_k P_k A_k$ and $\bar b$
        alike, and the factor $-\tfrac12 \sum_k q_k |(A_k - \bar A) z + b_k - \bar b|^2_{P_k}$, a sum of squares.
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
        return Product((self.switches, self.states))

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
        return switches, _lean(_averaged(potentials["regimes"], shares))

    def ascend(self, natural: PyTree, potentials: PyTree) -> PyTree:
        """Updates the switches given the states, then the states given the switches."""
        switches, states = natural
        regimes, shares = potentials["regimes"], self.switches.mean(switches)["unary"]
        unary = jax.grad(lambda shares: self.states.bound(states, _averaged(regimes, shares)))(
            shares
        )
        switches = _without_data(potentials) | {"unary": unary}
        shares = self.switches.mean(switches)["unary"]
        return switches, _lean(_averaged(regimes, shares))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        switches, states = natural
        shares = self.switches.mean(switches)["unary"]
        of_states = self.states.bound(states, _averaged(potentials["regimes"], shares))
        return self.switches.bound(switches, _without_data(potentials)) + of_states

    def score(self, natural: PyTree, z: tuple[Array, Float[Array, "T d"]]) -> Scalar:
        path, states = z
        shares = jax.nn.one_hot(path, self.num_regimes, dtype=states.dtype)
        of_states = self.states.score(_averaged(natural["regimes"], shares), states)
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


def _lean(natural: PyTree) -> PyTree:
    """Returns a Gaussian chain without what only its bound needs."""
    names = ("initial", "transition", "unary")
    return {
        name: {key: leaf for key, leaf in natural[name].items() if key != "constant"}
        for name in names
    } | {"length": natural["length"]}


def _averaged(regimes: PyTree, shares: Float[Array, "T K"]) -> PyTree:
    """Returns the Gaussian chain whose exponent is the average of those of the regimes, with their constants."""
    # In the padding no regime has a share, and the average does not count.
    even = jnp.full_like(shares, 1 / shares.shape[1])
    shares = jnp.where(jnp.sum(shares, -1, keepdims=True) > 0, shares, even)
    initial, transition, unary = (regimes[name] for name in ("initial", "transition", "unary"))
    none = jnp.zeros((*initial["mean"].shape, initial["mean"].shape[-1]), initial["mean"].dtype)
    first = {"matrix": none, "offset": initial["mean"], "root": initial["root"]}
    first = _at_step(shares[0], first | {"constant": initial["constant"]})
    moves = _every_step(shares[1:], transition)
    seen = {"matrix": unary["rows"], "offset": -unary["target"]}
    seen = _every_step(shares, seen | {name: unary[name] for name in ("root", "constant")})
    tilt = ("linear", "precision")
    probe = {
        name: {key: jnp.tensordot(weights, terms[key], 1, precision="highest") for key in tilt}
        for name, weights, terms in (
            ("transition", shares[1:], regimes["probe"]["transition"]),
            ("unary", shares, regimes["probe"]["unary"]),
        )
    }
    return {
        "initial": {
            "mean": first["offset"],
            "root": first["root"],
            "constant": first["constant"],
        },
        "transition": moves,
        "unary": {
            "rows": seen["matrix"],
            "target": -seen["offset"],
            **{name: seen[name] for name in ("root", "constant", *tilt)},
        },
        "probe": probe,
        "length": regimes["length"][0],
    }


def _every_step(shares: Float[Array, "T K"], conditional: PyTree) -> PyTree:
    """Maps `_at_step` over steps; a term of a regime may be the same at all steps."""
    axes = {"matrix": 2, "offset": 1, "root": 2, "constant": 0}
    conditional = {name: conditional[name] for name in axes}
    places = {name: 1 if conditional[name].ndim > axes[name] + 1 else None for name in axes}
    return jax.vmap(_at_step, (0, places))(shares, conditional)


def _at_step(shares: Float[Array, " K"], conditional: PyTree) -> PyTree:
    """Returns Σ_k q_k log N(y; A_k u + b_k, L_k L_kᵀ) as one conditional, and a factor in u."""
    names = ("matrix", "offset", "root", "constant")
    matrix, offset, root, constant = (conditional[name] for name in names)
    whiten = invert_triangle(root)
    precision = matmul(whiten.mT, whiten)
    weighted = shares[:, None, None] * precision
    mean_root = root_of_inverse(jnp.sum(weighted, 0))
    covariance = matmul(mean_root, mean_root.T)
    mean_matrix = matmul(covariance, jnp.sum(matmul(weighted, matrix), 0))
    mean_offset = matmul(covariance, jnp.sum(matmul(weighted, offset[..., None])[..., 0], 0))
    # What is left of the squares after the average, in units of each regime's noise.
    slope = matmul(whiten, matrix - mean_matrix)
    rest = matmul(whiten, (offset - mean_offset)[..., None])[..., 0]
    pulled = shares[:, None] * rest
    logs = lambda root: jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
    normalizer = -logs(root) - 0.5 * _LOG_2PI * root.shape[-1]
    own = -logs(mean_root) - 0.5 * _LOG_2PI * root.shape[-1]
    return {
        "matrix": mean_matrix,
        "offset": mean_offset,
        "root": mean_root,
        "linear": -jnp.einsum("kpd,kp->d", slope, pulled, precision="highest"),
        "precision": jnp.einsum("k,kpd,kpe->de", shares, slope, slope, precision="highest"),
        "constant": vdot(shares, normalizer + constant) - own - 0.5 * vdot(pulled, rest),
    }


@factored.register(SwitchingChain)
def _(family, blocks=None):
    no_blocks(family, blocks)
    return family
