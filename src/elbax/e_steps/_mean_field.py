"""The E-step of variational EM, by coordinate ascent."""

from typing import ClassVar

import equinox as eqx

from .._arguments import check_count
from .._state import ELBOState
from .._types import PyTree
from ..posteriors import MeanField
from ._local import AbstractLocalStep


class MeanFieldEStep(AbstractLocalStep):
    r"""Sets $q_b \leftarrow \exp E_{q_{\setminus b}}[\log p_\theta(x, z)] / Z$ for one block after another.

    It starts from the current q. Each move maximizes the ELBO in its block, so no step lowers the ELBO, whatever
    the number of sweeps (Saul and Jordan 1996; Neal and Hinton 1998, section 2). Blocks are single variables, or
    those that `factored(family, blocks)` names; inference within a block is exact.

    **Arguments:**

    - `model`: a model whose conditional is known.
    - `num_sweeps`: the number of rounds over all blocks.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` at `init` for a posterior that is not `MeanField`.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.FactorAnalysis(1)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(elbax.MeanFieldEStep(model), elbax.ClosedFormMStep(model))
    >>> posterior = elbax.posteriors.MeanField.init(model, params, x)
    >>> state, info = em(em.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    num_sweeps: int = eqx.field(static=True, default=1)
    chunk_size: int | None = eqx.field(static=True, default=None)

    kind: ClassVar[type] = MeanField
    form: ClassVar[str] = "elbax.posteriors.MeanField.init(model, params, x)"

    def __check_init__(self):
        check_count("MeanFieldEStep", num_sweeps=self.num_sweeps)

    @property
    def ascends(self) -> bool:
        return True

    def improve(self, form, natural, x, table, entry, key):
        return table.family.climb(entry, form.potentials_at(natural, x), self.num_sweeps)

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self(state, batch)[0]
