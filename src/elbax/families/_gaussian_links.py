"""Linear recursions along a Gaussian chain, step by step or as a tree."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import apply, product
from .._types import Array


class Links(eqx.Module):
    """A map from a state x to the next one, F x + g, and from its covariance C to F C Fᵀ + V.

    **Fields:** `matrix` F (T, d, d), `offset` g (T, d), `spread` V (T, d, d), None if no covariance is needed.
    """

    matrix: Array
    offset: Array
    spread: Array | None = None

    def join(self, later: "Links") -> "Links":
        """Returns the composition: these links, then the later ones."""
        spread = self.spread
        if spread is not None and later.spread is not None:
            spread = later.spread + product(later.matrix, product(spread, later.matrix.mT))
        return Links(
            product(later.matrix, self.matrix),
            apply(later.matrix, self.offset) + later.offset,
            spread,
        )


def run(
    links: Links, mean: Array, covariance: Array | None = None, pairwise: bool = False
) -> tuple[Array, Array | None]:
    """Returns (means (T + 1, d), covariances (T + 1, d, d)) of all states, given those of the first.

    With `pairwise` they are computed from all prefix products of links, in log₂ T rounds (Hillis and Steele 1986).
    """
    if pairwise:
        nothing = jnp.zeros((1, len(mean), len(mean)), mean.dtype)
        first = Links(nothing, mean[None], None if covariance is None else covariance[None])
        links = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, links)
        found = _prefixes(links)
        return found.offset, found.spread

    def step(state, link):
        mean, covariance = state
        mean = apply(link.matrix, mean) + link.offset
        if covariance is not None:
            covariance = link.spread + product(link.matrix, product(covariance, link.matrix.T))
        return (mean, covariance), (mean, covariance)

    _, found = jax.lax.scan(step, (mean, covariance), links)
    return jax.tree.map(
        lambda one, more: jnp.concatenate([one[None], more]), (mean, covariance), found
    )


def _prefixes(links: Links) -> Links:
    """Returns the joined links up to each one: joins those 1, 2, 4, … before, in one program for all rounds."""
    number, dim = links.offset.shape
    still = Links(
        jnp.broadcast_to(jnp.eye(dim, dtype=links.offset.dtype), links.matrix.shape),
        jnp.zeros_like(links.offset),
        None if links.spread is None else jnp.zeros_like(links.spread),
    )

    def double(links, shift):
        def before(still, leaf):
            both = jnp.concatenate([still, leaf])
            return jax.lax.dynamic_slice_in_dim(both, number - shift, number)

        return jax.tree.map(before, still, links).join(links), None

    shifts = 2 ** jnp.arange((number - 1).bit_length())
    return jax.lax.scan(double, links, shifts)[0]
