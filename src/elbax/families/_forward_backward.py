r"""Forward and backward on weights instead of logarithms, with a check of whether underflow could matter.

Forward weights α are divided by their sum c at every step, and backward weights β by the same c, so that $\sum_i
\alpha_{ti} \beta_{ti} = 1$. A weight below the smallest number, `tiny`, is lost. The paths through it have a share
of at most tiny β / c in the whole. That is negligible unless β is enormous, as when the lost weight turns out to
be on the only possible path. β has the floor `tiny`, which makes it an upper bound: the largest β / c is a
certificate.
"""

import jax
import jax.numpy as jnp

from .._math.algebra import apply, matmul, product
from .._types import Array, PyTree, Scalar


def forward_backward(
    initial: Array, transition: Array, unary: Array, length: Array
) -> tuple[Array, Scalar, PyTree]:
    """Returns (whether the rest is accurate to rounding, log-normalizer, its gradient), given log-potentials.

    The gradient is `{"initial": (K,), "transition": as given, "unary": (T, K)}`.
    """
    dtype = unary.dtype
    tiny = jnp.finfo(dtype).tiny
    top = jax.lax.stop_gradient(jnp.max(transition))
    weights = jnp.exp(transition - top)
    # The largest of each step is taken out before the exponential, and put back at the end.
    begin = initial + unary[0]
    scale = jax.lax.stop_gradient(jnp.concatenate([jnp.max(begin)[None], jnp.max(unary[1:], -1)]))
    emitted = jnp.exp(unary[1:] - scale[1:, None])
    steps = jnp.arange(len(unary))
    inside = steps < length
    varying = None if weights.ndim == 2 else weights
    own = lambda mine: weights if mine is None else mine

    def ahead(alpha, row):
        emitted, inside, mine = row
        moved = product(alpha[None], own(mine))[0] * emitted
        total = jnp.where(inside, jnp.sum(moved), 1)
        alpha = jnp.where(inside, moved / total, alpha)
        return alpha, (alpha, total)

    start = jnp.exp(begin - scale[0])
    first = start / jnp.sum(start)
    _, (later, totals) = jax.lax.scan(ahead, first, (emitted, inside[1:], varying))
    alphas = jnp.concatenate([first[None], later])

    # Divide first: the product of two small numbers would underflow.
    scaled = jnp.where(inside[1:, None], emitted / totals[:, None], 0)

    def back(beta, row):
        scaled, inside, mine = row
        moved = jnp.maximum(apply(own(mine), scaled * beta), tiny)
        beta = jnp.where(inside, moved, beta)
        return beta, beta

    last = jnp.ones_like(first)
    _, earlier = jax.lax.scan(back, last, (scaled, inside[1:], varying), reverse=True)
    betas = jnp.concatenate([earlier, last[None]])
    aheads = scaled * betas[1:]

    # Shares sum to one up to rounding; along a long chain, products would accumulate that error.
    both = alphas * betas
    whole = jnp.sum(both, -1, keepdims=True)
    before = alphas[:-1] / whole[:-1]
    if weights.ndim == 2:
        moves = weights * matmul(before.T, aheads)
    else:
        moves = weights * before[:, :, None] * aheads[:, None, :]
    states = jnp.where(inside[:, None], both / whole, 0)

    grown = jnp.log(totals) + jnp.where(inside[1:], scale[1:], 0)
    value = jnp.log(jnp.sum(start)) + scale[0] + _sum(grown) + (length - 1).astype(dtype) * top
    need = jnp.max(betas / whole, -1)
    largest = jnp.maximum(jnp.max(need), jnp.max(need[1:] / totals, initial=0))
    certain = largest <= tiny**-0.5
    return certain, value, {"initial": states[0], "transition": moves, "unary": states}


def _sum(x: Array) -> Scalar:
    """Returns a sum in two rounds: over 1e5 steps plain rounding would exceed the gain of an EM step."""
    size = max(1, int(len(x) ** 0.5))
    more = -len(x) % size
    return jnp.sum(jnp.sum(jnp.pad(x, (0, more)).reshape(-1, size), 1))
