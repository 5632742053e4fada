"""The M-step by gradient."""

import equinox as eqx
import optax

from .._gradient import ascend, init_optimizer
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate


class GradientMStep(AbstractUpdate):
    r"""One optimizer step up $\nabla_\theta \{\mathrm{ELBO}(q, \theta) + \log p(\theta)\}$.

    After an exact E-step this is "expected gradient": at q = p(z|x) the ELBO touches the evidence,
    and so does its slope (Fisher's identity), hence it ascends the evidence itself. Inexact arrays
    of `params` are trained; all other leaves are frozen.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer.
    - `chunk_size`: about how many rows to see at a time.

    ```python
    >>> import elbax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> generalized_em = elbax.Chain(
    ...     elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-2))
    ... )

    ```
    """

    model: AbstractModel
    optimizer: optax.GradientTransformation
    chunk_size: int | None = eqx.field(static=True, default=None)

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        return init_optimizer(self.optimizer, {"params": params})

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        return ascend(self.model, self.optimizer, ("params",), state, batch, self.chunk_size)
