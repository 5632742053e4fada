"""Averages of the params over steps."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, check_not_negative
from .._reference import split_coordinates
from .._state import ELBOState, Info
from .._types import Array, Int, PyTree
from .._update import AbstractUpdate
from ..data._check import is_concrete
from ._wrapper import AbstractRemembering


class Average(eqx.Module):
    """The memory of `Averaged`: the inner memory, the average (`None` for no coordinates), the step count."""

    update: PyTree
    params: PyTree
    step: Int[Array, ""]


class Averaged(AbstractRemembering):
    r"""Runs the update unchanged, and also averages the params over steps.

    If steps stay noisy (minibatches, Monte Carlo), the average has the smallest asymptotic variance of any
    estimate, even at step sizes at which the last point still wanders (Polyak and Juditsky 1992; for online EM,
    Cappé and Moulines 2009). `settle` replaces the params by it, so `fit` ends with it. `averaged(state)` returns
    it at any time. It may wrap any update. The info is that of the update: the ELBO at its own params, not at the
    average.

    Averages are of the unconstrained params, after each step:

    $$\bar\theta_n = \bar\theta_{n-1} + \rho_n (\theta_n - \bar\theta_{n-1}), \quad \rho_n = \tfrac1n
    \ \text{ or }\ \frac{1 - d}{1 - d^n},$$

    the arithmetic mean, or with a decay d the exponential one without bias towards the start (Kingma and Ba 2015).
    Before the step `start` it is the current params. Integers are never averaged.

    **Arguments:**

    - `update`: any update.
    - `decay`: d, at least 0 and below 1; `None` for the arithmetic mean.
    - `start`: the first step (from 0) whose result is averaged; use it to omit the initial steps.

    **Raises** `ValueError` for a decay or a start out of range.

    ```python
    >>> import elbax, jax, optax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> m_step = elbax.GradientMStep(model, optax.sgd(0.1))
    >>> update = elbax.wrappers.Averaged(elbax.Chain(elbax.ExactEStep(model), m_step), decay=0.9)
    >>> state = update.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    >>> state, info = update(state, x[::2])
    >>> estimate = update.averaged(state)

    ```
    """

    update: AbstractUpdate
    decay: float | Array | None = None
    start: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        check_count("Averaged", least=0, start=self.start)
        if self.decay is None or not is_concrete(self.decay):
            return
        if not isinstance(self.decay, jax.Array):
            check_not_negative("Averaged", decay=self.decay)
        if not 0 <= self.decay < 1:
            raise ValueError(f"Averaged: decay must be at least 0 and below 1, got {self.decay}.")

    def init_memory(self, params: PyTree, posterior: PyTree) -> Average:
        average = split_coordinates(params)[0]
        return Average(self.update.init_memory(params, posterior), average, jnp.zeros((), int))

    def averaged(self, state: ELBOState) -> PyTree:
        """Returns the average, as params."""
        return eqx.combine(state.memory.params, state.params)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        memory = state.memory
        moved, info = self.update(self.inside(state), batch)
        n = jnp.maximum(memory.step + 1 - self.start, 1)
        now = split_coordinates(moved.params)[0]
        average = jax.tree.map(
            lambda old, new: old + self._rate(n, new.dtype) * (new - old), memory.params, now
        )
        # The first one is copied: adding a difference would round.
        average = jax.tree.map(lambda new, mean: jnp.where(n == 1, new, mean), now, average)
        return moved.replace(memory=Average(moved.memory, average, memory.step + 1)), info

    def _rate(self, n, dtype) -> Array:
        n = n.astype(dtype)
        if self.decay is None:
            return 1 / n
        decay = jnp.asarray(self.decay, dtype)
        return (1 - decay) / (1 - decay**n)

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return AbstractRemembering.settle(self, state.replace(params=self.averaged(state)), batch)
