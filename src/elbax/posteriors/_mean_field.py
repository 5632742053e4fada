"""Independent blocks for each datum, moved by coordinate ascent."""

import equinox as eqx
import jax

from .._batch import rows
from .._model import AbstractModel
from .._types import Any, PyTree
from ..families import AbstractFactored, AbstractFamily, Distribution, factored
from ._table import AbstractTable


class MeanField(AbstractTable):
    r"""$q(z_i) = \prod_b q_b(z_{ib})$ for each row i, from a table of natural parameters.

    `MeanFieldEStep` moves it. `MeanField.init(model, params, batch)` makes one.

    **Arguments:**

    - `table`: natural parameters of the family's parts, with a leading axis of rows.
    - `family`: `factored(model.latent)`.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.FactorAnalysis(1)
    >>> params = model.init(jax.random.key(0), x)
    >>> posterior = elbax.MeanField.init(model, params, x)
    >>> posterior.num_rows
    272

    ```
    """

    def __check_init__(self):
        if not isinstance(self.family, AbstractFactored):
            raise TypeError(
                "MeanField: family must be one of independent blocks, elbax.factored(model.latent); got "
                f"{type(self.family).__name__}."
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
        """A row for each row of `batch`, whose blocks know nothing of one another yet.

        `family` is `factored(model.latent)` unless given, such as `factored(model.latent, blocks)`.
        """
        family = factored(model.latent) if family is None else family
        return cls(_start(model, params, batch, family), family)


@eqx.filter_jit
def _start(model: AbstractModel, params: PyTree, batch: PyTree, family: Any) -> PyTree:
    prepared = model.prepare(model.natural(params))
    x, _ = rows(batch)
    return jax.vmap(lambda x: family.start(model.conditional(prepared, x).natural))(x)
