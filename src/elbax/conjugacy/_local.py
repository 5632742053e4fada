"""The beliefs about the blocks that each datum has of its own."""

import jax

from .._types import Array, Key, PyTree
from ..posteriors._posterior import AbstractPosterior


class LocalBeliefs(AbstractPosterior):
    """A table of q of each datum's own blocks, by their names: `posterior(x, index=i)` is that of row i.

    **Fields:**

    - `blocks`: a dictionary of distributions with one leading axis, the rows of the data, or of arrays of values
        for blocks that are points. `state.posterior.blocks["component"].mean()` are all rows at once.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.Categorical(2)(jnp.zeros((5, 2)))
    >>> beliefs = elbax.conjugacy.LocalBeliefs({"component": q})
    >>> print(beliefs(None, index=3)["component"].mean())
    [0.5 0.5]

    ```
    """

    blocks: dict[str, PyTree]

    def __call__(self, x: PyTree, *, key: Key | None = None, index: Array | int | None = None):
        """Returns a dictionary of the beliefs of one row."""
        if index is None:
            raise TypeError(
                "LocalBeliefs: got no index. Beliefs are kept by row, and x does not determine the row. Call "
                "posterior(x, index=row)."
            )
        return self.rows(index)

    def rows(self, index: Array | int) -> dict[str, PyTree]:
        """Returns the beliefs of these rows."""
        return jax.tree.map(lambda leaf: leaf[index], self.blocks)

    def weights(self) -> None:
        """Gradient steps train nothing of it."""
        return None
