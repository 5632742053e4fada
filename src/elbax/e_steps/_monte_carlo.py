"""The E-step of Monte Carlo EM."""

from typing import ClassVar

from .._types import Any
from ..posteriors import Importance, MonteCarlo
from ._bayes import AbstractBayesStep


class MonteCarloEStep(AbstractBayesStep):
    r"""Sets the params at which latents $z_s \sim p_\theta(z \mid x)$ are drawn, or draws are weighted.

    With `MonteCarlo(Exact(model, params), S)` and a closed-form M-step this is Monte Carlo EM (Wei and Tanner
    1990); with S = 1, stochastic EM (Celeux and Diebolt 1985). With `Importance(proposal, Exact(model, params),
    S)`, draws of the proposal are weighted by the joint density, and the conditional need not be known. Every pass
    over the data makes new draws. The step does not promise to ascend.

    **Arguments:**

    - `model`: the model.

    **Raises** `TypeError` at `init` for a posterior that is neither `MonteCarlo` nor `Importance`.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(elbax.MonteCarloEStep(model), elbax.ClosedFormMStep(model))
    >>> posterior = elbax.posteriors.MonteCarlo(elbax.Exact(model, params), 10)
    >>> state, info = em(em.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    kind: ClassVar[Any] = MonteCarlo | Importance
    form: ClassVar[str] = "elbax.posteriors.MonteCarlo(elbax.Exact(model, params), num_samples)"

    @property
    def ascends(self) -> bool:
        return False

    @property
    def fixed_point(self) -> bool:
        return False
