"""The E-step of EM."""

from typing import ClassVar

from .._types import PyTree
from ..posteriors import Exact
from ._bayes import AbstractBayesStep


class ExactEStep(AbstractBayesStep):
    r"""Sets $q \leftarrow p_\theta(z \mid x)$ at the state's params, the maximum of the ELBO in q.

    The ELBO then equals the evidence plus the global term (Dempster, Laird and Rubin 1977; Neal and Hinton 1998).
    The step costs nothing and stores nothing per datum: the next pass over the data evaluates q.

    **Arguments:**

    - `model`: a model whose conditional p(z | x) is known.

    **Raises** `TypeError` at `init` for a posterior that is not `Exact(model, params)`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[0.0], [0.2], [5.0], [5.1]])
    >>> model = elbax.GaussianMixture(2)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model))
    >>> params = model.init(jax.random.key(0), x)
    >>> state = em.init(params, key=jax.random.key(1))
    >>> state, info = em(state, x)

    ```
    """

    kind: ClassVar[type] = Exact
    form: ClassVar[str] = "elbax.Exact(model, params)"

    def natural_posterior(self, params: PyTree) -> Exact:
        return Exact(self.model, params)
