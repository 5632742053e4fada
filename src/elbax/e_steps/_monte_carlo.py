"""The E-step of Monte Carlo EM: draws."""

from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate
from ..posteriors import Importance, MonteCarlo
from ..posteriors._snapshot import has_snapshot, refresh


class MonteCarloEStep(AbstractUpdate):
    r"""Sets the params that draws are made from or weighted by: $z_s \sim p_\theta(z \mid x)$.

    With `MonteCarlo(Exact(model, params), S)` and a closed-form M-step it is Monte Carlo EM (Wei and Tanner
    1990), with S = 1 stochastic EM (Celeux and Diebolt 1985). With `Importance(proposal, Exact(model,
    params), S)` draws of the proposal are weighted by the joint density, which is all that need be known.
    Every pass over the data draws anew. It promises no ascent.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(elbax.MonteCarloEStep(model), elbax.ClosedFormMStep(model))
    >>> posterior = elbax.MonteCarlo(elbax.Exact(model, params), 10)
    >>> state, info = em(em.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    model: AbstractModel

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        if not isinstance(posterior, MonteCarlo | Importance) or not has_snapshot(posterior):
            raise TypeError(
                "MonteCarloEStep sets the params of elbax.MonteCarlo(elbax.Exact(model, params), num_samples) "
                "or of "
                "elbax.Importance(proposal, elbax.Exact(model, params), num_samples); the state would start with "
                f"{type(posterior).__name__}."
            )
        return ()

    def check(self, batch: PyTree) -> None:
        self.model.check(batch)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        posterior = refresh(state.posterior, self.model, state.params)
        return state.replace(posterior=posterior), Info()

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self(state, batch)[0]
