"""Two ways to run along a chain: step by step, or pairwise as a tree."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._math.algebra import num_rows
from .._types import Any, Array, Callable, PyTree, Scalar
from ._semiring import AbstractSemiring


Order = Literal["auto", "sequential", "pairwise"]


def check_order(who: str, order: str, segment: int | None = None) -> None:
    if order not in ("auto", "sequential", "pairwise"):
        raise ValueError(f"{who}: order must be 'auto', 'sequential' or 'pairwise', got {order!r}.")
    if segment is not None:
        check_count(who, segment=segment)


def steps(
    step: Callable[[PyTree, PyTree, Array], PyTree],
    carry: PyTree,
    xs: PyTree,
    valid: Array,
    segment: int | None = None,
) -> PyTree:
    """Applies `carry = step(carry, x, valid)` to each row of `xs`, in order.

    With `segment`, a derivative stores the carry of every `segment`-th step only and recomputes those between. It
    stores T / segment + segment carries instead of T, and runs one more forward pass.
    """

    def body(carry, row):
        return step(carry, *row), None

    def run(carry, xs, valid):
        return jax.lax.scan(body, carry, (xs, valid))[0]

    return in_segments(run, carry, xs, valid, segment)


def in_segments(
    run: Callable[[PyTree, PyTree, Array], PyTree],
    carry: PyTree,
    rows: PyTree,
    valid: Array,
    segment: int | None,
) -> PyTree:
    """Applies `run(carry, rows, valid)` to `segment` rows at a time (all if None); a derivative stores only the
    carries between segments."""
    if segment is None:
        return run(carry, rows, valid)
    number = -(-len(valid) // segment)
    more = number * segment - len(valid)

    def grid(leaf, last):
        filled = jnp.concatenate([leaf, jnp.repeat(last, more, axis=0)])
        return filled.reshape((number, segment, *leaf.shape[1:]))

    # Fill the last segment up with invalid steps.
    rows = jax.tree.map(lambda leaf: grid(leaf, leaf[-1:]), rows)
    valid = grid(valid, jnp.zeros(1, bool))
    run = jax.checkpoint(run)
    return jax.lax.scan(lambda carry, part: (run(carry, *part), None), carry, (rows, valid))[0]


def forward(
    semiring: AbstractSemiring,
    terms: Callable[[PyTree, Array, PyTree], Array],
    shared: PyTree,
    first: Array,
    rows: PyTree,
    valid: Array,
    keys: Array | None = None,
    segment: int | None = None,
) -> tuple[Array, Scalar]:
    r"""Runs $\alpha_{t+1} = \bigoplus_i$ `terms(shared, alpha_t, row_t)`, summed over the first axis of the terms.

    Returns (the last α less its largest entry, the sum of all that was subtracted). A logarithm that grows along
    the chain would lose precision, so its growth is taken out after every step.

    The terms are linear in their inputs, so the derivative is a linear recursion. Its coefficients, the shares of
    all terms, are computed for all steps at once, outside of the loop.
    """

    def run(carry, rows, valid):
        alpha, level = carry
        rows, keys = rows
        alphas, levels = forward_all(semiring, terms, shared, alpha, rows, valid, keys)
        return alphas[-1], level + jnp.sum(levels)

    begin = first, jnp.zeros((), first.dtype)
    return in_segments(run, begin, (rows, keys), valid, segment)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def forward_all(semiring, terms, shared, first, rows, valid, keys):
    """Returns, as in `forward`, (α after every step less its largest entry, these entries)."""

    def step(alpha, row):
        row, valid = row
        x = terms(shared, alpha, row)
        moved = semiring.total_of(x) if isinstance(x, list) else semiring.total(x, 0)
        level = jnp.max(moved)
        level = jnp.where(valid & jnp.isfinite(level), level, 0)
        alpha = jnp.where(valid, moved - level, alpha)
        return alpha, (alpha, level)

    return jax.lax.scan(step, first, (rows, valid))[1]


@forward_all.defjvp
def _(terms, primals, tangents):
    semiring, shared, first, rows, valid, keys = primals
    _, shared_slope, first_slope, rows_slope, _, _ = tangents
    alphas, levels = forward_all(*primals[:1], terms, *primals[1:])
    levels = jax.lax.stop_gradient(levels)
    before = jnp.concatenate([first[None], alphas[:-1]])
    x = jax.vmap(terms, (None, 0, 0))(shared, before, rows)

    def share(x, total, key):
        several = isinstance(x, list)
        found = semiring.shares_of(x, total, key) if several else semiring.shares(x, total, 0, key)
        # Shares sum to one up to rounding, which would accumulate in their product along the chain.
        whole = sum(found) if several else jnp.sum(found, 0)
        whole = jnp.where(whole > 0, whole, 1)
        return jax.tree.map(lambda part: part / whole, found)

    grown = alphas + levels.reshape((-1,) + (1,) * (alphas.ndim - 1))
    # In the padding α stays unchanged; the value it would have moved to may overflow the exponential.
    real = lambda leaf: jnp.where(valid.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, 0)
    shares = jax.vmap(share)(jax.tree.map(real, x), real(grown), keys)

    def step(slope, row):
        share, valid, alpha, row, row_slope = row
        slopes = shared_slope, slope, row_slope
        x = jax.jvp(terms, (shared, alpha, row), slopes)[1]
        parts = jax.tree.map(jnp.multiply, share, x)
        moved = sum(parts) if isinstance(parts, list) else jnp.sum(parts, 0)
        slope = jnp.where(valid, moved, slope)
        return slope, slope

    slopes = jax.lax.scan(step, first_slope, (shares, valid, before, rows, rows_slope))[1]
    return (alphas, levels), (slopes, jnp.zeros_like(levels))


def pairwise(combine: Callable[[Any, Any], Any], elements: PyTree) -> PyTree:
    """Returns e₁ ∘ e₂ ∘ … ∘ e_T for an associative operation on rows, in log₂ T rounds."""
    while (length := num_rows(elements)) > 1:
        even = length - length % 2
        left = jax.tree.map(lambda leaf: leaf[0:even:2], elements)  # noqa: B023
        right = jax.tree.map(lambda leaf: leaf[1:even:2], elements)  # noqa: B023
        joined = jax.vmap(combine)(left, right)
        if length % 2:
            joined = jax.tree.map(
                lambda new, old: jnp.concatenate([new, old[-1:]]), joined, elements
            )
        elements = joined
    return jax.tree.map(lambda leaf: leaf[0], elements)


def runs_pairwise(order: str) -> bool:
    """Returns whether a chain runs as a tree: by default on accelerators only, where depth costs time."""
    if order == "auto":
        return jax.default_backend() != "cpu"
    return order == "pairwise"
