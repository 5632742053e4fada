"""Two ways to run along a chain: step by step, or pairwise as a tree."""

from typing import Literal

import jax
import jax.numpy as jnp

from .._algebra import num_rows
from .._types import Any, Array, Callable, PyTree


Order = Literal["auto", "sequential", "pairwise"]


def check_order(who: str, order: str, segment: int | None) -> None:
    if order not in ("auto", "sequential", "pairwise"):
        raise ValueError(f"{who}: order must be 'auto', 'sequential' or 'pairwise', got {order!r}.")
    if segment is not None and segment < 1:
        raise ValueError(f"{who}: segment must be at least 1, got {segment}.")


def steps(
    step: Callable[[PyTree, PyTree, Array], PyTree],
    carry: PyTree,
    xs: PyTree,
    valid: Array,
    segment: int | None = None,
) -> PyTree:
    """`carry = step(carry, x, valid)` for each row of `xs`, in order.

    With `segment`, a derivative keeps the carry of every so many steps only and runs those between
    again: memory for T / segment + segment carries instead of T, for one more forward pass.
    """

    def body(carry, row):
        return step(carry, *row), None

    rows = (xs, valid)
    if segment is None:
        return jax.lax.scan(body, carry, rows)[0]
    length = num_rows(xs)
    number = -(-length // segment)

    def grid(leaf):
        # The last segment is filled up with steps that are not valid.
        more = jnp.repeat(leaf[-1:], number * segment - length, axis=0)
        return jnp.concatenate([leaf, more]).reshape((number, segment, *leaf.shape[1:]))

    xs, valid = jax.tree.map(grid, rows)
    valid = valid & (jnp.arange(number * segment).reshape(number, segment) < length)

    @jax.checkpoint
    def run(carry, rows):
        return jax.lax.scan(body, carry, rows)[0]

    return jax.lax.scan(lambda carry, rows: (run(carry, rows), None), carry, (xs, valid))[0]


def pairwise(combine: Callable[[Any, Any], Any], elements: PyTree) -> PyTree:
    """e₁ ∘ e₂ ∘ … ∘ e_T of an associative operation on rows, in log₂ T rounds."""
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
    """Whether a chain is run as a tree: as told, or on accelerators, whose time goes with the depth."""
    if order == "auto":
        return jax.default_backend() != "cpu"
    return order == "pairwise"
