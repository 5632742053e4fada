r"""Inside and outside on weights instead of logarithms, and whether what float arithmetic lost could matter.

The weights of a span's symbols stand as a level, a logarithm, and shares α of at most 1: those of two children are
then joined by matrix products, where logarithms need an exponential for every pair of symbols at every split.

What is lost, being below the smallest number, is made up for by a floor under what every node adds up, so that
the computed weight of the whole is too large if anything. It is a polynomial with coefficients ≥ 0 in these
additions e, hence too large by at most $\sum e\, \partial Z / \partial e$: the largest outside weight β, taken
before a node is scaled, is a certificate.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .._algebra import matmul
from .._types import Array, PyTree, Scalar


def bands(count: int) -> list[tuple[int, int]]:
    """Widths from a to b − 1 that are run with arrays of one shape: as few shapes as waste little."""
    number = 1 if count <= 12 else 2
    edges = np.unique(np.linspace(2, count + 1, number + 1).round().astype(int))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist()))


def inside_outside(
    root: Array, binary: Array, unary: Array, length: Array
) -> tuple[Array, Scalar, PyTree]:
    """(whether the rest is right to rounding, log-normalizer, its gradient) of a grammar's log-potentials.

    They are (N,), (N, S, S) and (T, P), −∞ where there is no way; the gradient has their names and shapes.
    """
    count, number = len(unary), len(root)
    size = binary.shape[-1]
    dtype = unary.dtype
    tiny = jnp.finfo(dtype).tiny
    # As much as all the products that one node adds up could lose together.
    least = tiny * size * size * count

    top_rule, rules = _shares(binary, None)
    rules = rules.reshape(number, size * size)
    top_root, roots = _shares(root, None)
    top_word, words = _shares(unary, -1)
    words = jnp.where(unary > -jnp.inf, jnp.maximum(words, tiny), 0)
    words = jnp.concatenate([jnp.zeros((count, number), dtype), words], 1)

    # Two charts of the same shares: spans by their first word and width, and by their last word and T − width. A
    # span's left parts are then a row of the one, its right parts a row of the other; past the end both are
    # empty, of level −∞.
    whole = 2 * count
    by_first = jnp.zeros((count, count, size), dtype).at[:, 0].set(words)
    by_last = jnp.zeros((whole, whole, size), dtype).at[:count, count - 1].set(words)
    first_level = jnp.full((count, count), -jnp.inf, dtype).at[:, 0].set(top_word[:, 0])
    last_level = jnp.full((whole, whole), -jnp.inf, dtype).at[:count, count - 1].set(top_word[:, 0])

    def parts(charts, width, rows, splits):
        """The shares of left parts, weighted by the levels of both, those of right parts, and the top level."""
        by_first, by_last, first_level, last_level = charts
        place = width - 1, count + 1 - width
        left = by_first[:rows, :splits]
        right = jax.lax.dynamic_slice(by_last, (*place, 0), (rows, splits, size))
        levels = first_level[:rows, :splits]
        levels += jax.lax.dynamic_slice(last_level, place, (rows, splits))
        top = jnp.max(levels, -1)
        top = jnp.where(jnp.isfinite(top), top, 0)
        return left, right, jnp.exp(levels - top[:, None]), top

    def join(left, right, weight):
        joined = jnp.einsum("iua,iub->iab", weight[..., None] * left, right, precision="highest")
        return joined.reshape(len(left), size * size)

    norms = [jnp.ones((0, count), dtype)]
    charts = by_first, by_last, first_level, last_level
    for start, end in bands(count):
        rows, splits = count - start + 1, end - 2

        def inside(charts, width, rows=rows, splits=splits):
            left, right, weight, top = parts(charts, width, rows, splits)
            nodes = jnp.maximum(matmul(join(left, right, weight), rules.T), least)
            norm = jax.lax.stop_gradient(jnp.max(nodes, -1))
            nodes = jnp.maximum(nodes / norm[:, None], tiny)
            fresh = jnp.pad(nodes, ((0, count - rows), (0, size - number)))
            level = jnp.pad(
                top + jnp.log(norm) + top_rule, (0, count - rows), constant_values=-jnp.inf
            )
            by_first, by_last, first_level, last_level = charts
            place = width - 1, count - width
            put = jax.lax.dynamic_update_slice
            charts = (
                put(by_first, fresh[:, None], (0, width - 1, 0)),
                put(by_last, fresh[:, None], (*place, 0)),
                put(first_level, level[:, None], (0, width - 1)),
                put(last_level, level[:, None], place),
            )
            return charts, jnp.pad(norm, (0, count - rows), constant_values=1)

        charts, of_band = jax.lax.scan(inside, charts, jnp.arange(start, end))
        norms.append(of_band)
    norms = jnp.concatenate(norms)

    by_first, _, first_level, _ = charts
    top_node = by_first[0, length - 1, :number]
    total = jnp.sum(roots * top_node)
    value = first_level[0, length - 1] + top_root + jnp.log(total)

    outside_first = jnp.zeros_like(by_first).at[0, length - 1, :number].set(roots / total)
    outside_last = jnp.zeros_like(by_last)
    used = jnp.zeros_like(rules)
    need = 1 / total
    carry = outside_first, outside_last, used, need

    def of_node(outside_first, outside_last, width, rows):
        """The outside weights of the spans of a width, which their uses as left and as right parts add up to."""
        place = width - 1, count - width, 0
        return (
            jax.lax.dynamic_slice(outside_first, (0, width - 1, 0), (rows, 1, size))[:, 0]
            + jax.lax.dynamic_slice(outside_last, place, (rows, 1, size))[:, 0]
        )

    for start, end in reversed(bands(count)):
        rows, splits = count - start + 1, end - 2

        def outside(carry, row, rows=rows, splits=splits):
            outside_first, outside_last, used, need = carry
            width, norm = row
            left, right, weight, _ = parts(charts, width, rows, splits)
            node = of_node(outside_first, outside_last, width, rows)[:, :number] / norm[:rows, None]
            used += matmul(node.T, join(left, right, weight))
            pairs = matmul(node, rules).reshape(rows, size, size)
            by_right = jnp.einsum("iab,iub->iua", pairs, right, precision="highest")
            by_left = jnp.einsum("iab,iua->iub", pairs, left, precision="highest")
            place = width - 1, count + 1 - width, 0
            before = jax.lax.dynamic_slice(outside_last, place, right.shape)
            outside_last = jax.lax.dynamic_update_slice(
                outside_last, before + weight[..., None] * by_left, place
            )
            outside_first = outside_first.at[:rows, :splits].add(weight[..., None] * by_right)
            need = jnp.maximum(need, jnp.max(node))
            return (outside_first, outside_last, used, need), None

        of_band = norms[start - 2 : end - 2]
        carry, _ = jax.lax.scan(outside, carry, (jnp.arange(start, end), of_band), reverse=True)

    outside_first, outside_last, used, need = carry
    outside_word = of_node(outside_first, outside_last, jnp.ones((), int), count)
    # β of a node is at most its parents' before they are scaled, times the pairs that it is in.
    largest = jnp.maximum(need, jnp.maximum(jnp.max(outside_first), jnp.max(outside_last)))
    marginals = {
        "root": roots * top_node / total,
        "binary": (rules * used).reshape(binary.shape),
        "unary": (outside_word * words)[:, number:],
    }
    return largest <= tiny**-0.5, value, marginals


def _shares(logarithms: Array, axis: int | None) -> tuple[Array, Array]:
    """(the largest, or 0 where there is none; weights less it)."""
    top = jax.lax.stop_gradient(jnp.max(logarithms, axis, keepdims=axis is not None))
    top = jnp.where(jnp.isfinite(top), top, 0)
    return top, jnp.exp(logarithms - top)
