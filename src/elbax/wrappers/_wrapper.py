"""Base classes of wrappers: an update inside, to which they delegate by default."""

import abc
import dataclasses
import functools

import equinox as eqx

from .._arguments import kind_of, told
from .._state import ELBOState
from .._types import Any, Callable, PyTree
from .._update import AbstractUpdate, ascends_again_and_again, Promise


class AbstractWrapper(AbstractUpdate):
    """An update made from another, `update`, whose memory is its own.

    Every method delegates to the inner update, so a subclass defines `__call__`, and `ascends` if a step may end
    elsewhere than the inner one's. One with a memory of its own derives from `AbstractRemembering`.

    ```python
    >>> import elbax, jax
    >>> class Halfway(elbax.wrappers.AbstractWrapper):
    ...     update: elbax.AbstractUpdate
    ...     ascends = False
    ...     def __call__(self, state, batch):
    ...         moved, info = self.update(state, batch)
    ...         middle = lambda old, new: (old + new) / 2
    ...         return moved.replace(params=jax.tree.map(middle, state.params, moved.params)), info
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> result = elbax.fit(Halfway(elbax.em(model)), x, key=jax.random.key(0), restarts=1)
    >>> print(f"{float(result.elbo):.3f}")
    -4.155

    ```
    """

    update: eqx.AbstractVar[AbstractUpdate]

    def __check_init__(self):
        if not isinstance(self.update, AbstractUpdate):
            raise TypeError(
                f"{type(self).__name__}: update must be an update such as Chain(...), got {told(self.update)}."
            )

    @property
    def ascends(self) -> bool:
        return ascends_again_and_again(self)

    def keeps(self, promise: Promise) -> Promise:
        return self.update.keeps(promise)

    @property
    def settles(self) -> bool:
        return self.update.settles

    @property
    def patience(self) -> int:
        return self.update.patience

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        return self.update.init_memory(params, posterior)

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        return self.update.unmade(before, after)

    def inside(self, state: ELBOState) -> ELBOState:
        """Returns the inner update's view of the state."""
        return state

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        return self.update.settle(self.inside(state), batch).replace(memory=state.memory)


class AbstractRemembering(AbstractWrapper):
    """A wrapper that remembers something between steps.

    Its memory is an `equinox.Module` (not a dict) with a field `update`, which holds the memory of the wrapped
    update, beside fields of its own. `init_memory` makes it, `self.inside(state)` is the state as the wrapped
    update takes it, and `moved.replace(memory=...)` puts it back after the step.

    `info.elbo` is the ELBO at the params before the step, which are `state.params`. `fit` calls `settle` at its
    end, so a wrapper that ends elsewhere than at the last params says so there.

    **Raises** `TypeError` at `init` for a memory of another kind.

    This one ends at the best params that it has seen:

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
    >>> class Seen(eqx.Module):
    ...     update: tuple
    ...     params: dict
    ...     elbo: jax.Array
    >>> class Best(elbax.wrappers.AbstractRemembering):
    ...     update: elbax.AbstractUpdate
    ...     def init_memory(self, params, posterior):
    ...         return Seen(self.update.init_memory(params, posterior), params, jnp.array(-jnp.inf))
    ...     def __call__(self, state, batch):
    ...         moved, info = self.update(self.inside(state), batch)
    ...         last, now = (state.memory.params, state.memory.elbo), (state.params, info.elbo)
    ...         best = jax.tree.map(lambda a, b: jnp.where(now[1] > last[1], a, b), now, last)
    ...         return moved.replace(memory=Seen(moved.memory, *best)), info
    ...     def settle(self, state, batch):
    ...         best = state.replace(params=state.memory.params)
    ...         return elbax.wrappers.AbstractRemembering.settle(self, best, batch)
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> m_step = elbax.GradientMStep(model, optax.sgd(0.5))
    >>> best = Best(elbax.Chain(elbax.ExactEStep(model), m_step))
    >>> result = elbax.fit(best, x, key=jax.random.key(0), restarts=1, max_steps=100)
    >>> bool(result.elbo >= result.trace.max() - 1e-5)
    True

    ```
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "init_memory" in vars(cls):
            cls.init_memory = _of_a_module(vars(cls)["init_memory"])

    @abc.abstractmethod
    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        """Returns the initial memory, an `equinox.Module` whose field `update` is that of the wrapped update."""

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        return dataclasses.replace(before, update=self.update.unmade(before.update, after.update))

    def inside(self, state: ELBOState) -> ELBOState:
        return state.replace(memory=state.memory.update)


def _of_a_module(init_memory: Callable) -> Callable:
    """Decorates `init_memory` so that it raises `TypeError` for a memory without that of the wrapped update."""

    @functools.wraps(init_memory)
    def call(self, params, posterior):
        memory = init_memory(self, params, posterior)
        if not isinstance(memory, eqx.Module) or not hasattr(memory, "update"):
            raise TypeError(
                f"{type(self).__name__}: its memory must be an equinox.Module with a field `update`, the memory "
                f"of the wrapped update; got {kind_of(memory)}. Return one from init_memory."
            )
        return memory

    return call
