"""A path through finitely many states."""

import math
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import matmul
from .._types import Any, Array, Int, PyTree, Scalar
from ._certified import AbstractCertified, certified
from ._forward_backward import forward_backward
from ._recursion import check_order, forward, Order, pairwise, runs_pairwise, steps
from ._semiring import AbstractSemiring, LOG
from ._structured import possible_dot, truth


# The scaled form loses a weight below e^-87 (float32; e^-708 in float64). Let log-potentials of transitions lie
# within s of one another. The best weight of a step, or of a row of a joined link, is then at least e^-s or e^-2s
# before it is scaled, and passes on at least e^-s of the most that any other one could. So what is lost is at most
# e^(3s - 87) of what counts. With these s that is below rounding, whatever the emissions are.
_WIDEST_SCALED = {4: 20.0, 8: 200.0}

# The numbers of steps times pairs of states above which a derivative in log space recomputes shares.
_MANY_SHARES = 2**20


class MarkovChain(AbstractCertified):
    r"""A path $z \in \{0, \dots, K-1\}^T$ through finitely many states.

    $$\langle \eta, t(z) \rangle = \iota_{z_1} + \sum_t P_{z_t z_{t+1}} + \sum_t u_{t z_t}.$$

    The natural parameters are `{"initial": (K,), "transition": (K, K) or (T - 1, K, K), "unary": (T, K), "length":
    whole number}`: log-potentials, normalized or not, and the number of steps. Steps from `length` on are padding,
    and −1 in a path. The statistics are indicators and counts; the mean parameters are the marginals. The
    log-normalizer is the forward algorithm, its gradient the backward algorithm.

    **Arguments:**

    - `num_states`: K.
    - `allowed`: (K, K) booleans, from row to column: which transitions are possible. The others have probability
        exactly 0, whatever their potential.
    - `starts`: (K,) booleans: which states may be first.
    - `form`: `"log"` sums in log space, which is accurate for all potentials. `"scaled"` multiplies matrices, with
        K times fewer exponentials. It loses paths that are a factor e⁸⁷ (float32) behind at one step, even if they
        are the only possible ones later: see `in_scaled_range`. `"auto"` multiplies forward and backward, which
        shows whether anything was lost, and falls back to log space if so. With `"pairwise"` order or segments it
        always uses log space.
    - `order`: `"sequential"` runs along the chain. `"pairwise"` joins neighbors as a tree (K times the work, depth
        log₂ T). `"auto"` is sequential on CPUs and pairwise elsewhere.
    - `segment`: the number of steps between the carries that a derivative stores; None stores all. See
        `jax.checkpoint`.

    **Raises** `ValueError` if `allowed` leaves a state without successors, or if the scaled form is combined with
    `allowed` or `starts`.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> log = jnp.log
    >>> sticky = log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> q = elbax.MarkovChain(2)({"initial": jnp.zeros(2), "transition": sticky, "length": jnp.array(3),
    ...     "unary": log(jnp.array([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1]]))})
    >>> print(q.mode(), q.mean()["unary"][1].round(2))
    [0 0 0] [0.93 0.07]

    ```
    """

    event_ndim: ClassVar[int] = 1

    num_states: int = eqx.field(static=True)
    allowed: tuple | None = eqx.field(static=True)
    starts: tuple | None = eqx.field(static=True)
    form: Literal["auto", "log", "scaled"] = eqx.field(static=True)
    order: Order = eqx.field(static=True)
    segment: int | None = eqx.field(static=True)

    def __init__(
        self,
        num_states: int,
        *,
        allowed: Any = None,
        starts: Any = None,
        form: Literal["auto", "log", "scaled"] = "auto",
        order: Order = "auto",
        segment: int | None = None,
    ):
        check_count("MarkovChain", num_states=num_states)
        if form not in ("auto", "log", "scaled"):
            raise ValueError(f"MarkovChain: form must be 'auto', 'log' or 'scaled', got {form!r}.")
        check_order("MarkovChain", order, segment)
        self.num_states = num_states
        self.allowed = truth("MarkovChain: allowed", allowed, (num_states, num_states))
        self.starts = truth("MarkovChain: starts", starts, (num_states,))
        if not self.possible()[1].any(1).all():
            raise ValueError(
                "MarkovChain: allowed must have at least one possible transition from each state, got a state "
                "without any."
            )
        if form == "scaled" and (self.allowed or self.starts):
            raise ValueError(
                "MarkovChain: got form='scaled' with impossible transitions or starts. Use form='log'."
            )
        self.form = form
        self.order = order
        self.segment = segment

    def possible(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns which states may be first (K,), and which may follow which (K, K)."""
        size = self.num_states
        starts = np.ones(size, bool) if self.starts is None else np.array(self.starts)
        allowed = np.ones((size, size), bool) if self.allowed is None else np.array(self.allowed)
        return starts, allowed

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]) - 2

    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        unary = natural["unary"]
        if self.form == "scaled" and semiring is LOG:
            return self._scaled(natural)
        if semiring is LOG and self._is_checked(unary):
            return certified(self, natural)
        return self.by_logarithms(natural, semiring)

    def by_products(self, natural):
        initial, transition = self._masked(natural)
        return forward_backward(initial, transition, natural["unary"], natural["length"])

    def _is_checked(self, unary):
        whole = self.segment is None and not runs_pairwise(self.order)
        return self.form == "auto" and whole and len(unary) > 1

    def _masked(self, natural):
        """Returns the log-potentials of (the first state, transitions), −∞ where impossible."""
        starts, allowed = self.possible()
        initial = jnp.where(starts, natural["initial"], -jnp.inf)
        return initial, jnp.where(allowed, natural["transition"], -jnp.inf)

    def by_logarithms(self, natural, semiring):
        unary = natural["unary"]
        initial, transition = self._masked(natural)
        first = initial + unary[0]
        keys = semiring.keys(len(unary) + 1)
        key_last, later = (None, None) if keys is None else (keys[0], keys[1:])
        valid = jnp.arange(1, len(unary)) < natural["length"]
        if len(unary) == 1:
            last, level = first, 0.0
        elif runs_pairwise(self.order):
            last, level = self._pairwise(semiring, first, transition, unary[1:], valid, later)
        else:
            last, level = self._sequential(semiring, first, transition, unary[1:], valid, later)
        return level + semiring.sum(last, 0, key_last)

    def _sequential(self, semiring, first, transition, unary, valid, keys):
        def terms(shared, alpha, row):
            unary, transition = row
            return alpha[:, None] + (shared if transition is None else transition) + unary

        shared, varying = (transition, None) if transition.ndim == 2 else (None, transition)
        keys = None if keys is None else keys[1:]
        segment = self.segment
        if segment is None and unary.shape[0] * self.num_states**2 > _MANY_SHARES:
            # The shares of all moves, which a derivative stores, fill more than the cache: it is as fast to
            # compute them twice.
            segment = math.isqrt(unary.shape[0])
        return forward(semiring, terms, shared, first, (unary, varying), valid, keys, segment)

    def _pairwise(self, semiring, first, transition, unary, valid, keys):
        links = transition + unary[:, None, :]
        identity = jnp.log(jnp.asarray(self._identity(), links.dtype))
        links = jnp.where(valid[:, None, None], links, identity)
        # The first row of the first link holds the initial weights.
        start = jnp.full_like(links[:1], -jnp.inf).at[0, 0].set(first)

        def combine(left, right):
            # Joining uses the left link's key and keeps the right one's.
            (a, key), (b, other) = left, right
            return semiring.sum(a[:, :, None] + b[None, :, :], 1, key), other

        return pairwise(combine, (jnp.concatenate([start, links]), keys))[0][0], 0.0

    def _scaled(self, natural):
        """Runs the forward algorithm on weights that are divided by their sum after every step."""
        unary, transition = natural["unary"], natural["transition"]
        length = natural["length"]
        top = jax.lax.stop_gradient(jnp.max(transition))
        weights = jnp.exp(transition - top)
        first = natural["initial"] + unary[0]
        # The largest of each step is taken out before the exponential, and put back at the end.
        scale = jax.lax.stop_gradient(jnp.max(unary, -1))
        emitted = jnp.exp(unary - scale[:, None])[1:]
        top_first = jax.lax.stop_gradient(jnp.max(first))
        forward = jnp.exp(first - top_first)
        valid = jnp.arange(1, len(unary)) < length
        total = jnp.log(jnp.sum(forward))
        forward = forward / jnp.sum(forward)
        if len(unary) > 1 and runs_pairwise(self.order):
            links = weights * emitted[:, None, :]
            links = jnp.where(
                valid[:, None, None], links, jnp.asarray(self._identity(), links.dtype)
            )
            zeros = jnp.zeros(len(links), total.dtype)
            joined, scale_of_links = pairwise(_multiply, (links, zeros))
            total += scale_of_links + jnp.log(jnp.sum(matmul(forward, joined)))
        elif len(unary) > 1:
            total = self._scaled_sequential(forward, total, weights, emitted, valid)
        scales = jnp.sum(jnp.where(valid, scale[1:], 0))
        return total + top_first + scales + (length - 1).astype(total.dtype) * top

    def _scaled_sequential(self, forward, total, weights, emitted, valid):
        varying = None if weights.ndim == 2 else weights

        def step(carry, row, valid):
            forward, total, lost = carry
            emitted, own = row
            moved = matmul(forward, weights if own is None else own) * emitted
            norm = jnp.where(valid, jnp.sum(moved), 1.0)
            # Kahan summation: over 1e5 steps plain rounding would exceed the gain of an EM step.
            more = jnp.log(norm) - lost
            grown = total + more
            return jnp.where(valid, moved / norm, forward), grown, (grown - total) - more

        begin = forward, total, jnp.zeros_like(total)
        return steps(step, begin, (emitted, varying), valid, self.segment)[1]

    def _identity(self):
        return np.eye(self.num_states)

    @staticmethod
    def in_scaled_range(transition: Array) -> Array:
        """Returns whether the scaled form is accurate for these log-potentials, whatever the unary ones are."""
        widest = _WIDEST_SCALED[transition.dtype.itemsize]
        return jnp.max(transition) - jnp.min(transition) <= widest

    def statistics(self, z: Int[Array, " T"]) -> PyTree:
        """Returns indicators of the path; the transitions are counts (K, K)."""
        states = jax.nn.one_hot(z, self.num_states)
        return {
            "initial": states[0],
            "transition": matmul(states[:-1].T, states[1:]),
            "unary": states,
            "length": jnp.sum(z >= 0),
        }

    def score(self, natural: PyTree, z: Int[Array, " T"]) -> Scalar:
        inside = jnp.arange(len(z)) < natural["length"]
        statistics = self.statistics(jnp.where(inside, z, -1))
        starts, allowed = self.possible()
        outside = jnp.any(inside & ((z < 0) | (z >= self.num_states)))
        impossible = jnp.sum(jnp.where(starts, 0, statistics["initial"]))
        impossible += jnp.sum(jnp.where(allowed, 0, statistics["transition"]))
        if natural["transition"].ndim == 3:
            before, after = statistics["unary"][:-1], statistics["unary"][1:]
            statistics["transition"] = before[:, :, None] * after[:, None, :]
        total = possible_dot(statistics, natural)
        return jnp.where(outside | (impossible > 0), -jnp.inf, total)

    def decode(self, statistics: PyTree) -> Int[Array, " T"]:
        states = statistics["unary"]
        return jnp.where(jnp.sum(states, -1) > 0, jnp.argmax(states, -1), -1)

    def from_network(self, output: PyTree) -> PyTree:
        """Maps unary logits (T, K), for independent states, or a dictionary of natural parameters, to all."""
        parts = output if isinstance(output, dict) else {"unary": output}
        unary = parts.get("unary")
        size = self.num_states
        if unary is None or unary.ndim != 2 or unary.shape[1] != size:
            shape = None if unary is None else unary.shape
            raise ValueError(
                f"MarkovChain({size}): an encoder must return logits of shape (T, {size}), or a dictionary with "
                "these as 'unary' and optionally 'initial', 'transition' and 'length'; got unary of shape "
                f"{shape}."
            )
        defaults = {
            "initial": jnp.zeros(size, unary.dtype),
            "transition": jnp.zeros((size, size), unary.dtype),
            "length": jnp.asarray(len(unary)),
        }
        return {**defaults, **parts}


def _multiply(left: tuple, right: tuple) -> tuple:
    """Returns the product of two matrices that sum to 1, each stored with the logarithm of a factor."""
    (a, scale_a), (b, scale_b) = left, right
    joined = matmul(a, b)
    norm = jnp.sum(joined)
    return joined / norm, scale_a + scale_b + jnp.log(norm)
