r"""Normals of independent numbers and of a whole vector, in coordinates about themselves.

With θ = m + L w, q(θ) has E[w] = 0 and E[w wᵀ] = 1 at itself. The gradients of an expected log-likelihood in
these two, g and G, are all that a natural-gradient step takes (Khan and Rue 2023, section 4), and no digits are
lost where the deviations are small beside the mean.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._math.algebra import diagonal, matmul
from .._math.linear_algebra import eigh, invert_triangle, root_of_inverse
from .._reference import Reference
from .._types import Array, PyTree


class Independent(eqx.Module):
    """Independent normals: `mean` and `factor`, their deviations, of one shape."""

    mean: Array
    factor: Array

    @property
    def moments(self) -> tuple[Array, Array]:
        return jnp.zeros_like(self.mean), jnp.ones_like(self.factor)

    @property
    def variance(self) -> Array:
        return self.factor**2

    @property
    def log_diagonal(self) -> Array:
        return jnp.log(self.factor)

    def spread(self, first: Array, second: Array) -> Array:
        """Returns the deviations at these moments: √v at v = 1, by its value and derivative."""
        return self.factor * (0.5 + 0.5 * (second - first**2))

    def at(self, first: Array, second: Array, noise: Array | None) -> Array:
        """Returns θ at this noise, or E[θ]."""
        center = self.mean + self.factor * first
        return center if noise is None else center + self.spread(first, second) * noise

    def about(self, first: Array, second: Array, new: "Independent") -> tuple[Array, Array]:
        """Returns the moments about another belief: w' = c w + d."""
        c, d = self.factor / new.factor, (self.mean - new.mean) / new.factor
        return c * first + d, c**2 * second + 2 * c * d * first + d**2

    def gradients(self, prior: Array) -> tuple[Array, Array]:
        """Returns (g, G) at which `posterior` is this normal."""
        own = prior * self.factor
        return own * self.mean, 0.5 * (own * self.factor - 1)

    def posterior(self, prior: Array, slope: Array, curvature: Array) -> "Independent":
        """Returns the normal of precision L² λ₀ − 2 G and mean (g − L λ₀ m) / precision in w."""
        precision = prior * self.factor**2 + jnp.maximum(-2 * curvature, 0)
        step = (slope - prior * self.factor * self.mean) / precision
        return Independent(self.mean + self.factor * step, self.factor / jnp.sqrt(precision))


class Joint(eqx.Module):
    """A normal vector: `mean` of shape `(n,)` and `factor`, the lower triangular L of shape `(n, n)`."""

    mean: Array
    factor: Array

    @property
    def moments(self) -> tuple[Array, Array]:
        return jnp.zeros_like(self.mean), jnp.eye(len(self.mean), dtype=self.mean.dtype)

    @property
    def variance(self) -> Array:
        return jnp.sum(self.factor**2, 1)

    @property
    def log_diagonal(self) -> Array:
        return jnp.log(diagonal(self.factor))

    def at(self, first: Array, second: Array, noise: Array | None) -> Array:
        """Returns θ at this noise, or E[θ].

        The Cholesky factor of the covariance of w at 1 is 1, with derivative Φ: half the diagonal and all below.
        """
        w = first
        if noise is not None:
            excess = second - jnp.outer(first, first) - self.moments[1]
            below = matmul(jnp.tril(0.5 * (excess + excess.T), -1), noise)
            w = first + noise + 0.5 * diagonal(excess) * noise + below
        return self.mean + matmul(self.factor, w)

    def about(self, first: Array, second: Array, new: "Joint") -> tuple[Array, Array]:
        """Returns the moments about another belief: w' = C w + d."""
        inverse = invert_triangle(new.factor)
        change, gap = matmul(inverse, self.factor), matmul(inverse, self.mean - new.mean)
        moved = matmul(change, first)
        mixed = jnp.outer(moved, gap)
        second = matmul(matmul(change, second), change.T)
        return moved + gap, second + mixed + mixed.T + jnp.outer(gap, gap)

    def gradients(self, prior: Array) -> tuple[Array, Array]:
        """Returns (g, G) at which `posterior` is this normal."""
        own = self.factor.T * prior
        return matmul(own, self.mean), 0.5 * (matmul(own, self.factor) - self.moments[1])

    def posterior(self, prior: Array, slope: Array, curvature: Array) -> "Joint":
        """Returns the normal of precision Lᵀ Λ₀ L − 2 G and mean precision⁻¹ (g − Lᵀ Λ₀ m) in w."""
        values, vectors = eigh(-(curvature + curvature.T))
        gained = matmul(vectors * jnp.maximum(values, 0), vectors.T)
        own = self.factor.T * prior
        root = root_of_inverse(matmul(own, self.factor) + gained)
        step = matmul(root, matmul(root.T, slope - matmul(own, self.mean)))
        return Joint(self.mean + matmul(self.factor, step), matmul(self.factor, root))


Piece = Independent | Joint


class Whitened(eqx.Module):
    """Moments of a Gaussian q(θ) by piece, about the point at which it stands.

    **Fields:**

    - `first`, `second`: E[w], and E[w²] or E[w wᵀ].
    - `about`: the `Reference` to the pieces of q, its mean and what in θ is not trained.
    """

    first: list[Array]
    second: list[Array]
    about: Reference


class Pieces:
    """A tree of arrays as pieces: every array that is independent, and one vector of all others."""

    def __init__(self, tree: PyTree, joint: PyTree):
        """Takes the tree, and one bool for each of its arrays: whether it is a part of the vector."""
        self.leaves, self.structure = jax.tree.flatten(tree)
        self.joint = jax.tree.leaves(joint)

    @property
    def kinds(self) -> list[type]:
        alone = [Independent for mark in self.joint if not mark]
        return [*alone, Joint] if any(self.joint) else alone

    def split(self, tree: PyTree) -> list[Array]:
        """Returns the arrays of a tree of this structure by piece."""
        leaves = list(zip(jax.tree.leaves(tree), self.joint, strict=True))
        whole = [jnp.ravel(leaf) for leaf, mark in leaves if mark]
        alone = [leaf for leaf, mark in leaves if not mark]
        return [*alone, jnp.concatenate(whole)] if whole else alone

    def join(self, pieces: list[Array]) -> PyTree:
        """Returns the tree of these pieces."""
        alone, vector, start = iter(pieces), pieces[-1], 0
        found = []
        for leaf, mark in zip(self.leaves, self.joint, strict=True):
            if mark:
                found.append(vector[start : start + leaf.size].reshape(leaf.shape))
                start += leaf.size
            else:
                found.append(next(alone))
        return jax.tree.unflatten(self.structure, found)

    def alone(self, pieces: list[Array]) -> PyTree:
        """Returns the tree of these independent pieces, with `None` for all others."""
        given = iter(pieces)
        found = [None if mark else next(given) for mark in self.joint]
        return jax.tree.unflatten(self.structure, found)
