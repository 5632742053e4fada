"""Both blocks in one pass: the variational autoencoder's step."""

from typing import ClassVar

import equinox as eqx

from ._arguments import check_flag
from ._gradient import AbstractGradientStep


class JointGradientStep(AbstractGradientStep):
    r"""One optimizer step up $\nabla_{(\theta, \phi)} \mathrm{ELBO}(q_\phi, \theta)$: the VAE.

    The two blocks move from the same point by one pass over the batch (Kingma and Welling 2014),
    where `Chain(GradientEStep, GradientMStep)` makes two.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer; it sees `{"params": θ, "posterior": φ}`.
    - `chunk_size`: about how many rows to see at a time.
    - `free`: which params move, `True` or `False` for each block of them, or a mask for each entry.
    - `through`: whether the gradient in θ includes that through the posterior's own dependence on θ. It matters
        for a posterior that contains `Exact(model, params)`, such as `Recognition`; without it, that is a fixed
        snapshot, brought up to date before each step.

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

    through: bool = eqx.field(static=True, default=False)

    blocks: ClassVar[tuple[str, ...]] = ("params", "posterior")

    def __check_init__(self):
        check_flag("JointGradientStep", through=self.through)

    @property
    def differentiates_through(self) -> bool:
        return self.through
