"""Tied params: any model, with fewer params."""

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from .._around import AbstractAround
from .._door import check_model
from .._invariance import directions_within, Invariances, null_space, of_blocks, unravel
from .._model import AbstractModel
from .._program import compiled
from .._shortcut import Shortcut
from .._types import Callable, PyTree


class Tied(AbstractAround):
    r"""A model at params $\theta = f(\varphi)$: φ are its params, and f ties those it uses twice.

    In general there is no closed M-step for φ. `NewtonMStep(tied)` after an exact E-step is EM and ascends;
    `GradientMStep` is for networks. (Equal covariances need none of this: `GaussianMixture(K, "tied")`.)

    **Arguments:**

    - `model`: any model.
    - `expand`: f, a pure function from φ to the model's params. It must hold no arrays: what is trained is in φ.

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
    >>> state = em.init(params, key=jax.random.key(0))
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

    def invariances(self, params: PyTree) -> Invariances | None:
        """Returns the directions in which f moves along an invariance of the model, or not at all."""
        expanded, slope = _linearized(self.expand, params)
        found, slope = self.model.invariances(expanded), np.asarray(slope, float)
        if found is None:
            return None
        directions = directions_within(found.dense(), np.ones(found.size, bool))
        size = np.linalg.norm(slope, axis=0)
        unit = 1 / np.where(size > 0, size, 1)
        both = np.concatenate([slope * unit, directions.T], 1)
        within = null_space(both)[:, : len(unit)] * unit
        return of_blocks(within[None])

    def at_boundary(self, params: PyTree, least: float) -> PyTree:
        """Marks a number of φ that affects only numbers at the end of their range."""
        expanded, slope = _linearized(self.expand, params)
        touched = np.asarray(slope) != 0
        ends = self.model.at_boundary(expanded, least)
        ends = np.concatenate([np.zeros(0, bool), *map(np.ravel, jax.tree.leaves(ends))])
        held = touched.any(0) & ~touched[~ends].any(0)
        return unravel(held, params)

    def shortcut(self, params: PyTree, x: PyTree) -> Shortcut | None:
        found = self.model.shortcut(self.expand(params), x)
        return None if found is None else found.around(lambda form: Tied(form, self.expand))


@compiled
def _linearized(expand, params):
    """Returns (f(φ), ∂f/∂φ)."""
    start, unflatten = ravel_pytree(params)
    slope = jax.jacobian(lambda vector: ravel_pytree(expand(unflatten(vector)))[0])(start)
    return expand(params), slope
