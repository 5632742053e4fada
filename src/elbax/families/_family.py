"""An exponential family of latents, and a member of it."""

import abc
from typing import ClassVar

import equinox as eqx
import jax

from .._algebra import dot, subtract, zeros_like
from .._program import program
from .._types import Any, Callable, Key, PyTree, Scalar


def gradient(function: Callable[[PyTree], Scalar], natural: PyTree) -> PyTree:
    """∇function(η), integers among η being returned as they are."""
    coordinates, labels = eqx.partition(natural, eqx.is_inexact_array)
    slope = jax.grad(lambda coordinates: function(eqx.combine(coordinates, labels)))(coordinates)
    return eqx.combine(slope, labels)


class AbstractFamily(eqx.Module):
    r"""Distributions $q(z) = \exp(\langle \eta, t(z) \rangle - A(\eta))$ over one datum's latent.

    The natural parameters η, the statistics t(z) and their mean $\mu = E_q[t(z)] = \nabla A(\eta)$
    share one pytree structure. A family holds static numbers only, so an equal one compiles nothing.
    """

    discrete: ClassVar[bool] = False
    """Whether z is discrete, so that a single value has an entropy."""

    finite: ClassVar[bool] = False
    """Whether the support is finite, so that every function of z lies in the span of t(z)."""

    linear: ClassVar[bool] = True
    """Whether natural parameters add and scale as coordinates do: β η then belongs to q^β."""

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

    def mean(self, natural: PyTree) -> PyTree:
        """μ = E_q[t(z)] = ∇A(η)."""
        return gradient(self.log_normalizer, natural)

    def mode_statistics(self, natural: PyTree) -> PyTree:
        """t(z) of the most probable z."""
        return self.statistics(self.mode(natural))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        """E_q[⟨λ, t(z)⟩] + H(q) = A(η) + ⟨μ, λ − η⟩: exactly A(η) at λ = η, where nothing cancels."""
        gap = subtract(potentials, natural)
        return self.log_normalizer(natural) + dot(self.mean(natural), gap)

    def entropy(self, natural: PyTree) -> Scalar:
        """H(q), in nats."""
        return self.bound(natural, zeros_like(natural))

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        """⟨η, t(z)⟩."""
        statistics = jax.tree.map(lambda t, eta: t.astype(eta.dtype), self.statistics(z), natural)
        return dot(statistics, natural)

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        """log q(z), in nats."""
        return self.score(natural, z) - self.log_normalizer(natural)

    def expect(self, natural: PyTree, function: Callable[[Any], Any], key: Key | None) -> Any:
        """E_q[function(z)], by one draw unless the family knows better."""
        return function(self.sample(natural, key))

    def __call__(self, natural: PyTree) -> "Distribution":
        return Distribution(natural, self)


class Distribution(eqx.Module):
    """The member of `family` with the given `natural` parameters: q(z) for one datum."""

    natural: PyTree
    family: AbstractFamily

    @program
    def mean(self) -> PyTree:
        """E_q[t(z)], the mean parameters."""
        return self.family.mean(self.natural)

    @program
    def bound(self, potentials: PyTree) -> Scalar:
        """E_q[⟨λ, t(z)⟩] + H(q), in nats."""
        return self.family.bound(self.natural, potentials)

    @program
    def entropy(self) -> Scalar:
        """H(q), in nats."""
        return self.family.entropy(self.natural)

    def expect(self, function: Callable[[Any], Any], key: Key | None = None) -> Any:
        """E_q[function(z)]: exact on a finite support, by one draw elsewhere."""
        return self.family.expect(self.natural, function, key)

    @program
    def sample(self, key: Key) -> PyTree:
        """One draw of z."""
        return self.family.sample(self.natural, key)

    @program
    def mode(self) -> PyTree:
        """The most probable z."""
        return self.family.mode(self.natural)

    @program
    def log_prob(self, z: PyTree) -> Scalar:
        """log q(z), in nats."""
        return self.family.log_prob(self.natural, z)
