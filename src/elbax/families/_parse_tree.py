"""Binary trees over a sentence, from a grammar in Chomsky normal form."""

import functools
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count
from .._math.algebra import matmul
from .._types import Any, Array, Key, PyTree, Scalar
from ._certified import AbstractCertified, certified
from ._inside_outside import bands, inside_outside
from ._semiring import AbstractSemiring, LOG, MAX, Sampling
from ._structured import if_any, named, possible_dot, truth


# The cost of an exponential, in multiplications.
_SPARSE = 16


class ParseTree(AbstractCertified):
    r"""A binary parse tree of a sentence.

    $\langle \eta, t(z) \rangle$ = the root's potential + Σ over binary nodes A → B C of $w_{ABC}$ + Σ over words i
    under preterminals $P_i$ of $u_{i P_i}$.

    Symbols are numbered: first the nonterminals 0, …, N − 1, which have two children, then P preterminals, each
    over one word. The natural parameters are `{"root": (N,), "binary": (N, S, S) with S = N + P, "unary": (T, P),
    "length": number of words, at least 2}`, all but the length log-potentials. A tree is a boolean array (T, T,
    S): [i, w, s] says whether the words i, …, i + w form a constituent of symbol s. The statistics are counts of
    rules.

    The log-normalizer is the inside algorithm, width by width. Its gradient is the outside algorithm (Baker 1979;
    Eisner 2016); over the other semirings the gradient is the best parse or a drawn one.

    **Arguments:**

    - `num_nonterminals`, `num_preterminals`: N and P.
    - `allowed`: which rules exist, booleans (N, S, S). Time is proportional to the number of different pairs of
        children, and to the cube of the sentence's length.
    - `roots`: which nonterminals may be the root, booleans (N,).
    - `form`: `"log"` sums in log space, with an exponential for every pair of children at every split. `"auto"`
        multiplies matrices, inside and outside, which shows whether underflow could matter, and falls back to log
        space if so. If few pairs of children occur it always uses log space.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> family = elbax.families.ParseTree(1, 1)
    >>> q = family({"root": jnp.zeros(1), "binary": jnp.zeros((1, 2, 2)), "unary": jnp.zeros((4, 1)),
    ...     "length": jnp.array(4)})
    >>> print(jnp.exp(family.log_normalizer(q.natural)).round())  # binary trees with four leaves
    5.0

    ```
    """

    event_ndim: ClassVar[int] = 3

    num_nonterminals: int = eqx.field(static=True)
    num_preterminals: int = eqx.field(static=True)
    allowed: tuple | None = eqx.field(static=True)
    roots: tuple | None = eqx.field(static=True)
    form: Literal["auto", "log"] = eqx.field(static=True)

    def __init__(
        self,
        num_nonterminals: int,
        num_preterminals: int,
        *,
        allowed: Any = None,
        roots: Any = None,
        form: Literal["auto", "log"] = "auto",
    ):
        check_count(
            "ParseTree", num_nonterminals=num_nonterminals, num_preterminals=num_preterminals
        )
        self.num_nonterminals = num_nonterminals
        self.num_preterminals = num_preterminals
        size = self.num_symbols
        self.allowed = truth("ParseTree: allowed", allowed, (num_nonterminals, size, size))
        self.roots = truth("ParseTree: roots", roots, (num_nonterminals,))
        if form not in ("auto", "log"):
            raise ValueError(f"ParseTree: form must be 'auto' or 'log', got {form!r}.")
        self.form = form

    @property
    def num_symbols(self) -> int:
        """The number of symbols S."""
        return self.num_nonterminals + self.num_preterminals

    def possible(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns which symbols may be the root (N,), and which rules exist (N, S, S)."""
        number, size = self.num_nonterminals, self.num_symbols
        roots = np.ones(number, bool) if self.roots is None else np.array(self.roots)
        shape = (number, size, size)
        return roots, np.ones(shape, bool) if self.allowed is None else np.array(self.allowed)

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]) - 2

    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        pairs = self.possible()[1].any(0)
        dense = _SPARSE * pairs.sum() >= pairs.size
        if self.form == "auto" and semiring is LOG and dense and len(natural["unary"]) > 1:
            return certified(self, natural)
        return self.by_logarithms(natural, semiring)

    def by_products(self, natural):
        roots, allowed = self.possible()
        root = jnp.where(roots, natural["root"], -jnp.inf)
        binary = jnp.where(allowed, natural["binary"], -jnp.inf)
        return inside_outside(root, binary, natural["unary"], natural["length"])

    def by_logarithms(self, natural, semiring):
        return self._fold(natural, semiring, jnp.zeros(()))

    def _fold(self, natural, semiring, constituents):
        """Returns the sum over all trees; its derivative in the zeros `constituents` (T, T, S) gives the nodes."""
        roots, allowed = self.possible()
        unary, length = natural["unary"], natural["length"]
        pairs = np.argwhere(allowed.any(0))
        weights = natural["binary"][:, pairs[:, 0], pairs[:, 1]]
        weights = jnp.where(allowed[:, pairs[:, 0], pairs[:, 1]], weights, -jnp.inf)
        shape = (len(unary), len(unary), self.num_symbols)
        extra = jnp.broadcast_to(constituents, shape).astype(unary.dtype)
        keys = semiring.keys(2 * len(unary))
        plan = _Plan(tuple(map(tuple, pairs.tolist())), self.num_nonterminals)
        chart = _inside(plan, semiring, keys, weights, unary, extra)
        top = chart[0, length - 1, : self.num_nonterminals]
        top = top + jnp.where(roots, natural["root"], -jnp.inf)
        return semiring.sum(top, 0, None if keys is None else keys[0])

    def constituents(self, natural: PyTree) -> Array:
        """Returns the probability that words i, …, i + w form a constituent of symbol s, at [i, w, s]."""
        return self._nodes(natural, LOG)

    def _nodes(self, natural, semiring):
        count = len(natural["unary"])
        zeros = jnp.zeros((count, count, self.num_symbols), natural["unary"].dtype)
        return if_any(
            *jax.value_and_grad(lambda extra: self._fold(natural, semiring, extra))(zeros)
        )

    def mode(self, natural: PyTree) -> Array:
        return self._nodes(jax.lax.stop_gradient(natural), MAX) > 0.5

    def sample(self, natural: PyTree, key: Key) -> Array:
        return self._nodes(jax.lax.stop_gradient(natural), Sampling(key)) > 0.5

    def decode(self, statistics: PyTree) -> Array:
        raise TypeError("ParseTree: counts of rules do not determine a tree. Use mode or sample.")

    def statistics(self, z: Array) -> PyTree:
        """Returns the counts of a tree's rules."""
        number, count = self.num_nonterminals, len(z)
        nodes = z.astype(jnp.result_type(float))
        words = nodes[:, 0, number:]
        length = jnp.sum(jnp.any(z[:, 0], -1))
        start, split = np.arange(count)[:, None], np.arange(count)

        def of_width(binary, width):
            # A node over the words i, …, i + w has a left child over i, …, i + u and a right one over the rest.
            inside = (split < width) & (start + split + 1 < count)
            right = nodes[
                np.minimum(start + split + 1, count - 1), jnp.maximum(width - split - 1, 0)
            ]
            right = jnp.where(inside[:, :, None], right, 0)
            parents = jax.lax.dynamic_index_in_dim(nodes, width, 1, keepdims=False)[:, :number]
            return binary + jnp.einsum(
                "ia,iub,iuc->abc", parents, nodes, right, precision="highest"
            ), None

        zeros = jnp.zeros((number, self.num_symbols, self.num_symbols), nodes.dtype)
        binary, _ = jax.lax.scan(of_width, zeros, jnp.arange(1, count))
        root = nodes[0, length - 1, :number]
        return {"root": root, "binary": binary, "unary": words, "length": length}

    def score(self, natural: PyTree, z: Array) -> Scalar:
        roots, allowed = self.possible()
        potentials = natural | {
            "root": jnp.where(roots, natural["root"], -jnp.inf),
            "binary": jnp.where(allowed, natural["binary"], -jnp.inf),
        }
        total = possible_dot(self.statistics(z), potentials)
        return jnp.where(self._is_tree(z, natural["length"]), total, -jnp.inf)

    def _is_tree(self, z, length):
        """Returns whether z is a tree: each word is under one preterminal, every other node has two children in
        exactly one way, and the number of nodes is that of a tree, so that all of them hang on its root."""
        number, count = self.num_nonterminals, len(z)
        nodes = jnp.sum(z, -1)
        start, width, split = np.ogrid[:count, :count, :count]
        inside = (split < width) & (start + split + 1 < count)
        right = nodes[np.minimum(start + split + 1, count - 1), np.maximum(width - split - 1, 0)]
        pairs = jnp.sum(jnp.where(inside, nodes[:, None, :] * right, 0), -1)
        words = jnp.sum(z[:, 0, number:], -1) == (jnp.arange(count) < length).astype(int)
        kinds = ~jnp.any(z[:, 0, :number]) & ~jnp.any(z[:, 1:, number:])
        inner = nodes[:, 1:]
        binary = jnp.all((inner == 0) | ((inner == 1) & (pairs[:, 1:] == 1)))
        whole = (jnp.sum(inner) == length - 1) & (nodes[0, length - 1] == 1)
        return jnp.all(words) & kinds & binary & whole

    def bracketed(self, z: Array, words: Any = None, symbols: Any = None) -> str:
        """Returns the tree in brackets, `(0 (1 the) (2 dog))`; `words` and `symbols` are optional names.

        ```python
        >>> import elbax, jax.numpy as jnp
        >>> family = elbax.families.ParseTree(1, 1)
        >>> q = family({"root": jnp.zeros(1), "binary": jnp.zeros((1, 2, 2)).at[0, 0, 1].set(1.0),
        ...     "unary": jnp.zeros((3, 1)), "length": jnp.array(3)})
        >>> print(family.bracketed(q.mode(), ["the", "old", "man"], "SW"))
        (S (S (W the) (W old)) (W man))

        ```
        """
        nodes = {(int(i), int(w)): int(s) for i, w, s in np.argwhere(np.asarray(z))}
        words = range(len(z)) if words is None else words
        symbols = range(self.num_symbols) if symbols is None else symbols

        def write(start, width):
            name = symbols[nodes[start, width]]
            if width == 0:
                return f"({name} {words[start]})"
            split = next(
                u
                for u in range(width)
                if {(start, u), (start + u + 1, width - u - 1)} <= nodes.keys()
            )
            return f"({name} {write(start, split)} {write(start + split + 1, width - split - 1)})"

        return write(0, max(width for start, width in nodes if start == 0))

    def from_network(self, output: PyTree) -> PyTree:
        return named("ParseTree", output, {"root", "binary", "unary", "length"})


class _Plan(eqx.Module):
    """The pairs of children that occur, and the number of nonterminals."""

    pairs: tuple = eqx.field(static=True)
    num_nonterminals: int = eqx.field(static=True)

    @property
    def left(self) -> np.ndarray:
        return np.array(self.pairs)[:, 0]

    @property
    def right(self) -> np.ndarray:
        return np.array(self.pairs)[:, 1]


def _next(ahead, fresh, empty):
    """Returns Q' for the next width w + 1: Q'[i, 0] = fresh[i + 1], Q'[i, u] = Q[i + 1, u − 1]."""
    below = jnp.full((1, *fresh.shape[1:]), empty, fresh.dtype)
    newest = jnp.concatenate([fresh[1:], below])
    moved = jnp.concatenate([ahead[1:], jnp.full((1, *ahead.shape[1:]), empty, ahead.dtype)])
    return jnp.concatenate([newest[:, None], moved[:, :-1]], 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _inside(plan, semiring, keys, weights, unary, extra):
    """Returns the inside weights (T, T, S) of all spans: [i, w] is over the words i, …, i + w. Entries past the
    end are meaningless, and no sentence's root uses them."""
    count, number = len(unary), plan.num_nonterminals
    size = extra.shape[-1]
    words = (
        jnp.concatenate([jnp.full((count, number), -jnp.inf, unary.dtype), unary], 1) + extra[:, 0]
    )
    chart = jnp.full((count, count, size), -jnp.inf, unary.dtype).at[:, 0].set(words)
    ahead = _next(jnp.full((count, count, size), -jnp.inf, unary.dtype), words, -jnp.inf)

    for start, end in bands(count):
        rows, splits = count - start + 1, end - 2

        def step(carry, row, rows=rows, splits=splits):
            chart, ahead = carry
            width, extra = row
            both = chart[:rows, :splits, plan.left] + ahead[:rows, :splits, plan.right]
            spans = semiring.total(both, 1)
            nodes = semiring.total(spans[:, None, :] + weights, 2) + extra[:rows, :number]
            fresh = jnp.full((count, size), -jnp.inf, nodes.dtype).at[:rows, :number].set(nodes)
            chart = jax.lax.dynamic_update_index_in_dim(chart, fresh, width - 1, 1)
            return (chart, _next(ahead, fresh, -jnp.inf)), None

        widths = jnp.arange(start, end)
        of_width = extra[:, start - 1 : end - 1].swapaxes(0, 1)
        (chart, ahead), _ = jax.lax.scan(step, (chart, ahead), (widths, of_width))
    return chart


@_inside.defjvp
def _(plan, primals, tangents):
    # The derivative's recursion is linear. The weights it needs are recomputed from the finished chart at each
    # width, so that one chart is stored instead of one per width.
    semiring, keys, weights, unary, extra = primals
    _, _, weights_slope, unary_slope, extra_slope = tangents
    chart = _inside(plan, *primals)
    count, number, size = len(unary), plan.num_nonterminals, extra.shape[-1]
    pick_left = np.eye(size)[:, plan.left]
    pick_right = np.eye(size)[:, plan.right]
    below = jnp.zeros((count, number), unary.dtype)
    words = jnp.concatenate([below, unary_slope], 1) + extra_slope[:, 0]
    slope = jnp.zeros_like(chart).at[:, 0].set(words)
    ahead_slope = _next(jnp.zeros_like(chart), words, 0)

    def shares(chart, width, rows, splits):
        # The rest of a span after its first u + 1 words: [i + u + 1, width − u − 2].
        split = np.arange(splits)
        place = np.minimum(np.arange(rows)[:, None] + split + 1, count - 1)
        ahead = chart[place, jnp.maximum(width - split - 2, 0)]
        both = chart[:rows, :splits, plan.left] + ahead[:, :, plan.right]
        both = jnp.where((split < width - 1)[:, None], both, -jnp.inf)
        of_split = None if keys is None else keys[2 * width - 2]
        of_rule = None if keys is None else keys[2 * width - 1]
        spans = semiring.sum(both, 1, of_split)
        terms = spans[:, None, :] + weights
        nodes = semiring.sum(terms, 2, of_rule)
        return (
            semiring.shares(both, spans, 1, of_split),
            semiring.shares(terms, nodes, 2, of_rule),
        )

    for start, end in bands(count):
        rows, splits = count - start + 1, end - 2

        @jax.checkpoint
        def linear(carry, chart, weights_slope, width, extra_slope, rows=rows, splits=splits):
            by_split, by_rule = shares(chart, width, rows, splits)
            slope, ahead_slope = carry
            dtype = slope.dtype
            left = matmul(slope[:rows, :splits], jnp.asarray(pick_left, dtype))
            right = matmul(ahead_slope[:rows, :splits], jnp.asarray(pick_right, dtype))
            spans = jnp.sum(by_split * (left + right), 1)
            nodes = jnp.sum(by_rule * (spans[:, None, :] + weights_slope), 2)
            nodes += extra_slope[:rows, :number]
            fresh = jnp.zeros((count, size), dtype).at[:rows, :number].set(nodes)
            slope = jax.lax.dynamic_update_index_in_dim(slope, fresh, width - 1, 1)
            return slope, _next(ahead_slope, fresh, 0)

        def step(carry, row, linear=linear):
            width, extra_slope = row
            return linear(carry, chart, weights_slope, width, extra_slope), None

        widths = jnp.arange(start, end)
        of_width = extra_slope[:, start - 1 : end - 1].swapaxes(0, 1)
        (slope, ahead_slope), _ = jax.lax.scan(step, (slope, ahead_slope), (widths, of_width))
    return chart, slope
