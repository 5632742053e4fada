"""The E-step of EM: Bayes' rule."""

import jax

from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import PyTree
from .._update import AbstractUpdate
from ..posteriors import Exact


class ExactEStep(AbstractUpdate):
    r"""$q \leftarrow p_\theta(z \mid x)$ at the state's params, the maximum of the ELBO in q.

    It closes the gap: the ELBO then equals the evidence. It costs nothing and stores nothing
    per datum: the next pass over the data evaluates it. (Dempster, Laird and Rubin 1977; Neal and
    Hinton 1998.)

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x = jnp.array([[0.0], [0.2], [5.0], [5.1]])
    >>> model = elbax.GaussianMixture(2)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model))
    >>> params = model.init(jax.random.key(0), x)
    >>> state = em.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    >>> state, info = em(state, x)

    ```
    """

    model: AbstractModel

    @property
    def ascends(self) -> bool:
        return True

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        ours = jax.tree.structure(Exact(self.model, params))
        if jax.tree.structure(posterior) != ours:
            given = type(posterior).__name__
            given = "an Exact of another model or other params" if given == "Exact" else given
            raise TypeError(
                "ExactEStep sets the posterior to Exact(model, params), and the carry of a scan keeps "
                f"its structure, but the state would start with {given}. Pass "
                "elbax.Exact(model, params), with this step's model, to init."
            )
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        return state.replace(posterior=Exact(self.model, state.params)), Info()

    def check(self, batch: PyTree) -> None:
        self.model.check(batch)

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self(state, batch)[0]
