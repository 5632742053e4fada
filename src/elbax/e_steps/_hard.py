"""The E-step of k-means and of Viterbi training: the most probable latent alone."""

import jax

from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate
from ..posteriors import Exact, Hard


class HardEStep(AbstractUpdate):
    r"""$q \leftarrow \delta_{\hat z}$ with $\hat z = \arg\max_z p_\theta(z \mid x)$, the best q of no entropy.

    With `ClosedFormMStep` on a mixture it is k-means' kind of step (Celeux and Govaert 1992), on a hidden
    Markov model Viterbi training (Juang and Rabiner 1990). It ascends max over z of log p(x, z), which is a
    lower bound of the evidence.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[0.0], [0.2], [5.0], [5.1]])
    >>> model = elbax.GaussianMixture(2)
    >>> training = elbax.Chain(elbax.HardEStep(model), elbax.ClosedFormMStep(model))
    >>> params = model.init(jax.random.key(0), x)
    >>> posterior = elbax.Hard(elbax.Exact(model, params))
    >>> state, info = training(training.init(params, posterior, key=jax.random.key(1)), x)

    ```
    """

    model: AbstractModel

    @property
    def ascends(self) -> bool:
        return True

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        ours = jax.tree.structure(Hard(Exact(self.model, params)))
        if jax.tree.structure(posterior) != ours:
            raise TypeError(
                "HardEStep sets the posterior to Hard(Exact(model, params)), and the carry of a scan keeps its "
                f"structure, but the state would start with {type(posterior).__name__}. Pass "
                "elbax.Hard(elbax.Exact(model, params)), with this step's model, to init."
            )
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        return state.replace(posterior=Hard(Exact(self.model, state.params))), Info()

    def check(self, batch: PyTree) -> None:
        self.model.check(batch)

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self(state, batch)[0]
