"""Alignments of a label sequence to frames, with blanks between labels."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from .._types import Array, Int, PyTree, Scalar
from ._recursion import forward_all
from ._semiring import AbstractSemiring, LOG
from ._structured import AbstractStructured, named


class CTCLattice(AbstractStructured):
    r"""Alignments of L labels to T frames, with optional blanks between labels.

    A path visits one of the positions 0, …, 2L of blank, label, blank, …, label, blank per frame. It starts at
    position 0 or 1 and ends at the last position or the one before it. From one frame to the next it stays, moves
    on by one, or skips a blank where `skip` allows it (between different labels) (Graves et al. 2006).

    The natural parameters are `{"unary": (T, S) log-potentials, "skip": (S,) booleans, "length": number of frames,
    "positions": 2L + 1}`. Frames from `length` on and positions from `positions` on are padding; padded frames are
    −1 in a path. The log-normalizer is −∞ if no path exists, that is, with too few frames for the labels.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> lattice = elbax.families.CTCLattice()
    >>> q = lattice({"unary": jnp.zeros((3, 3)), "skip": jnp.zeros(3, bool), "length": jnp.array(3),
    ...     "positions": jnp.array(3)})  # one label, three frames
    >>> print(jnp.exp(lattice.log_normalizer(q.natural)).round())
    6.0

    ```
    """

    event_ndim: ClassVar[int] = 1

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]) - 2

    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        unary, skip = natural["unary"], natural["skip"]
        length, positions = natural["length"], natural["positions"]
        if semiring is LOG:
            return _log_partition(unary, skip, length, positions)
        keys = semiring.keys(len(unary))
        later = None if keys is None else keys[1:]
        alphas, level = _forward(semiring, unary, skip, length, positions, later)
        last = _ends(alphas[-1], positions)
        return level + semiring.sum(last, 0, None if keys is None else keys[0])

    def statistics(self, z: Int[Array, " T"]) -> PyTree:
        raise TypeError(
            "CTCLattice: a path does not determine the number of positions. Use score(natural, z)."
        )

    def score(self, natural: PyTree, z: Int[Array, " T"]) -> Scalar:
        unary = natural["unary"]
        inside = jnp.arange(len(z)) < natural["length"]
        chosen = (z[:, None] == jnp.arange(unary.shape[1])) & inside[:, None]
        total = jnp.sum(jnp.where(chosen, unary, 0))
        step = z[1:] - z[:-1]
        allowed = (step == 0) | (step == 1) | ((step == 2) & natural["skip"][z[1:]])
        possible = jnp.all(allowed | ~inside[1:]) & (z[0] >= 0) & (z[0] < 2)
        end = z[natural["length"] - 1]
        possible &= (end >= natural["positions"] - 2) & (end < natural["positions"])
        return jnp.where(possible, total, -jnp.inf)

    def decode(self, statistics: PyTree) -> Int[Array, " T"]:
        places = statistics["unary"]
        return jnp.where(jnp.sum(places, -1) > 0, jnp.argmax(places, -1), -1)

    def from_network(self, output: PyTree) -> PyTree:
        return named("CTCLattice", output, {"unary", "skip", "length", "positions"})


def _forward(semiring, unary, skip, length, positions, keys=None):
    """Returns (the weight of all ways to each position at each frame (T, S), divided by the frame's largest, and
    the sum of the logarithms of these divisors)."""
    place = jnp.arange(len(skip))
    unary = jnp.where(place < positions, unary, -jnp.inf)
    first = jnp.where(place < 2, unary[0], -jnp.inf)

    def terms(skip, alpha, unary):
        behind = jnp.concatenate([_nowhere(alpha), alpha])
        skipped = jnp.where(skip, behind[:-2], -jnp.inf)
        return [alpha + unary, behind[1:-1] + unary, skipped + unary]

    valid = jnp.arange(1, len(unary)) < length
    alphas, levels = forward_all(semiring, terms, skip, first, unary[1:], valid, keys)
    return jnp.concatenate([first[None], alphas]), jnp.sum(levels)


def _backward(unary, skip, length, positions):
    """Returns the weight of all ways on from each position after each frame (T, S), up to a factor per frame."""
    place = jnp.arange(len(skip))
    last = _ends(jnp.where(place < positions, 0.0, -jnp.inf).astype(unary.dtype), positions)

    def terms(skip, beta, unary):
        ahead = jnp.concatenate([beta + unary, _nowhere(beta)])
        skipped = jnp.where(skip, ahead[2:], -jnp.inf)
        return [ahead[:-2], ahead[1:-1], skipped]

    valid = jnp.arange(1, len(unary)) < length
    may_skip = jnp.concatenate([skip[2:], jnp.zeros(2, bool)])[: len(skip)]
    betas, _ = forward_all(LOG, terms, may_skip, last, unary[1:][::-1], valid[::-1], None)
    return jnp.concatenate([betas[::-1], last[None]])


def _nowhere(weight):
    """Returns two unreachable positions, as a new array: `terms` is differentiated later, so it must not close
    over an array of the enclosing trace."""
    return jnp.full(2, -jnp.inf, weight.dtype)


def _ends(alpha, positions):
    """Returns the weights of the positions where a path may end, −∞ elsewhere."""
    return jnp.where(jnp.arange(len(alpha)) >= positions - 2, alpha, -jnp.inf)


# The marginals are forward times backward. These two recursions take half the time of one transposed recursion,
# and the marginals of each frame sum to one.
@jax.custom_jvp
def _log_partition(unary, skip, length, positions):
    alphas, level = _forward(LOG, unary, skip, length, positions)
    return level + LOG.sum(_ends(alphas[-1], positions), 0)


@_log_partition.defjvp
def _(primals, tangents):
    unary, skip, length, positions = primals
    alphas, level = _forward(LOG, unary, skip, length, positions)
    both = alphas + _backward(unary, skip, length, positions)
    total = LOG.sum(both, 1)
    shares = LOG.shares(both, total, 1)
    inside = (jnp.arange(len(unary)) < length)[:, None]
    slope = jnp.sum(jnp.where(inside, shares * tangents[0], 0))
    return level + LOG.sum(_ends(alphas[-1], positions), 0), slope
