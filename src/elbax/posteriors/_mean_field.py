"""Mean field: a product of independent blocks for each datum."""

import jax
import jax.numpy as jnp

from .._door import enter
from .._model import AbstractModel
from .._program import compiled
from .._sharding import automatic
from .._types import Any, PyTree
from ..data._batch import as_batch, effective_weight, over_rows, row_numbers, without_padding
from ..data._check import is_concrete
from ..families import AbstractAscending, AbstractFamily, Distribution, factored
from ._table import AbstractTable


class MeanField(AbstractTable):
    r"""Looks up $q(z_i) = \prod_b q_b(z_{ib})$ of each row i in a table of natural parameters.

    `MeanFieldEStep` moves it. `MeanField.init(model, params, batch)` makes one.

    **Arguments:**

    - `table`: natural parameters of the family's parts, with a leading axis of rows.
    - `family`: `factored(model.latent)`.

    **Raises** `TypeError` for a family that is not one of independent blocks.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.FactorAnalysis(1)
    >>> params = model.init(jax.random.key(0), x)
    >>> posterior = elbax.posteriors.MeanField.init(model, params, x)
    >>> posterior.num_rows
    272

    ```
    """

    def __check_init__(self):
        if not isinstance(self.family, AbstractAscending):
            raise TypeError(
                "MeanField: family must be a family of independent blocks, "
                f"elbax.families.factored(model.latent); got {type(self.family).__name__}."
            )

    def at(self, entry: PyTree) -> Distribution:
        return self.family(entry)

    @classmethod
    def init(
        cls,
        model: AbstractModel,
        params: PyTree,
        batch: PyTree,
        *,
        family: AbstractFamily | None = None,
    ) -> "MeanField":
        """Returns a table with one row for each datum, in which the blocks ignore all couplings.

        **Arguments:**

        - `model`: a model whose log-joint of one datum has natural parameters.
        - `params`: θ, the model's parameters.
        - `batch`: all data. If it has an `index`, each datum's row is at its index, and rows that the index leaves
            out are NaN.
        - `family`: `factored(model.latent)` by default; or another, such as `factored(model.latent, blocks)`.

        **Raises** `TypeError` for a batch with a traced index, weight or mask: they determine the table's size.
        """
        batch = as_batch(enter("MeanField.init", model, params, batch))
        family = factored(model.latent) if family is None else family
        weight, number = effective_weight(batch), row_numbers(batch)
        if batch.index is None and not batch.padded:
            num_rows = weight.size
        elif is_concrete(number):
            num_rows = int(jnp.max(number)) + 1
        else:
            raise TypeError(
                "MeanField.init: the batch's index, weight and mask must be known, because the largest index "
                "determines the number of rows; got traced ones. Call it outside of jit."
            )
        return cls(_start(model, params, batch, family, num_rows), family)


@compiled
@automatic
def _start(
    model: AbstractModel, params: PyTree, batch: PyTree, family: Any, num_rows: int
) -> PyTree:
    prepared = model.prepare(model.natural(params))
    batch = as_batch(batch)
    weight = effective_weight(batch)
    x = without_padding(batch, jax.tree.map(jnp.asarray, batch.x), weight)
    entries = over_rows(lambda x: family.start(model.potentials_at(prepared, x)), x)
    # Padding has no row of its own: its place is past the end, where nothing is written.
    place = jnp.where(weight > 0, row_numbers(batch), num_rows)

    def put(leaf):
        empty = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0
        return (
            jnp.full((num_rows, *leaf.shape[weight.ndim :]), empty, leaf.dtype)
            .at[place]
            .set(leaf, mode="drop")
        )

    return jax.tree.map(put, entries)
