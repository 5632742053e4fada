"""The M-step of EM."""

import equinox as eqx
import jax

from .._elbo import expected_statistics, per_datum
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate


class ClosedFormMStep(AbstractUpdate):
    r"""$\theta \leftarrow \arg\max_\theta \mathrm{ELBO}(q, \theta) + \log p(\theta)$, under any q.

    One pass over the data takes the expected sufficient statistics, as the gradient of the expected
    log-joint in its natural coordinates, and the ELBO with them; `model.maximize` does the rest.

    **Arguments:**

    - `model`: a model with a closed form; others raise `TypeError` at the first step.
    - `chunk_size`: about how many rows to see at a time; memory is then flat in the number of data.

    ```python
    >>> import elbax
    >>> m_step = elbax.ClosedFormMStep(elbax.GaussianMixture(2), chunk_size=65536)
    >>> m_step.ascends
    True

    ```
    """

    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)

    @property
    def ascends(self) -> bool:
        return True

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        if type(self.model).maximize is AbstractModel.maximize:
            self.model.maximize((), params)  # raises, and says what to use instead
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        total, statistics, weight = expected_statistics(
            self.model, state.params, state.posterior, batch, key=now, chunk_size=self.chunk_size
        )
        elbo = per_datum(total, self.model.log_prior(state.params), weight)
        return state.replace(params=self.model.maximize(statistics, state.params), key=key), Info(
            elbo
        )
