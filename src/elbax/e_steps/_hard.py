"""The E-step of k-means and of Viterbi training."""

from typing import ClassVar

from .._types import PyTree
from ..posteriors import Exact, Hard
from ._bayes import AbstractBayesStep


class HardEStep(AbstractBayesStep):
    r"""Sets $q \leftarrow \delta_{\hat z}$ with $\hat z = \arg\max_z p_\theta(z \mid x)$, the best q of entropy 0.

    With `ClosedFormMStep` it is a step like that of k-means on a mixture (Celeux and Govaert 1992), and Viterbi
    training on a hidden Markov model (Juang and Rabiner 1990). It ascends max over z of log p(x, z), a lower bound
    of the evidence.

    **Arguments:**

    - `model`: a model with a discrete latent, whose conditional p(z | x) is known.

    **Raises** `TypeError` at `init` for a posterior that is not `Hard(Exact(model, params))`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[0.0], [0.2], [5.0], [5.1]])
    >>> model = elbax.GaussianMixture(2)
    >>> training = elbax.Chain(elbax.HardEStep(model), elbax.ClosedFormMStep(model))
    >>> params = model.init(jax.random.key(0), x)
    >>> posterior = elbax.posteriors.Hard(elbax.Exact(model, params))
    >>> state, info = training(training.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    kind: ClassVar[type] = Hard
    form: ClassVar[str] = "elbax.posteriors.Hard(elbax.Exact(model, params))"

    def natural_posterior(self, params: PyTree) -> Hard:
        return Hard(Exact(self.model, params))
