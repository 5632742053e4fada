"""The E-step of stochastic variational inference with local parameters."""

from typing import ClassVar

import equinox as eqx
import optax

from .._arguments import check_count, check_optimizer
from .._program import by_value
from ..posteriors import Local
from ..posteriors._semi_amortized import climb
from ._local import AbstractLocalStep


class LocalGradientEStep(AbstractLocalStep):
    r"""Makes gradient steps on the ELBO in the variational parameters of each row of the batch.

    This is stochastic variational inference (Hoffman et al. 2013). In every call the optimizer's state is
    initialized for each row, so a minibatch moves only its own rows.

    **Arguments:**

    - `model`: any model.
    - `optimizer`: any optax optimizer.
    - `num_steps`: the number of steps per call.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` at `init` for a posterior that is not `Local`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp, optax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(
    ...     elbax.LocalGradientEStep(model, optax.sgd(1.0), num_steps=5), elbax.ClosedFormMStep(model)
    ... )
    >>> posterior = elbax.posteriors.Local(jnp.zeros((len(x), 2)), model.latent)
    >>> state, info = em(em.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    optimizer: optax.GradientTransformation = eqx.field(converter=by_value)
    num_steps: int = eqx.field(static=True, default=1)
    chunk_size: int | None = eqx.field(static=True, default=None)

    kind: ClassVar[type] = Local
    form: ClassVar[str] = "elbax.posteriors.Local(table, model.latent)"

    def __check_init__(self):
        check_optimizer("LocalGradientEStep", self.optimizer)
        check_count("LocalGradientEStep", num_steps=self.num_steps)

    @property
    def ascends(self) -> bool:
        return False

    def improve(self, form, natural, x, table, entry, key):
        def bound(entry, key):
            return form.elbo(natural, x, table.at(entry), key)

        return climb(bound, entry, self.optimizer, self.num_steps, key)
