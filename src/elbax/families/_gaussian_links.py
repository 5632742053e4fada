"""Linear recursions along a Gaussian chain, step by step or as a tree."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import apply, product
from .._types import Any, Array


class Links(eqx.Module):
    """A map from a state x to the next one, F x + g, and from its covariance C to F C Fᵀ + V.

    **Fields:** `matrix` F (T, d, d), `offset` g (T, d), `spread` V (T, d, d), `right` (T, d, d), which stands in
    the place of Fᵀ. The offset or the spread is None if no state, or no covariance, is needed.
    """

    matrix: Array
    offset: Any = None
    spread: Any = None
    right: Any = None

    def move(self, mean: Any, covariance: Any) -> tuple[Any, Any]:
        """Returns the next state and its covariance."""
        if mean is not None:
            mean = apply(self.matrix, mean) + self.offset
        if covariance is not None:
            right = self.matrix.mT if self.right is None else self.right
            covariance = self.spread + product(self.matrix, product(covariance, right))
        return mean, covariance

    def join(self, later: "Links") -> "Links":
        """Returns the composition: these links, then the later ones."""
        right = None if self.right is None else product(self.right, later.right)
        offset, spread = later.move(self.offset, self.spread)
        return Links(product(later.matrix, self.matrix), offset, spread, right)


def run(
    links: Links, mean: Array | None, covariance: Array | None = None, pairwise: bool = False
) -> tuple[Any, Any]:
    """Returns (means (T + 1, d), covariances (T + 1, d, d)) of all states, given those of the first.

    With `pairwise` they are computed from all prefix products of links, in log₂ T rounds (Hillis and Steele 1986).
    """
    start = mean, covariance
    if pairwise:
        nothing = jnp.zeros((1, *links.matrix.shape[1:]), links.matrix.dtype)
        right = None if links.right is None else nothing
        offset, spread = jax.tree.map(lambda leaf: leaf[None], start)
        first = Links(nothing, offset, spread, right)
        links = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, links)
        found = _prefixes(links)
        return found.offset, found.spread

    def step(state, link):
        state = link.move(*state)
        return state, state

    _, found = jax.lax.scan(step, start, links)
    return jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), start, found)


def run_back(
    links: Links, mean: Array, covariance: Array | None = None, pairwise: bool = False
) -> tuple[Any, Any]:
    """Runs from the last link to the first; the moments given are those behind the last one, and returned last."""
    links = jax.tree.map(lambda leaf: leaf[::-1], links)
    return jax.tree.map(lambda leaf: leaf[::-1], run(links, mean, covariance, pairwise))


def _prefixes(links: Links) -> Links:
    """Returns the joined links up to each one: joins those 1, 2, 4, … before, in one program for all rounds."""
    number, dim, _ = links.matrix.shape
    eye = jnp.broadcast_to(jnp.eye(dim, dtype=links.matrix.dtype), links.matrix.shape)
    offset, spread = jax.tree.map(jnp.zeros_like, (links.offset, links.spread))
    still = Links(eye, offset, spread, None if links.right is None else eye)

    def double(links, shift):
        def before(still, leaf):
            both = jnp.concatenate([still, leaf])
            return jax.lax.dynamic_slice_in_dim(both, number - shift, number)

        return jax.tree.map(before, still, links).join(links), None

    shifts = 2 ** jnp.arange((number - 1).bit_length())
    return jax.lax.scan(double, links, shifts)[0]
