"""Mean field for a grid."""

import jax.numpy as jnp

from ._factored import AbstractFactored, factored, no_blocks
from ._grid import GridGraph
from ._sites import Sites


class FactoredGrid(AbstractFactored):
    """Independent sites of a grid; the two colors of a checkerboard are updated in turn."""

    whole: GridGraph

    @property
    def parts(self) -> Sites:
        return Sites(self.whole.num_values, 2)

    def join(self, means):
        sites = means["unary"]
        return {
            "unary": sites,
            "below": sites[:-1, :, :, None] * sites[1:, :, None, :],
            "beside": sites[:, :-1, :, None] * sites[:, 1:, None, :],
        }

    def nothing(self, potentials):
        return {"unary": jnp.zeros_like(potentials["unary"])}

    def colors(self, natural):
        row, column = jnp.indices((self.whole.height, self.whole.width))
        return {"unary": ((row + column) % 2)[:, :, None]}, 2


@factored.register(GridGraph)
def _(family, blocks=None):
    no_blocks(family, blocks)
    return FactoredGrid(family)
