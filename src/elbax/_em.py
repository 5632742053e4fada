"""EM by its name."""

from ._model import AbstractModel
from ._types import PyTree
from ._update import Chain
from .e_steps import ExactEStep
from .m_steps import ClosedFormMStep


def em(model: AbstractModel, *, free: PyTree = True, chunk_size: int | None = None) -> Chain:
    r"""EM: `Chain(ExactEStep(model), ClosedFormMStep(model))`.

    A step sets $q \leftarrow p_\theta(z \mid x)$ and then $\theta \leftarrow \arg\max_\theta
    \mathrm{ELBO}(q, \theta)$, so that the evidence never falls (Dempster, Laird and Rubin 1977). Its `elbo` is the
    evidence at θ before the step (with the log-prior, where the model has one), in nats per datum.

    **Arguments:**

    - `model`: a model with a closed-form M-step.
    - `free`: which params are estimated: `True`, or `True` and `False` for each block, or a mask for each entry.
    - `chunk_size`: about how many rows to see at a time; all by default.

    **Returns** an update; `update.init(params, key=key)` makes its first state, or raises `TypeError` for a
    model without a closed-form M-step.

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
