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
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = elbax.fit(elbax.em(model), x, key=jax.random.key(0)).params
    >>> network = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(1))
    >>> encoder = elbax.Amortized(network, model.latent, standardize=x)
    >>> e_step = elbax.GradientEStep(model, optax.adam(3e-2))
    >>> state = e_step.init(params, encoder, key=jax.random.key(2))
    >>> state, info = jax.lax.scan(lambda s, _: e_step(s, x), state, length=200)
    >>> gap = elbax.evidence(model, params, x) - elbax.elbo(model, params, state.posterior, x)
    >>> bool(0 < gap < 0.01)
    True

    ```
    """

    blocks: ClassVar[tuple[str, ...]] = ("posterior",)
