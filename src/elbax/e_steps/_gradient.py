"""The E-step of amortized inference: an encoder's gradient step."""

import equinox as eqx
import optax

from .._gradient import ascend, check_trainable, init_optimizer
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate


class GradientEStep(AbstractUpdate):
    r"""One optimizer step up $\nabla_\phi \mathrm{ELBO}(q_\phi, \theta)$ in the encoder's weights φ.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer.
    - `chunk_size`: about how many rows to see at a time.

    **Raises** `TypeError` at `init` for a posterior without weights, such as `Exact`.

    ```python
    >>> import elbax, equinox as eqx, jax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> e_step = elbax.GradientEStep(model, optax.adam(1e-2))
    >>> network = eqx.nn.MLP(1, 2, 8, 1, key=jax.random.key(0))
    >>> encoder = elbax.Amortized(network, model.latent)

    ```
    """

    model: AbstractModel
    optimizer: optax.GradientTransformation
    chunk_size: int | None = eqx.field(static=True, default=None)

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        check_trainable("GradientEStep", posterior)
        return init_optimizer(self.optimizer, {"posterior": posterior})

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        return ascend(self.model, self.optimizer, ("posterior",), state, batch, self.chunk_size)
