"""The EM algorithm."""

from ._model import AbstractModel
from ._types import PyTree
from ._update import Chain
from .e_steps import ExactEStep
from .m_steps import ClosedFormMStep


def em(model: AbstractModel, *, free: PyTree = True, chunk_size: int | None = None) -> Chain:
    r"""Returns EM as an update, `Chain(ExactEStep(model), ClosedFormMStep(model))`.

    A step sets $q \leftarrow p_\theta(z \mid x)$ and then $\theta \leftarrow \arg\max_\theta
    \mathrm{ELBO}(q, \theta)$, so the evidence never decreases (Dempster, Laird and Rubin 1977). `info.elbo` is the
    evidence at θ before the step, plus the log-prior if the model has one, in nats per datum.

    **Arguments:**

    - `model`: a model with a closed-form M-step.
    - `free`: which params are estimated: `True`, `True` or `False` for each block, or a mask for each entry.
    - `chunk_size`: about how many rows to process at a time; all by default.

    **Returns** an update, whose first state is `update.init(params, key=key)`.

    **Raises** `TypeError` at `init` for a model without a closed-form M-step.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> em = elbax.em(model)
    >>> state = em.init(model.init(jax.random.key(0), x), key=jax.random.key(1))
    >>> state, info = jax.lax.scan(lambda state, _: em(state, x), state, length=100)
    >>> print(f"{float(info.elbo[-1]):.3f}")
    -4.155

    ```
    """
    return Chain(ExactEStep(model), ClosedFormMStep(model, free=free, chunk_size=chunk_size))
