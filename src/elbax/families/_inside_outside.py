r"""Inside and outside on weights instead of logarithms, with a check of whether underflow could matter.

The weights of a span's symbols are stored as a level (a logarithm) and shares α of at most 1. Two children are
then joined by matrix products; logarithms need an exponential for every pair of symbols at every split.

Weights below the smallest number are lost. A floor under each node's sum makes up for them, so that the computed
weight of the whole is never too small. This weight is a polynomial with coefficients ≥ 0 in these additions e,
hence too large by at most $\sum e\, \partial Z / \partial e$: the largest outside weight β, taken before a node is
scaled, is a certificate.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._math.algebra import matmul
from .._types import Array, PyTree, Scalar


def bands(count: int) -> list[tuple[int, int]]:
    """Returns the widths a, …, b − 1 that share one array shape: as few shapes as waste little work."""
    number = 1 if count <= 12 else 2
    edges = np.unique(np.linspace(2, count + 1, number + 1).round().astype(int))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist()))


def inside_outside(
    root: Array, binary: Array, unary: Array, length: Array
) -> tuple[Array, Scalar, PyTree]:
    """Returns (whether the rest is accurate to rounding, log-normalizer, its gradient), given log-potentials.

    These have shapes (N,), (N, S, S) and (T, P) and are −∞ where impossible; the gradient has their names and
    shapes.
    """
    number, size = binary.shape[:2]
    tiny = jnp.finfo(unary.dtype).tiny
    top_rule, rules = _shares(binary, None)
    rules = rules.reshape(number, size * size)
    top_root, roots = _shares(root, None)
    top_word, words = _shares(unary, -1)
    words = jnp.where(jnp.isneginf(unary), 0, jnp.maximum(words, tiny))
    words = jnp.pad(words, ((0, 0), (number, 0)))

    charts, norms = _inside(rules, top_rule, words, top_word[:, 0])
    top_node = charts.by_first[0, length - 1, :number]
    total = jnp.sum(roots * top_node)
    value = charts.first_level[0, length - 1] + top_root + jnp.log(total)

    outside_root = jnp.zeros_like(charts.by_first).at[0, length - 1, :number].set(roots / total)
    outside_word, used, need = _outside(rules, charts, norms, outside_root)
    marginals = {
        "root": roots * top_node / total,
        "binary": (rules * used).reshape(binary.shape),
        "unary": (outside_word * words)[:, number:],
    }
    return jnp.maximum(need, 1 / total) <= tiny**-0.5, value, marginals


class _Charts(eqx.Module):
    """The same spans twice: by their first word and width, and by their last word and T − width.

    The left parts of a span are then a row of one chart and its right parts a row of the other. Past the end both
    are empty, with level −∞.
    """

    by_first: Array
    by_last: Array
    first_level: Array
    last_level: Array

    @classmethod
    def of_words(cls, words: Array, level: Array) -> "_Charts":
        count, size = words.shape
        shares, nothing = (
            jnp.zeros((count, count, size), words.dtype),
            jnp.full_like(level, -jnp.inf),
        )
        nothing = jnp.broadcast_to(nothing, (count, count))
        more = ((0, count), (0, count))
        empty = cls(
            shares,
            jnp.pad(shares, (*more, (0, 0))),
            nothing,
            jnp.pad(nothing, more, constant_values=-jnp.inf),
        )
        return empty.put(1, words, level)

    @property
    def count(self) -> int:
        return len(self.by_first)

    def put(self, width: Array | int, shares: Array, level: Array) -> "_Charts":
        """Returns the charts with the spans of one width added, whose first words are 0, 1, …"""
        put = jax.lax.dynamic_update_slice
        place = width - 1, self.count - width
        return _Charts(
            put(self.by_first, shares[:, None], (0, width - 1, 0)),
            put(self.by_last, shares[:, None], (*place, 0)),
            put(self.first_level, level[:, None], (0, width - 1)),
            put(self.last_level, level[:, None], place),
        )

    def parts(self, width: Array, rows: int, splits: int) -> tuple[Array, Array, Array, Array]:
        """Returns (left shares, right shares, weight of each split, top level) of the spans of a width."""
        place = width - 1, self.count + 1 - width
        left = self.by_first[:rows, :splits]
        right = jax.lax.dynamic_slice(self.by_last, (*place, 0), left.shape)
        levels = self.first_level[:rows, :splits]
        levels += jax.lax.dynamic_slice(self.last_level, place, (rows, splits))
        top = jnp.max(levels, -1)
        top = jnp.where(jnp.isfinite(top), top, 0)
        return left, right, jnp.exp(levels - top[:, None]), top


def _pairs(left: Array, right: Array, weight: Array) -> Array:
    """Returns the weight of every pair of children, summed over splits."""
    joined = jnp.einsum("iua,iub->iab", weight[..., None] * left, right, precision="highest")
    return joined.reshape(len(left), -1)


def _inside(rules: Array, top_rule: Array, words: Array, level: Array) -> tuple[_Charts, Array]:
    """Returns (the charts, the divisor of each span's shares at [width − 2, first word])."""
    (count, size), number = words.shape, len(rules)
    tiny = jnp.finfo(words.dtype).tiny
    # The most that all products summed at one node could lose together.
    least = tiny * size * size * count
    charts, norms = _Charts.of_words(words, level), [jnp.ones((0, count), words.dtype)]
    for start, end in bands(count):
        rows, splits = count - start + 1, end - 2

        def step(charts, width, rows=rows, splits=splits):
            left, right, weight, top = charts.parts(width, rows, splits)
            nodes = jnp.maximum(matmul(_pairs(left, right, weight), rules.T), least)
            norm = jax.lax.stop_gradient(jnp.max(nodes, -1))
            nodes = jnp.maximum(nodes / norm[:, None], tiny)
            more = 0, count - rows
            shares = jnp.pad(nodes, (more, (0, size - number)))
            level = jnp.pad(top + jnp.log(norm) + top_rule, more, constant_values=-jnp.inf)
            return charts.put(width, shares, level), jnp.pad(norm, more, constant_values=1)

        charts, of_band = jax.lax.scan(step, charts, jnp.arange(start, end))
        norms.append(of_band)
    return charts, jnp.concatenate(norms)


def _outside(
    rules: Array, charts: _Charts, norms: Array, outside_root: Array
) -> tuple[Array, Array, Array]:
    """Returns (outside weights of the words, of the rules, the largest outside weight)."""
    count, number = charts.count, len(rules)
    size = charts.by_first.shape[-1]
    put = jax.lax.dynamic_update_slice

    def of_width(outside_first, outside_last, width, rows):
        """Returns the outside weights of the spans of a width, as left and as right parts together."""
        place = width - 1, count - width, 0
        return (
            jax.lax.dynamic_slice(outside_first, (0, width - 1, 0), (rows, 1, size))[:, 0]
            + jax.lax.dynamic_slice(outside_last, place, (rows, 1, size))[:, 0]
        )

    need = jnp.max(outside_root)
    carry = outside_root, jnp.zeros_like(charts.by_last), jnp.zeros_like(rules), need
    for start, end in reversed(bands(count)):
        rows, splits = count - start + 1, end - 2

        def step(carry, row, rows=rows, splits=splits):
            outside_first, outside_last, used, need = carry
            width, norm = row
            left, right, weight, _ = charts.parts(width, rows, splits)
            whole = of_width(outside_first, outside_last, width, rows)
            node = whole[:, :number] / norm[:rows, None]
            used += matmul(node.T, _pairs(left, right, weight))
            pairs = matmul(node, rules).reshape(rows, size, size)
            by_right = jnp.einsum("iab,iub->iua", pairs, right, precision="highest")
            by_left = jnp.einsum("iab,iua->iub", pairs, left, precision="highest")
            place = width - 1, count + 1 - width, 0
            before = jax.lax.dynamic_slice(outside_last, place, right.shape)
            outside_last = put(outside_last, before + weight[..., None] * by_left, place)
            outside_first = outside_first.at[:rows, :splits].add(weight[..., None] * by_right)
            need = jnp.maximum(need, jnp.maximum(jnp.max(node), jnp.max(whole)))
            return (outside_first, outside_last, used, need), None

        of_band = norms[start - 2 : end - 2]
        carry, _ = jax.lax.scan(step, carry, (jnp.arange(start, end), of_band), reverse=True)
    outside_first, outside_last, used, need = carry
    words = of_width(outside_first, outside_last, jnp.ones((), int), count)
    return words, used, jnp.maximum(need, jnp.max(words))


def _shares(logarithms: Array, axis: int | None) -> tuple[Array, Array]:
    """Returns (the largest logarithm, or 0 if there is none; the weights divided by its exponential)."""
    top = jax.lax.stop_gradient(jnp.max(logarithms, axis, keepdims=axis is not None))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return top, jnp.exp(logarithms - top)
