"""An exponential family of latents, and a member of it."""

import abc
from typing import ClassVar

import equinox as eqx
import jax

from .._algebra import dot, subtract, zeros_like
from .._program import program
from .._types import Any, Array, Callable, Float, Key, PyTree, Scalar
from ._rowwise import map_over_rows, rowwise


def gradient(function: Callable[[PyTree], Scalar], natural: PyTree) -> PyTree:
    """∇function(η), integers among η being returned as they are."""
    coordinates, labels = eqx.partition(natural, eqx.is_inexact_array)
    slope = jax.grad(lambda coordinates: function(eqx.combine(coordinates, labels)))(coordinates)
    return eqx.combine(slope, labels)


# The arguments of all methods, of whatever family, that say something of a datum.
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
    r"""Distributions $q(z) = \exp(\langle \eta, t(z) \rangle - A(\eta))$ over one datum's latent.

    The natural parameters η, the statistics t(z) and their mean $\mu = E_q[t(z)] = \nabla A(\eta)$
    share one pytree structure. A family holds static numbers only, so an equal one compiles nothing.

    Leading axes of natural parameters are a batch: every method then acts row by row, as `jax.vmap` of it
    would. A subclass writes its methods for one datum and says by `batch_ndim` and `event_ndim` which axes
    that one has.

    Numbers without a meaning are NaN: natural parameters with NaN among them have NaN for means, entropies and
    densities. Where the latent is an integer −1 says that it is undefined (no value has a probability), where it
    is a truth value False. Outside of the support `log_prob` and `score` are −∞.
    """

    discrete: ClassVar[bool] = False
    """Whether z is discrete, so that a single value has an entropy."""

    finite: ClassVar[bool] = False
    """Whether the support is finite, so that every function of z lies in the span of t(z)."""

    linear: ClassVar[bool] = True
    """Whether natural parameters add and scale as coordinates do: β η then belongs to q^β."""

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        map_over_rows(cls, _ARGUMENTS)

    @abc.abstractmethod
    def batch_ndim(self, natural: PyTree) -> int:
        """How many leading axes these natural parameters have, which are a batch."""

    @property
    @abc.abstractmethod
    def event_ndim(self) -> int:
        """How many axes z of one datum has."""

    @property
    def of_potentials(self) -> "AbstractFamily":
        """The family whose natural parameters `bound` and `score` take for potentials."""
        return self

    @abc.abstractmethod
    def log_normalizer(self, natural: PyTree) -> Scalar:
        """A(η), in nats."""

    @abc.abstractmethod
    def statistics(self, z: PyTree) -> PyTree:
        """t(z)."""

    @abc.abstractmethod
    def sample(self, natural: PyTree, key: Key) -> PyTree:
        """One draw; reparameterized where z is continuous."""

    @abc.abstractmethod
    def mode(self, natural: PyTree) -> PyTree:
        """The most probable z."""

    @abc.abstractmethod
    def from_network(self, output: PyTree) -> PyTree:
        """The natural parameters that an encoder's unconstrained output stands for."""

    def distribution(self, output: PyTree) -> "Distribution":
        """The member that an encoder's unconstrained output stands for."""
        return self(self.from_network(output))

    @abc.abstractmethod
    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        """(λ, c) with function(z) = ⟨λ, t(z)⟩ + c, for a function in the family's span.

        A few derivatives at one point (of the given dtype) are all it takes; nothing is checked here: that is
        `Model.verify`'s task.
        """

    @rowwise(*_ARGUMENTS["mean"])
    def mean(self, natural: PyTree) -> PyTree:
        """μ = E_q[t(z)] = ∇A(η)."""
        return gradient(self.log_normalizer, natural)

    @rowwise(*_ARGUMENTS["mode_statistics"])
    def mode_statistics(self, natural: PyTree) -> PyTree:
        """t(z) of the most probable z."""
        return self.statistics(self.mode(natural))

    @rowwise(*_ARGUMENTS["bound"])
    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """E_q[⟨λ, t(z)⟩] + H(q) = A(η) + ⟨μ, λ − η⟩: exactly A(η) at λ = η, where nothing cancels."""
        gap = subtract(potentials, natural)
        return self.log_normalizer(natural) + dot(self.mean(natural), gap)

    @rowwise(*_ARGUMENTS["entropy"])
    def entropy(self, natural: PyTree) -> Scalar:
        """H(q), in nats."""
        return self.bound(natural, zeros_like(natural))

    @rowwise(*_ARGUMENTS["score"])
    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        """⟨η, t(z)⟩."""
        statistics = jax.tree.map(lambda t, eta: t.astype(eta.dtype), self.statistics(z), natural)
        return dot(statistics, natural)

    @rowwise(*_ARGUMENTS["log_prob"])
    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        """log q(z), in nats."""
        return self.score(natural, z) - self.log_normalizer(natural)

    @rowwise(*_ARGUMENTS["expect"])
    def expect(self, natural: PyTree, function: Callable[[Any], Any], key: Key | None) -> Any:
        """E_q[function(z)], by one draw unless the family knows better."""
        return function(self.sample(natural, key))

    def __call__(self, natural: PyTree) -> "Distribution":
        return Distribution(natural, self)


# Those of a distribution that is more than its natural parameters.
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
    """The member of `family` with the given `natural` parameters: q(z) for one datum.

    With leading axes, as `jax.vmap(posterior)(x)` gives them, it is q of each row, and so are all answers.

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
    """Whether its bound is only asked for at the potentials that made it, as a pass does for an exact one."""

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        map_over_rows(cls, _ANSWERS)

    @property
    def batch_ndim(self) -> int:
        """How many leading axes the natural parameters have."""
        return self.family.batch_ndim(self.natural)

    @program
    def mean(self) -> PyTree:
        """E_q[t(z)], the mean parameters."""
        return self.family.mean(self.natural)

    @program
    def bound(self, potentials: PyTree) -> Float[Array, "*batch"]:
        """E_q[⟨λ, t(z)⟩] + H(q), in nats."""
        return self.family.bound(self.natural, potentials)

    @program
    def entropy(self) -> Float[Array, "*batch"]:
        """H(q), in nats."""
        return self.family.entropy(self.natural)

    def expect(self, function: Callable[[Any], Any], key: Key | None = None) -> Any:
        """E_q[function(z)]: exact on a finite support, by one draw elsewhere; `function` takes one z."""
        return self.family.expect(self.natural, function, key)

    @program
    def sample(self, key: Key) -> PyTree:
        """One draw of z, of every row by itself."""
        return self.family.sample(self.natural, key)

    @program
    def mode(self) -> PyTree:
        """The most probable z; −1 in integers where the natural parameters are NaN or allow nothing."""
        return self.family.mode(self.natural)

    @program
    def log_prob(self, z: PyTree) -> Float[Array, "*batch"]:
        """log q(z), in nats."""
        return self.family.log_prob(self.natural, z)
