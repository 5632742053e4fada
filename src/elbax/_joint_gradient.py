"""Both blocks in one pass: the variational autoencoder's step."""

import equinox as eqx
import optax

from ._gradient import ascend, check_trainable, init_optimizer
from ._model import AbstractModel
from ._state import ELBOState, Info
from ._types import PyTree
from ._update import AbstractUpdate


class JointGradientStep(AbstractUpdate):
    r"""One optimizer step up $\nabla_{(\theta, \phi)} \mathrm{ELBO}(q_\phi, \theta)$: the VAE.

    The two blocks move from the same point by one pass over the batch (Kingma and Welling 2014),
    where `Chain(GradientEStep, GradientMStep)` makes two.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer; it sees `{"params": θ, "posterior": φ}`.
    - `chunk_size`: about how many rows to see at a time.

    **Raises** `TypeError` at `init` for a posterior without weights, such as `Exact`.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
    >>> norm = jax.scipy.stats.norm
    >>> def log_joint(decoder, x, z):
    ...     return norm.logpdf(z).sum() + norm.logpdf(x, decoder(z)).sum()
    >>> model = elbax.Model(log_joint, latent=elbax.DiagonalGaussian(2))
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> decoder = elbax.Network(eqx.nn.MLP(2, 3, 8, 1, key=keys[0]))
    >>> encoder = elbax.Amortized(eqx.nn.MLP(3, 4, 8, 1, key=keys[1]), model.latent)
    >>> vae = elbax.JointGradientStep(model, optax.adam(1e-3))
    >>> state = vae.init(decoder, encoder, key=keys[2])
    >>> state, info = vae(state, jnp.ones((5, 3)))

    ```
    """

    model: AbstractModel
    optimizer: optax.GradientTransformation
    chunk_size: int | None = eqx.field(static=True, default=None)

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        check_trainable("JointGradientStep", posterior)
        return init_optimizer(self.optimizer, {"params": params, "posterior": posterior})

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        blocks = ("params", "posterior")
        return ascend(self.model, self.optimizer, blocks, state, batch, self.chunk_size)
