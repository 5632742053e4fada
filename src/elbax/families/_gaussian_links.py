"""A Gaussian chain as a tree: links from state to state, joined by integrating over the one between."""

import jax
import jax.numpy as jnp

from .._algebra import add, matmul, vdot
from .._types import PyTree, Scalar
from ._kalman import each
from ._recursion import pairwise


def log_normalizer(natural: PyTree) -> Scalar:
    """By links N(z'; A z + b, C) exp(h·z − ½ zᵀ J z + c) (Särkkä and García-Fernández 2021)."""
    initial, transition, unary = (natural[name] for name in ("initial", "transition", "unary"))
    number, length, (dim,) = len(unary["target"]), natural["length"], initial["mean"].shape
    dtype = initial["root"].dtype
    zero, none = jnp.zeros(dim, dtype), jnp.zeros((dim, dim), dtype)
    probes = natural.get("probe", {})

    def weight(terms, name):
        """(h, J, c) of one step."""
        parts = (terms, probes.get(name, {}))
        h, J = (
            sum(p.get(k, z) for p in parts) for k, z in dict(linear=zero, precision=none).items()
        )
        if "rows" in terms:
            rows, target = terms["rows"], terms["target"]
            h, J = h + matmul(rows.T, target), J + matmul(rows.T, rows)
            return h, J, terms.get("constant", 0.0) - 0.5 * vdot(target, target)
        return h, J, jnp.asarray(terms.get("constant", 0.0), dtype)

    def move(terms, _):
        root = terms["root"]
        return terms["matrix"], terms["offset"], matmul(root, root.T), *weight(terms, "transition")

    steps = jnp.arange(number)
    observed = each(lambda terms, _: weight(terms, "unary"), unary, steps)
    *moves, h, J, c = each(move, transition, steps[1:])
    still = jnp.eye(dim, dtype=dtype), zero, none

    def where(condition, leaf, default):
        return jnp.where(condition.reshape((-1,) + (1,) * (leaf.ndim - 1)), leaf, default)

    def to_all(leaf, default):
        # No transition leads on from a sequence's last state.
        kept = where(steps[1:] < length, leaf, default)
        return jnp.concatenate([kept, jnp.broadcast_to(default, (1, *leaf.shape[1:]))])

    of_states = [where(steps < length, leaf, jnp.zeros_like(leaf)) for leaf in observed]
    of_moves = [to_all(leaf, jnp.zeros_like(leaf[0])) for leaf in (h, J, c)]
    tilts = [
        leaf.at[0].add(first)
        for leaf, first in zip(add(of_states, of_moves), weight(initial, "initial"), strict=True)
    ]
    root = initial["root"]
    start = none, initial["mean"], matmul(root, root.T), zero, none, jnp.zeros((), dtype)
    all_links = *map(to_all, moves, still), *tilts
    elements = jax.tree.map(lambda s, rest: jnp.concatenate([s[None], rest]), start, all_links)
    return pairwise(_join, elements)[-1]


def _join(left, right):
    """∫ left(z → y) right(y → z') dy."""
    A1, b1, C1, h1, J1, c1 = left
    A2, b2, C2, h2, J2, c2 = right
    dim = len(b1)
    # D = (I + C₁ J₂)⁻¹, by which what the right one knows of y shrinks the left one's spread.
    mixed = jnp.eye(dim, dtype=C1.dtype) + matmul(C1, J2)
    factors = jax.scipy.linalg.lu_factor(mixed)
    solve = lambda rhs: jax.scipy.linalg.lu_solve(factors, rhs)
    pulled = solve(b1 + matmul(C1, h2))
    moved, narrowed = solve(A1), solve(C1)
    linear = h2 - matmul(J2, b1)
    log_determinant = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factors[0]))))
    return (
        matmul(A2, moved),
        matmul(A2, pulled) + b2,
        matmul(A2, matmul(narrowed, A2.T)) + C2,
        matmul(moved.T, linear) + h1,
        matmul(A1.T, matmul(J2, moved)) + J1,
        c1
        + c2
        - 0.5 * log_determinant
        + vdot(h2, b1)
        - 0.5 * vdot(b1, matmul(J2, b1))
        + 0.5 * vdot(linear, matmul(narrowed, linear)),
    )
