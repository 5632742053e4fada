"""Several Markov chains side by side, coupled at each step."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._types import Array, Int, PyTree, Scalar
from ._markov_chain import MarkovChain
from ._semiring import AbstractSemiring
from ._structured import AbstractStructured, possible_dot


class CoupledChains(AbstractStructured):
    r"""C paths $z \in \{0, \dots, K - 1\}^{C \times T}$, each a Markov chain, with couplings at each step:

    $$\langle \eta, t(z) \rangle = \sum_c \Big( \iota_c[z_{c1}] + \sum_t P_c[z_{ct}, z_{c,t+1}]
        + \sum_t u_{ct}[z_{ct}] \Big) + \sum_t \sum_{c \ne d} J_{cd}[z_{ct}, z_{dt}].$$

    The natural parameters are log-potentials, `{"initial": (C, K), "transition": (C, K, K), "unary": (C, T, K),
    "coupling": (C, K, C, K), "length": whole number}`. The couplings are the same at all steps; those of a
    chain with itself count for nothing. Steps from `length` on are padding, and −1 in a path.

    Exact inference sums over one chain after another, with a table over the states of all: time is proportional to
    $T C K^{C + 1}$ (Ghahramani and Jordan 1997, appendix B). Mean field, `factored(chains)`, has exact chains
    as blocks, and takes time $T (C K^2 + C^2 K^2)$ a round.

    **Arguments:**

    - `num_chains`, `num_states`: C and K.
    - `limit`: the largest number of entries a table may have.

    **Raises** `ValueError` if exact inference needs a table with more than `limit` entries; the message gives its
    size.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> family = elbax.families.CoupledChains(2, 2)
    >>> log = jnp.log
    >>> sticky = log(jnp.array([[0.9, 0.1], [0.1, 0.9]]))
    >>> opposite = jnp.zeros((2, 2, 2, 2)).at[0, :, 1, :].set(jnp.array([[-2.0, 0.0], [0.0, -2.0]]))
    >>> q = family({"initial": jnp.zeros((2, 2)), "transition": jnp.stack([sticky, sticky]),
    ...     "unary": jnp.zeros((2, 3, 2)).at[0, 0, 1].set(3.0), "coupling": opposite, "length": jnp.array(3)})
    >>> print(q.mode())
    [[1 1 1]
     [0 0 0]]

    ```
    """

    event_ndim: ClassVar[int] = 2

    num_chains: int = eqx.field(static=True)
    num_states: int = eqx.field(static=True)
    limit: int = eqx.field(static=True)

    def __init__(self, num_chains: int, num_states: int, *, limit: int = 2**20):
        who = "CoupledChains"
        check_count(who, num_chains=num_chains, num_states=num_states, limit=limit)
        self.num_chains = num_chains
        self.num_states = num_states
        self.limit = limit

    @property
    def chain(self) -> MarkovChain:
        """The family of one chain."""
        return MarkovChain(self.num_states)

    @property
    def largest(self) -> int:
        """The number of entries of the largest table of exact inference."""
        return self.num_states ** (self.num_chains + 1)

    @property
    def apart(self) -> np.ndarray:
        """Which couplings are between two chains, (C, 1, C, 1)."""
        return ~np.eye(self.num_chains, dtype=bool)[:, None, :, None]

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]) - 3

    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        if self.largest > self.limit:
            raise ValueError(
                f"CoupledChains: {self.num_chains} chains of {self.num_states} states need a table of "
                f"{self.largest:.2g} entries, more than limit={self.limit:.2g}. Exact inference is too large. Use "
                "mean field (MeanFieldEStep, factored(chains)), or raise the limit if there is enough memory."
            )
        size, number = self.num_states, self.num_chains
        unary, transition = natural["unary"].swapaxes(0, 1), natural["transition"]
        coupled = self._of_pairs(natural["coupling"]).reshape(-1)
        every = lambda rows: self._of_singles(rows).reshape(-1) + coupled

        # The axes of the table are the chains. Each in turn is summed out at the front and comes back at the end.
        @jax.checkpoint
        def step(carry, row):
            table, level = carry
            unary, valid, keys = row
            moved = table
            for c in range(number):
                joined = moved.reshape(size, -1, 1) + transition[c][:, None, :]
                key = None if keys is None else keys[c]
                moved = semiring.sum(joined, 0, key).reshape(-1)
            moved += every(unary)
            # A logarithm that grows along the chains would lose precision.
            grown = jax.lax.stop_gradient(jnp.max(moved))
            grown = jnp.where(valid & jnp.isfinite(grown), grown, 0)
            return (jnp.where(valid, moved - grown, table), level + grown), None

        keys = semiring.keys(len(unary) * number)
        last, each = None, None
        if keys is not None:
            last, each = keys[0], jnp.concatenate([keys[1:], keys[:1]])[: len(keys) - number]
            each = each.reshape(len(unary) - 1, number)
        valid = jnp.arange(1, len(unary)) < natural["length"]
        begin = every(natural["initial"] + unary[0]), jnp.zeros((), unary.dtype)
        (table, level), _ = jax.lax.scan(step, begin, (unary[1:], valid, each))
        return level + semiring.sum(table, 0, last)

    def _axes(self, table: Array, *chains: int) -> Array:
        """Returns a table over some chains, with the axes of all."""
        shape = [self.num_states if c in chains else 1 for c in range(self.num_chains)]
        return table.reshape(shape)

    def _of_singles(self, rows: Array) -> Array:
        zero = jnp.zeros((self.num_states,) * self.num_chains, rows.dtype)
        return zero + sum(self._axes(row, c) for c, row in enumerate(rows))

    def _of_pairs(self, coupling: Array) -> Array:
        total = jnp.zeros((self.num_states,) * self.num_chains, coupling.dtype)
        for c in range(self.num_chains):
            for d in range(c + 1, self.num_chains):
                both = coupling[c, :, d, :] + coupling[d, :, c, :].T
                total += self._axes(both, c, d)
        return total

    def statistics(self, z: Int[Array, "C T"]) -> PyTree:
        """Returns indicators of the states; transitions and pairs at one step are counts."""
        states = jax.nn.one_hot(z, self.num_states)
        pairs = jnp.einsum("cti,dtj->cidj", states, states, precision="highest")
        return {
            "initial": states[:, 0],
            "transition": jnp.einsum(
                "cti,ctj->cij", states[:, :-1], states[:, 1:], precision="highest"
            ),
            "unary": states,
            "coupling": jnp.where(self.apart, pairs, 0),
            "length": jnp.sum(z[0] >= 0),
        }

    def score(self, natural: PyTree, z: Int[Array, "C T"]) -> Scalar:
        inside = jnp.arange(z.shape[1]) < natural["length"]
        outside = jnp.any(inside & ((z < 0) | (z >= self.num_states)))
        total = possible_dot(self.statistics(jnp.where(inside, z, -1)), natural)
        return jnp.where(outside, -jnp.inf, total)

    def decode(self, statistics: PyTree) -> Int[Array, "C T"]:
        states = statistics["unary"]
        return jnp.where(jnp.sum(states, -1) > 0, jnp.argmax(states, -1), -1)

    def from_network(self, output: PyTree) -> PyTree:
        """Maps unary logits (C, T, K), for independent states, or a dictionary of natural parameters, to all."""
        parts = output if isinstance(output, dict) else {"unary": output}
        unary, shape = parts.get("unary"), (self.num_chains, self.num_states)
        if unary is None or unary.ndim != 3 or (unary.shape[0], unary.shape[2]) != shape:
            raise ValueError(
                f"CoupledChains{shape}: an encoder must return logits of shape ({shape[0]}, T, {shape[1]}), or a "
                "dictionary with these as 'unary'; got unary of shape "
                f"{None if unary is None else unary.shape}."
            )
        zeros = lambda *shape: jnp.zeros(shape, unary.dtype)
        defaults = {
            "initial": zeros(*shape),
            "transition": zeros(*shape, shape[1]),
            "coupling": zeros(*shape, *shape),
            "length": jnp.asarray(unary.shape[1]),
        }
        return {**defaults, **parts}
