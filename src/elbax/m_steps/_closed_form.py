"""The closed-form M-step of EM."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._free import choose, spread
from .._model import AbstractModel
from .._pass import expected_statistics, per_datum
from .._reference import split_coordinates
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate
from ..data._batch import where_seen


class ClosedFormMStep(AbstractUpdate):
    r"""Maximizes $\mathrm{ELBO}(q, \theta) + \log p(\theta)$ over θ in closed form, under any q.

    One pass over the data computes the ELBO and the expected sufficient statistics, as the gradient of the
    expected log-joint in its natural coordinates; `model.maximize` does the rest.

    **Arguments:**

    - `model`: a model with a closed form.
    - `chunk_size`: about how many rows to process at a time; memory then does not grow with the number of data.
    - `free`: which params this step updates, `True` or `False` for each block (a prefix of the params' tree) or a
        mask for each entry. The others are unchanged, and the free ones are optimal given those.

    **Raises** `TypeError` at `init` for a model without a closed form for what is free.

    ```python
    >>> import elbax
    >>> model = elbax.GaussianMixture(2)
    >>> m_step = elbax.ClosedFormMStep(model, chunk_size=65536)
    >>> weights_only = elbax.ClosedFormMStep(model, free={"logits": True, "components": False})

    ```
    """

    model: AbstractModel
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    @property
    def ascends(self) -> bool:
        return True

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        statistics_of(self.model, params, self.free)
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        total, statistics, weight = expected_statistics(
            self.model, state.params, state.posterior, batch, key=now, chunk_size=self.chunk_size
        )
        elbo = per_datum(total, self.model.global_term(state.params, now), weight)
        free = spread(self.free, state.params)
        moved = self.model.maximize(statistics, state.params, free)
        params = where_seen(batch, choose(free, moved, state.params), state.params)
        return state.replace(params=params, key=key), Info(elbo)


def statistics_of(model: AbstractModel, params: PyTree, free: PyTree) -> PyTree:
    """Returns the expected statistics that a closed form takes, as zeros.

    **Raises** the model's `TypeError` if it has no closed form for what is free.
    """
    coordinates, _ = split_coordinates(model.natural(params))
    maximize = lambda statistics, params: model.maximize(statistics, params, spread(free, params))
    eqx.filter_eval_shape(maximize, coordinates, params)
    return jax.tree.map(jnp.zeros_like, coordinates)
