"""Stochastic variational inference with parameters of each datum's own."""

from typing import ClassVar

import equinox as eqx
import optax

from .._arguments import check_count, check_optimizer
from .._program import by_value
from ..posteriors import Local
from ..posteriors._semi_amortized import climb
from ._local import AbstractLocalStep


class LocalGradientEStep(AbstractLocalStep):
    r"""Gradient steps up the ELBO in the variational parameters of each row of the batch (Hoffman et al. 2013).

    The optimizer starts afresh in every call, for each row by itself, so that a minibatch moves its own rows only.

    **Arguments:**

    - `model`: any model.
    - `optimizer`: any optax optimizer.
    - `num_steps`: its steps a call.
    - `chunk_size`: about how many rows to see at a time.

    ```python
    >>> import elbax, jax, jax.numpy as jnp, optax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(
    ...     elbax.LocalGradientEStep(model, optax.sgd(1.0), num_steps=5), elbax.ClosedFormMStep(model)
    ... )
    >>> posterior = elbax.Local(jnp.zeros((len(x), 2)), model.latent)
    >>> state, info = em(em.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    optimizer: optax.GradientTransformation = eqx.field(converter=by_value)
    num_steps: int = eqx.field(static=True, default=1)
    chunk_size: int | None = eqx.field(static=True, default=None)

    kind: ClassVar[type] = Local
    form: ClassVar[str] = "elbax.Local(table, model.latent)"

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
