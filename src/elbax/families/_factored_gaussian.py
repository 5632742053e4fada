"""Mean field for a Gaussian vector."""

import jax
import jax.numpy as jnp

from .._math.algebra import vdot
from ._diagonal_gaussian import DiagonalGaussian
from ._factored import AbstractFactored, factored, no_blocks
from ._gaussian import Gaussian


class FactoredGaussian(AbstractFactored):
    """Independent coordinates of a Gaussian vector."""

    whole: Gaussian

    @property
    def parts(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.whole.dim)

    def join(self, means):
        mean, square = means
        apart = 1 - jnp.eye(len(mean), dtype=mean.dtype)
        return mean, jnp.diag(square) - 0.5 * apart * jnp.outer(mean, mean)

    def nothing(self, potentials):
        return jnp.zeros_like(potentials[0]), jnp.zeros_like(potentials[0])

    def colors(self, natural):
        place = jnp.arange(self.whole.dim)
        return (place, place), self.whole.dim

    def ascend(self, natural, whole):
        # Precisions are the same in every round, and means are updated as in the Gauss-Seidel method: with one row
        # of the matrix per coordinate, where the gradient would use the whole matrix.
        linear, precision = whole
        own = jnp.diagonal(precision)

        def step(mean, row):
            i, linear, across, own = row
            return mean.at[i].add((linear - vdot(across, mean)) / own), None

        rows = jnp.arange(self.whole.dim), linear, precision, own
        mean, _ = jax.lax.scan(step, natural[0] / natural[1], rows)
        return own * mean, own


@factored.register(Gaussian)
def _(family, blocks=None):
    no_blocks(family, blocks)
    return FactoredGaussian(family)
