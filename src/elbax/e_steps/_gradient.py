"""The E-step of amortized inference."""

from typing import ClassVar

from .._gradient import AbstractGradientStep


class GradientEStep(AbstractGradientStep):
    r"""Makes one optimizer step along $\nabla_\phi \mathrm{ELBO}(q_\phi, \theta)$ in the encoder's weights φ.

    **Arguments:**

    - `model`: the model.
    - `optimizer`: any optax optimizer.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` at `init` for a posterior without weights, such as `Exact`.

    ```python
    >>> import elbax, equinox as eqx, jax, optax
    >>> model = elbax.GaussianMixture(2)
    >>> e_step = elbax.GradientEStep(model, optax.adam(1e-2))
    >>> network = eqx.nn.MLP(1, 2, 8, 1, key=jax.random.key(0))
    >>> encoder = elbax.Amortized(network, model.latent)

    ```
    """

    blocks: ClassVar[tuple[str, ...]] = ("posterior",)
