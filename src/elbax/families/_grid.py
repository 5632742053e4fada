"""Sites in rows and columns, each coupled to its neighbors."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._types import Array, Int, PyTree, Scalar
from ._semiring import AbstractSemiring
from ._structured import AbstractStructured, named, possible_dot
from ._undefined import where_defined


class GridGraph(AbstractStructured):
    r"""A Potts model on a grid (Ising's, for two values): $z \in \{0, \dots, K - 1\}^{H \times W}$ with

    $$\langle \eta, t(z) \rangle = \sum_{ij} u_{ij}[z_{ij}] + \sum_{ij} b_{ij}[z_{ij}, z_{i + 1, j}]
        + \sum_{ij} s_{ij}[z_{ij}, z_{i, j + 1}].$$

    The natural parameters are log-potentials, `{"unary": (H, W, K), "below": (H − 1, W, K, K), "beside":
    (H, W − 1, K, K)}`; −∞ marks what is impossible. The mean parameters are the marginals of sites and of pairs of
    neighbors.

    Sites are eliminated one by one, along the shorter side (transfer matrices, Kramers and Wannier 1941). A table
    over the values of one row is carried along. Time is proportional to $H W K^{\min(H, W) + 1}$; compile time
    does not depend on the size.

    **Arguments:**

    - `height`, `width`, `num_values`: H, W and K.
    - `limit`: the largest number of entries a table may have.

    **Raises** `ValueError` if exact inference needs a table with more than `limit` entries; the message gives its
    size. Mean field, `factored(grid)`, needs no table.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> family = elbax.families.GridGraph(2, 3, 2)
    >>> same = jnp.array([[0.4, -0.4], [-0.4, 0.4]])
    >>> field = jnp.zeros((2, 3, 2)).at[0, 0, 1].set(3.0)
    >>> q = family({"unary": field, "below": jnp.broadcast_to(same, (1, 3, 2, 2)),
    ...     "beside": jnp.broadcast_to(same, (2, 2, 2, 2))})
    >>> print(q.mode())
    [[1 1 1]
     [1 1 1]]

    ```
    """

    event_ndim: ClassVar[int] = 2

    height: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    num_values: int = eqx.field(static=True)
    limit: int = eqx.field(static=True)

    def __init__(self, height: int, width: int, num_values: int, *, limit: int = 2**24):
        check_count("GridGraph", height=height, width=width, num_values=num_values, limit=limit)
        self.height = height
        self.width = width
        self.num_values = num_values
        self.limit = limit

    @property
    def largest(self) -> int:
        """The number of entries of the largest table."""
        return self.num_values ** (min(self.height, self.width) + 1)

    def batch_ndim(self, natural: PyTree) -> int:
        return jnp.ndim(natural["unary"]) - 3

    def fold(self, natural: PyTree, semiring: AbstractSemiring) -> Scalar:
        if self.largest > self.limit:
            raise ValueError(
                f"GridGraph: {self.height} by {self.width} sites of {self.num_values} values need a table of "
                f"{self.largest:.2g} entries, more than limit={self.limit:.2g}. Exact inference is too large. "
                "Use mean field (MeanFieldEStep, factored(grid)), cut the grid into strips, or raise the limit "
                "if there is enough memory."
            )
        self._check(natural)
        unary, below, beside = natural["unary"], natural["below"], natural["beside"]
        if self.width > self.height:
            unary, below, beside = (table.swapaxes(0, 1) for table in (unary, beside, below))
        rows, columns, size = unary.shape
        # The first row has nothing above it and the first column nothing before it: zero log-potentials.
        none = lambda *shape: jnp.zeros((*shape, size, size), unary.dtype)
        sites = {
            "unary": unary,
            "below": jnp.concatenate([none(1, columns), below]),
            "beside": jnp.concatenate([none(rows, 1), beside], 1),
        }
        sites = jax.tree.map(lambda leaf: leaf.reshape(rows * columns, *leaf.shape[2:]), sites)

        # The table is over the last `columns` sites, oldest first.
        @jax.checkpoint
        def step(carry, row):
            table, level = carry
            site, key = row
            joined = table.reshape(size, -1, 1) + site["below"][:, None, :]
            table = semiring.sum(joined, 0, key) + site["unary"]
            if columns > 1:
                table = table.reshape(-1, size, size) + site["beside"]
            # A logarithm that grows from site to site would lose precision.
            grown = jax.lax.stop_gradient(jnp.max(table))
            grown = jnp.where(jnp.isfinite(grown), grown, 0)
            return (table.reshape(-1) - grown, level + grown), None

        alone = jnp.full(size**columns, -jnp.inf, unary.dtype).at[0].set(0)
        keys = semiring.keys(rows * columns + 1)
        each, last = (None, None) if keys is None else (keys[:-1], keys[-1])
        begin = alone, jnp.zeros((), unary.dtype)
        (table, level), _ = jax.lax.scan(step, begin, (sites, each))
        return level + semiring.sum(table, 0, last)

    def _check(self, natural):
        height, width, pair = self.height, self.width, (self.num_values, self.num_values)
        shapes = {
            "unary": (height, width, self.num_values),
            "below": (height - 1, width, *pair),
            "beside": (height, width - 1, *pair),
        }
        given = jax.tree.map(jnp.shape, natural)
        if given != shapes:
            raise ValueError(
                f"GridGraph: natural parameters must be a dictionary of arrays of shapes {shapes}; got {given}."
            )

    def statistics(self, z: Int[Array, "height width"]) -> PyTree:
        """Returns indicators of the values of sites and of pairs of neighbors."""
        one_hot = jax.nn.one_hot(z, self.num_values)
        return {
            "unary": one_hot,
            "below": one_hot[:-1, :, :, None] * one_hot[1:, :, None, :],
            "beside": one_hot[:, :-1, :, None] * one_hot[:, 1:, None, :],
        }

    def decode(self, statistics: PyTree) -> Int[Array, "height width"]:
        sites = statistics["unary"]
        return where_defined(jnp.sum(sites, -1) > 0, jnp.argmax(sites, -1))

    def score(self, natural: PyTree, z: Int[Array, "height width"]) -> Scalar:
        inside = jnp.all((z >= 0) & (z < self.num_values))
        return jnp.where(inside, possible_dot(self.statistics(z), natural), -jnp.inf)

    def from_network(self, output: PyTree) -> PyTree:
        return named("GridGraph", output, {"unary", "below", "beside"})
