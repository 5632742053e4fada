"""Params that are tied: any model, of fewer params."""

import equinox as eqx

from .._around import AbstractAround
from .._door import check_model
from .._model import AbstractModel
from .._types import Array, Bool, Callable, PyTree


class Tied(AbstractAround):
    r"""The model at $\theta = f(\varphi)$: φ are its params, and what f uses twice is tied.

    There is no closed M-step for φ in general: `NewtonMStep(tied)` after an exact E-step is EM and
    ascends; `GradientMStep` does for networks. (Equal covariances need none of this:
    `GaussianMixture(K, "tied")`.)

    **Arguments:**

    - `model`: any model.
    - `expand`: f, a pure function from φ to the model's params; it may hold no arrays, what is trained
        lives in φ.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> model = elbax.Mixture(elbax.components.Poisson(), 2)
    >>> def expand(params):  # the second rate is twice the first
    ...     first = params["log_rate"]
    ...     rates = jnp.stack([first, first + jnp.log(2.0)])[:, None]
    ...     return {"logits": params["logits"], "components": {"log_rates": rates}}
    >>> tied = elbax.Tied(model, expand)
    >>> params = {"logits": jnp.zeros(2), "log_rate": jnp.array(0.0)}
    >>> em = elbax.Chain(elbax.ExactEStep(tied), elbax.NewtonMStep(tied))
    >>> state = em.init(params, elbax.Exact(tied, params), key=jax.random.key(0))
    >>> state, info = em(state, jnp.array([[1], [3], [2], [6]]))

    ```
    """

    model: AbstractModel
    expand: Callable[[PyTree], PyTree] = eqx.field(static=True)

    def __init__(self, model: AbstractModel, expand: Callable[[PyTree], PyTree]):
        check_model(model, "Tied")
        if not callable(expand):
            raise TypeError(f"Tied: expand must be a function of the params, got {expand!r}.")
        self.model = model
        self.expand = expand

    def inside(self, params: PyTree) -> PyTree:
        return self.expand(params)

    def shortcut(self, params: PyTree) -> "tuple[Bool[Array, ''], Tied] | None":
        found = self.model.shortcut(self.expand(params))
        return None if found is None else (found[0], Tied(found[1], self.expand))
