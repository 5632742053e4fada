"""An exponential family of latents, and its members."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import dot, is_label, subtract, zeros_like
from .._program import program
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ._rowwise import map_over_rows, rowwise


def gradient(function: Callable[[PyTree], Scalar], natural: PyTree) -> PyTree:
    """Returns ∇function(η); integers in η are returned unchanged."""
    coordinates, labels = eqx.partition(natural, eqx.is_inexact_array)
    slope = jax.grad(lambda coordinates: function(eqx.combine(coordinates, labels)))(coordinates)
    return eqx.combine(slope, labels)


# The row-wise arguments of each method, for all families.
_ARGUMENTS = {
    "log_normalizer": ("natural",),
    "mean": ("natural",),
    "mode": ("natural",),
    "mode_statistics": ("natural",),
    "entropy": ("natural",),
    "bound": ("natural", "potentials"),
    "score": ("potentials", "z"),
    "log_prob": ("natural", "z"),
    "sample": ("natural", "key"),
    "expect": ("natural", "function", "key"),
    "statistics": ("z",),
    "moments": ("natural",),
    "marginals": ("natural",),
    "constituents": ("natural",),
    "start": ("potentials",),
    "ascend": ("natural", "potentials"),
    "potentials": ("potentials", "natural"),
}


class AbstractFamily(eqx.Module):
    r"""An exponential family $q(z) = \exp(\langle \eta, t(z) \rangle - A(\eta))$ over one datum's latent.

    The natural parameters η, the statistics t(z) and their mean $\mu = E_q[t(z)] = \nabla A(\eta)$ share one
    pytree structure. A family holds static numbers only, so an equal family reuses compiled programs.

    Leading axes of the natural parameters are batch axes: every method then acts row by row, like `jax.vmap` of
    it. A subclass implements its methods for one datum. Its `batch_ndim` and `event_ndim` tell the axes of one
    datum from those of a batch.

    Undefined numbers are NaN: if natural parameters contain NaN, so do means, entropies and densities. An
    undefined latent (no value has a probability) is −1 for integers and False for booleans. Outside of the support
    `log_prob` and `score` are −∞.
    """

    discrete: ClassVar[bool] = False
    """Whether z is discrete, so that a single value has an entropy."""

    finite: ClassVar[bool] = False
    """Whether the support is finite, so that every function of z lies in the span of t(z)."""

    linear: ClassVar[bool] = True
    """Whether natural parameters add and scale as coordinates do, so that β η belongs to q^β."""

    @property
    def moves(self) -> bool:
        """Whether draws are differentiable functions of the natural parameters (reparameterized)."""
        return not self.discrete

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        map_over_rows(cls, _ARGUMENTS)

    @abc.abstractmethod
    def batch_ndim(self, natural: PyTree) -> int:
        """Returns the number of leading batch axes of these natural parameters."""

    @property
    @abc.abstractmethod
    def event_ndim(self) -> int:
        """The number of axes of one datum's z."""

    @property
    def natural_shapes(self) -> Any:
        """The shapes of one datum's natural parameters, one for each array; `None` if the family fixes none."""
        return None

    @property
    def of_potentials(self) -> "AbstractFamily":
        """The family whose natural parameters `bound` and `score` take as potentials."""
        return self

    @abc.abstractmethod
    def log_normalizer(self, natural: PyTree) -> Scalar:
        """Returns A(η), in nats."""

    @abc.abstractmethod
    def statistics(self, z: PyTree) -> PyTree:
        """Returns t(z)."""

    def outside(self, z: PyTree) -> Any:
        """Returns whether z is outside of the support; `False` where every value of its type is inside."""
        return False

    @abc.abstractmethod
    def sample(self, natural: PyTree, key: Key) -> PyTree:
        """Returns one draw, reparameterized if z is continuous."""

    @abc.abstractmethod
    def mode(self, natural: PyTree) -> PyTree:
        """Returns the most probable z."""

    @abc.abstractmethod
    def from_network(self, output: PyTree) -> PyTree:
        """Maps an encoder's unconstrained output to natural parameters."""

    def tilted(self, natural: PyTree, output: PyTree) -> PyTree:
        """Returns η of q(z) ∝ p(z) exp⟨r, t(z)⟩, from those of p and an encoder's output, which stands for r."""
        add = lambda own, more: own if is_label(own) else own + more.astype(own.dtype)
        return jax.tree.map(add, natural, self.from_network(output))

    def distribution(self, output: PyTree) -> "Distribution":
        """Maps an encoder's unconstrained output to a member of the family."""
        return self(self.from_network(output))

    @abc.abstractmethod
    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        """Returns (λ, c) with function(z) = ⟨λ, t(z)⟩ + c, for a function in the family's span.

        It takes a few derivatives at one point of the given dtype. It does not check that the function lies in the
        span; `Model.verify` does.
        """

    @rowwise(*_ARGUMENTS["mean"])
    def mean(self, natural: PyTree) -> PyTree:
        """Returns μ = E_q[t(z)] = ∇A(η)."""
        return gradient(self.log_normalizer, natural)

    @rowwise(*_ARGUMENTS["mode_statistics"])
    def mode_statistics(self, natural: PyTree) -> PyTree:
        """Returns t(z) of the most probable z."""
        return self.statistics(self.mode(natural))

    @rowwise(*_ARGUMENTS["bound"])
    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """Returns E_q[⟨λ, t(z)⟩] + H(q) = A(η) + ⟨μ, λ − η⟩, in nats.

        At λ = η it is exactly A(η), without cancellation.
        """
        gap = subtract(potentials, natural)
        return self.log_normalizer(natural) + dot(self.mean(natural), gap)

    @rowwise(*_ARGUMENTS["entropy"])
    def entropy(self, natural: PyTree) -> Scalar:
        """Returns H(q), in nats."""
        return self.bound(natural, zeros_like(natural))

    @rowwise(*_ARGUMENTS["score"])
    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        """Returns ⟨η, t(z)⟩, in nats; −∞ outside of the support."""
        statistics = jax.tree.map(lambda t, eta: t.astype(eta.dtype), self.statistics(z), natural)
        outside = self.outside(z)
        if outside is False:
            return dot(statistics, natural)
        # Statistics there may be NaN, which must not enter a gradient.
        statistics = jax.tree.map(lambda t: jnp.where(outside, 0, t), statistics)
        return jnp.where(outside, -jnp.inf, dot(statistics, natural))

    @rowwise(*_ARGUMENTS["log_prob"])
    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        """Returns log q(z), in nats."""
        return self.score(natural, z) - self.log_normalizer(natural)

    @rowwise(*_ARGUMENTS["expect"])
    def expect(self, natural: PyTree, function: Callable[[Any], Any], key: Key | None) -> Any:
        """Returns E_q[function(z)]: estimated by one draw, unless the family overrides this."""
        return function(self.sample(natural, key))

    def __call__(self, natural: PyTree) -> "Distribution":
        return Distribution(natural, self)


# The same for a distribution, whose class may hold more than natural parameters.
_ANSWERS = {
    "mean": ("q",),
    "mode": ("q",),
    "entropy": ("q",),
    "bound": ("q", "potentials"),
    "log_prob": ("q", "z"),
    "sample": ("q", "key"),
    "expect": ("q", "function", "key"),
}


class Distribution(eqx.Module):
    """A member q(z) of `family`, with the given `natural` parameters, for one datum.

    With leading axes, as in `jax.vmap(posterior)(x)`, it is one q per row, and all methods return one value per
    row.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> q = elbax.Categorical(2)(jnp.log(jnp.array([[1.0, 3.0], [1.0, 1.0], [7.0, 1.0]])))
    >>> print(q.mean().round(4))
    [[0.25  0.75 ]
     [0.5   0.5  ]
     [0.875 0.125]]
    >>> print(q.mode())
    [1 0 0]
    >>> q.sample(jax.random.key(0)).shape  # one draw of each row, independent
    (3,)

    ```
    """

    natural: PyTree
    family: AbstractFamily

    tight: ClassVar[bool] = False
    """Whether its bound is only evaluated at the potentials that produced it, as for an exact posterior."""

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        map_over_rows(cls, _ANSWERS)

    @property
    def batch_ndim(self) -> int:
        """The number of leading batch axes of the natural parameters."""
        return self.family.batch_ndim(self.natural)

    @property
    def discrete(self) -> bool:
        """Whether z is discrete."""
        return self.family.discrete

    @property
    def moves(self) -> bool:
        """Whether draws are differentiable functions of the natural parameters."""
        return self.family.moves

    @program
    def mean(self) -> PyTree:
        """Returns the mean parameters E_q[t(z)]."""
        return self.family.mean(self.natural)

    @program
    def bound(self, potentials: PyTree) -> Float[Array, "*batch"]:
        """Returns E_q[⟨λ, t(z)⟩] + H(q), in nats."""
        return self.family.bound(self.natural, potentials)

    @program
    def entropy(self) -> Float[Array, "*batch"]:
        """Returns H(q), in nats."""
        return self.family.entropy(self.natural)

    def expect(self, function: Callable[[Any], Any], key: Key | None = None) -> Any:
        """Returns E_q[function(z)], exact on a finite support, else from one draw; `function` takes one z."""
        return self.family.expect(self.natural, function, key)

    @program
    def sample(self, key: Key) -> PyTree:
        """Returns one draw of z, independent for each row."""
        return self.family.sample(self.natural, key)

    @program
    def mode(self) -> PyTree:
        """Returns the most probable z; integers are −1 where natural parameters are NaN or allow no value."""
        return self.family.mode(self.natural)

    @program
    def log_prob(self, z: PyTree) -> Float[Array, "*batch"]:
        """Returns log q(z), in nats."""
        return self.family.log_prob(self.natural, z)
