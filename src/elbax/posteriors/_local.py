"""Variational parameters for each datum, in the form of an encoder's outputs."""

import jax
import jax.numpy as jnp

from .._types import PyTree
from ..families import Distribution
from ._table import AbstractTable


class Local(AbstractTable):
    """Looks up q of each row in a table of unconstrained parameters, in place of an encoder's outputs.

    There is no encoder and no amortization gap. `LocalGradientEStep` moves the rows of a batch (stochastic
    variational inference with local parameters), `GradientEStep` all rows at once.

    **Arguments:**

    - `table`: a pytree of arrays with a leading axis of rows. One row of it is what `family.from_network` takes.
    - `family`: the family of the latent, usually `model.latent`.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = elbax.posteriors.Local(jnp.zeros((100, 4)), elbax.DiagonalGaussian(2))  # means, log deviations
    >>> print(q(None, index=3).mode())
    [0. 0.]

    ```
    """

    def __check_init__(self):
        AbstractTable.__check_init__(self)
        row = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.result_type(leaf))
        one = jax.tree.map(row, self.table)
        jax.eval_shape(self.family.from_network, one)

    def at(self, entry: PyTree) -> Distribution:
        return self.family.distribution(entry)
