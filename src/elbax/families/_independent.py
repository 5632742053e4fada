"""Independent latents side by side: the members of families of blocks."""

import functools

import jax
import jax.numpy as jnp

from .._types import Any, Callable, Key, PyTree, Scalar
from ._family import AbstractFamily


class Product(AbstractFamily):
    """Independent latents of several families. Natural parameters, statistics and z are tuples of theirs."""

    factors: tuple[AbstractFamily, ...]

    @property
    def discrete(self) -> bool:
        return all(factor.discrete for factor in self.factors)

    @property
    def event_ndim(self) -> int:
        return self.factors[0].event_ndim

    def batch_ndim(self, natural: PyTree) -> int:
        return self.factors[0].batch_ndim(natural[0])

    def each(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of each factor returns for its own arguments."""
        rows = zip(self.factors, *arguments, strict=True)
        return tuple(getattr(factor, method)(*own) for factor, *own in rows)

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return _total(self.each("log_normalizer", natural))

    def mean(self, natural: PyTree) -> PyTree:
        return self.each("mean", natural)

    def entropy(self, natural: PyTree) -> Scalar:
        return _total(self.each("entropy", natural))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        return _total(self.each("bound", natural, potentials))

    def statistics(self, z: PyTree) -> PyTree:
        return self.each("statistics", z)

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        return _total(self.each("score", natural, z))

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        return _total(self.each("log_prob", natural, z))

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.each("sample", natural, jax.random.split(key, len(self.factors)))

    def mode(self, natural: PyTree) -> PyTree:
        return self.each("mode", natural)

    def from_network(self, output: PyTree) -> PyTree:
        if not isinstance(output, tuple | list) or len(output) != len(self.factors):
            raise ValueError(
                f"An encoder of {len(self.factors)} independent latents must return a tuple with the output for "
                f"each; got {jax.tree.map(jnp.shape, output)}."
            )
        return self.each("from_network", tuple(output))

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        raise TypeError(NO_READING)


class Copies(AbstractFamily):
    """Independent latents of one family. Natural parameters and z have a leading axis, one row for each latent."""

    family: AbstractFamily

    @property
    def discrete(self) -> bool:
        return self.family.discrete

    @property
    def event_ndim(self) -> int:
        return self.family.event_ndim + 1

    def batch_ndim(self, natural: PyTree) -> int:
        return self.family.batch_ndim(natural) - 1

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return jnp.sum(self.family.log_normalizer(natural))

    def mean(self, natural: PyTree) -> PyTree:
        return self.family.mean(natural)

    def entropy(self, natural: PyTree) -> Scalar:
        return jnp.sum(self.family.entropy(natural))

    def bound(self, natural: PyTree, potentials: PyTree) -> Scalar:
        return jnp.sum(self.family.bound(natural, potentials))

    def statistics(self, z: PyTree) -> PyTree:
        return jax.vmap(self.family.statistics)(z)

    def score(self, natural: PyTree, z: PyTree) -> Scalar:
        return jnp.sum(self.family.score(natural, z))

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        return jnp.sum(self.family.log_prob(natural, z))

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.family.sample(natural, key)

    def mode(self, natural: PyTree) -> PyTree:
        return self.family.mode(natural)

    def from_network(self, output: PyTree) -> PyTree:
        return jax.vmap(self.family.from_network)(output)

    def read(self, function: Callable[[Any], Scalar], dtype: Any = float) -> tuple[PyTree, Scalar]:
        raise TypeError(NO_READING)


def _total(values: tuple[Scalar, ...]) -> Scalar:
    return functools.reduce(jnp.add, values)


NO_READING = (
    "Natural parameters of independent chains cannot be read from a plain log_joint. Use a model with this "
    "latent, such as FactorialHiddenMarkovModel or SwitchingStateSpace."
)
