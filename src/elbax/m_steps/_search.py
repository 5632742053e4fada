"""Searches for the best params at a given q: the common part of Newton's method and line searches."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._elbo import elbo
from .._free import choose, moving, spread
from .._model import AbstractModel
from .._state import ELBOState, Info
from .._types import Callable, PyTree, Scalar
from .._update import AbstractUpdate
from ..data._batch import where_seen


class AbstractSearchStep(AbstractUpdate):
    r"""Moves θ to a point where $\mathrm{ELBO}(q, \theta) + \log p(\theta)$ is not lower.

    All points of a search use the same draws, so that their values differ by θ alone.
    """

    model: eqx.AbstractVar[AbstractModel]
    chunk_size: eqx.AbstractVar[int | None]
    free: eqx.AbstractVar[PyTree]

    @abc.abstractmethod
    def search(self, objective: Callable[[PyTree], Scalar], start: PyTree) -> tuple[PyTree, Scalar]:
        """Returns (the end of the search, the objective at the start), in nats per datum."""

    @property
    def ascends(self) -> bool:
        # If expectations are sampled, the values that a search compares are estimates.
        return self.model.exact

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        spread(self.free, params)
        return ()

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        free = spread(self.free, state.params)

        def put(trained):
            return choose(free, eqx.combine(trained, state.params), state.params)

        def objective(trained):
            return elbo(
                self.model,
                put(trained),
                state.posterior,
                batch,
                key=now,
                chunk_size=self.chunk_size,
            )

        start = moving(free, state.params)
        if not any(leaf.size for leaf in jax.tree.leaves(start)):
            return state.replace(key=key), Info(objective(start))
        best, value = self.search(objective, start)
        params = where_seen(batch, put(best), state.params)
        value = where_seen(
            batch, value, jnp.asarray(self.model.global_term(params, now), value.dtype)
        )
        return state.replace(params=params, key=key), Info(value)
