"""Families that approximate a posterior, and are fitted to it by coordinate ascent."""

import abc

import jax
import jax.numpy as jnp

from .._math.algebra import is_label
from .._types import Any, Callable, Key, PyTree, Scalar
from ._family import AbstractFamily


class AbstractAscending(AbstractFamily):
    """A family whose members are those of `parts`, and whose bound takes the potentials of something richer.

    Each round of `ascend` raises the bound at these potentials.
    """

    @property
    @abc.abstractmethod
    def parts(self) -> AbstractFamily:
        """The family of the members; of independent blocks, that of all together."""

    @abc.abstractmethod
    def start(self, potentials: PyTree) -> PyTree:
        """Returns natural parameters from which to ascend."""

    @abc.abstractmethod
    def ascend(self, natural: PyTree, potentials: PyTree) -> PyTree:
        """Returns natural parameters after one round of coordinate ascent."""

    def climb(
        self, natural: PyTree, potentials: PyTree, num_rounds: int, tolerance: float | None = None
    ) -> PyTree:
        """Returns one datum's natural parameters after so many rounds.

        With a tolerance it stops once they change by less on average. Its gradient is then known in forward mode
        only.
        """
        return repeated(lambda now: self.ascend(now, potentials), natural, num_rounds, tolerance)

    def batch_ndim(self, natural: PyTree) -> int:
        return self.parts.batch_ndim(natural)

    def log_normalizer(self, natural: PyTree) -> Scalar:
        return self.parts.log_normalizer(natural)

    def entropy(self, natural: PyTree) -> Scalar:
        return self.parts.entropy(natural)

    def log_prob(self, natural: PyTree, z: PyTree) -> Scalar:
        return self.parts.log_prob(natural, z)

    def sample(self, natural: PyTree, key: Key) -> PyTree:
        return self.parts.sample(natural, key)

    def mode(self, natural: PyTree) -> PyTree:
        return self.parts.mode(natural)

    def from_network(self, output: PyTree) -> PyTree:
        return self.parts.from_network(output)


def repeated(
    improve: Callable[[PyTree], PyTree], start: PyTree, num_rounds: int, tolerance: float | None
) -> PyTree:
    """Returns the last of the iterates of `improve`."""
    if tolerance is None:
        return jax.lax.scan(lambda now, _: (improve(now), None), start, length=num_rounds)[0]

    def goes_on(state):
        _, change, count = state
        return (change >= tolerance) & (count < num_rounds)

    def step(state):
        now, _, count = state
        moved = improve(now)
        return moved, _mean_change(moved, now), count + 1

    unknown = jnp.full_like(_mean_change(start, start), jnp.inf)
    return jax.lax.while_loop(goes_on, step, (start, unknown, 0))[0]


def _mean_change(new: PyTree, old: PyTree) -> Scalar:
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    moves = [jnp.abs(a - b) for a, b in pairs if not is_label(a)]
    total: Any = sum(map(jnp.sum, moves))
    return total / sum(move.size for move in moves)
