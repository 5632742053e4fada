"""The joint gradient step of the variational autoencoder."""

from typing import ClassVar

import equinox as eqx

from ._arguments import check_flag, kind_of
from ._gradient import AbstractGradientStep
from ._math.algebra import nodes_of
from ._types import PyTree
from .posteriors import Exact


class JointGradientStep(AbstractGradientStep):
    r"""Makes one optimizer step along $\nabla_{(\theta, \phi)} \mathrm{ELBO}(q_\phi, \theta)$, as for a VAE.

    Both blocks move from the same point with one pass over the batch (Kingma and Welling 2014).
    `Chain(GradientEStep, GradientMStep)` makes two passes.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer; it gets `{"params": θ, "posterior": φ}`.
    - `chunk_size`: about how many rows to process at a time.
    - `free`: which params move, `True` or `False` for each block, or a mask for each entry.
    - `through`: whether the gradient in θ includes the posterior's dependence on θ. It matters for a posterior
        that contains `Exact(model, params)`, such as `Recognition` or an encoder with a `target`. Otherwise these
        params are a constant of the step. The posterior of the next state reads the params of that state.

    **Raises** `TypeError` at `init` for a posterior without weights, such as `Exact`, unless it moves with the
    params; `ValueError` with `through` if the posterior reads the params of another model.

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

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        read = nodes_of(Exact, posterior) if self.through else []
        if read and not any(exact.model == self.model for exact in read):
            raise ValueError(
                "JointGradientStep: through=True, but the posterior reads the params of another model: "
                f"{kind_of(read[0].model)} whose functions or estimator differ from those of the step's model. "
                "Make it with elbax.Exact(model, params) of the same model."
            )
        return AbstractGradientStep.init_memory(self, params, posterior)
