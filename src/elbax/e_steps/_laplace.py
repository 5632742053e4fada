"""The E-step of Laplace's approximation."""

from typing import ClassVar

from .._types import PyTree
from ..posteriors import Exact, Laplace
from ._bayes import AbstractBayesStep


class LaplaceEStep(AbstractBayesStep):
    r"""Sets $q \leftarrow N(\hat z, J^{-1})$, with the mode and curvature of each datum's log-joint.

    This is Laplace's approximation (Tierney and Kadane 1986), for a Gaussian latent whose log-joint is not
    quadratic: counts, choices, generalized linear mixed models. It does not promise to ascend.

    **Arguments:**

    - `model`: a model with a `Gaussian` latent.

    **Raises** `TypeError` at `init` for a posterior that is not `Laplace(Exact(model, params))`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp, optax
    >>> def log_joint(params, x, z):
    ...     rate = params + z[0]
    ...     return jax.scipy.stats.norm.logpdf(z).sum() + x * rate - jnp.exp(rate)
    >>> model, x = elbax.Model(log_joint, elbax.Gaussian(1)), jnp.array([0.0, 2.0, 5.0])
    >>> em = elbax.Chain(elbax.LaplaceEStep(model), elbax.GradientMStep(model, optax.adam(0.1)))
    >>> start = elbax.posteriors.Laplace(elbax.Exact(model, jnp.array(0.0)))
    >>> state, info = em(em.init(jnp.array(0.0), start, key=jax.random.key(0)), x)

    ```
    """

    kind: ClassVar[type] = Laplace
    form: ClassVar[str] = "elbax.posteriors.Laplace(elbax.Exact(model, params))"

    @property
    def ascends(self) -> bool:
        return False

    def natural_posterior(self, params: PyTree) -> Laplace:
        return Laplace(Exact(self.model, params))
