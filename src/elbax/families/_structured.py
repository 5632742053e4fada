"""Families of structures whose log-normalizer is a dynamic program."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import dot, is_label
from .._types import Any, Key, PyTree, Scalar
from ._family import AbstractFamily
from ._semiring import AbstractSemiring, LOG, MAX, Sampling


class AbstractStructured(AbstractFamily):
    r"""Discrete structures (paths, trees, tables) whose log-normalizer is one dynamic program.

    $A(\eta) = \bigoplus_z \langle \eta, t(z) \rangle$ over a semiring; its gradients are the marginals, the best
    structure and draws (see `AbstractSemiring`). Integers among the natural parameters, such as a length, say
    which structures exist. They are not coordinates and have no derivative.
    """

    discrete: ClassVar[bool] = True

    @abc.abstractmethod
    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        """Returns the sum over all structures of their log-weights ⟨η, t(z)⟩."""

    @abc.abstractmethod
    def decode(self, statistics: PyTree) -> PyTree:
        """Returns the structure with these statistics; all −1 (or False) if they are 0 or NaN."""

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return self.fold(natural, LOG)

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        return possible_dot(self.statistics(z), natural)

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        # Structures that are impossible under η have μ = 0 and contribute 0, not 0 · (−∞ + ∞).
        def gap(of_potentials, eta):
            if is_label(eta):
                return of_potentials
            there = ~jnp.isneginf(eta)
            return jnp.where(there, of_potentials, 0) - jnp.where(there, eta, 0)

        difference = jax.tree.map(gap, potentials, natural)
        return self.log_normalizer(natural) + possible_dot(self.mean(natural), difference)

    def mode_statistics(self, natural: PyTree) -> PyTree:
        return self._chosen(natural, MAX)

    def mode(self, natural: PyTree) -> PyTree:
        return self.decode(self.mode_statistics(natural))

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.decode(self._chosen(natural, Sampling(key)))

    def _chosen(self, natural: PyTree, semiring: AbstractSemiring) -> PyTree:
        """Returns the statistics of one structure: 0 if none is possible, NaN if that is unknown.

        They jump between structures and have no derivative, so none is taken through the choice.
        """
        natural = jax.lax.stop_gradient(natural)
        coordinates, labels = eqx.partition(natural, eqx.is_inexact_array)
        fold = lambda coordinates: self.fold(eqx.combine(coordinates, labels), semiring)
        return eqx.combine(if_any(*jax.value_and_grad(fold)(coordinates)), labels)

    def read(self, function, dtype=float):
        raise TypeError(
            f"{type(self).__name__}: its natural parameters cannot be read from a plain log_joint. Use a model "
            "with this latent, such as HiddenMarkovModel, or an encoder, Amortized(network, family), which "
            "samples."
        )


def if_any(total: Scalar, statistics: PyTree) -> PyTree:
    """Returns the statistics; 0 if the total log-weight says that no structure exists, NaN if the total is NaN."""
    none = jnp.where(jnp.isnan(total), jnp.nan, 0)
    return jax.tree.map(
        lambda leaf: jnp.where(jnp.isfinite(total), leaf, none.astype(leaf.dtype)), statistics
    )


def possible_dot(statistics: PyTree, natural: PyTree) -> Scalar:
    """Returns ⟨t, η⟩ in the precision of η, where 0 · (−∞) = 0."""

    def cast(count, eta):
        return count if is_label(eta) else count.astype(eta.dtype)

    def finite(count, eta):
        return eta if is_label(eta) else jnp.where((count == 0) & jnp.isneginf(eta), 0, eta)

    statistics = jax.tree.map(cast, statistics, natural)
    return dot(statistics, jax.tree.map(finite, statistics, natural))


def named(who: str, output: Any, names: set[str]) -> PyTree:
    """Returns an encoder's output unchanged, after checking that it is a dictionary of natural parameters."""
    if not isinstance(output, dict) or set(output) != names:
        raise ValueError(
            f"{who}: an encoder must return a dictionary of natural parameters with keys {sorted(names)}; got "
            f"{type(output).__name__}."
        )
    return output


def truth(name: str, value: Any, shape: tuple[int, ...]) -> tuple | None:
    """Returns booleans as nested tuples, which hash by value; None if all are true."""
    if value is None:
        return None
    table = np.asarray(value)
    if table.shape != shape or table.dtype != bool:
        raise ValueError(
            f"{name} must be a boolean array of shape {shape}, got {table.dtype} of shape {table.shape}."
        )
    if not table.any():
        raise ValueError(f"{name} must have at least one True entry.")
    return None if table.all() else _nested(table.tolist())


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list) else value
