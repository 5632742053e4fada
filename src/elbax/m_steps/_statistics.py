"""Statistics kept over steps: the common part of online and incremental EM."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._elbo import elbo
from .._free import choose, spread
from .._model import AbstractModel
from .._pass import expected_statistics
from .._state import ELBOState, Info
from .._types import Array, PyTree
from .._update import AbstractUpdate
from ..data._batch import as_batch, where_seen
from ._closed_form import statistics_of


class Remembered(eqx.Module):
    """The memory: the statistics kept so far, the params that they are about, and the number of steps."""

    kept: PyTree
    about: PyTree
    step: Array


class AbstractStatisticsStep(AbstractUpdate):
    r"""Computes $\arg\max_\theta \langle \eta(\theta), s \rangle + \log p(\theta)$ at s of several batches.

    Statistics of different steps add up only if they are about the same point. They are taken about the initial
    params, so these should be near the data (`model.init(key, x)`).
    """

    model: eqx.AbstractVar[AbstractModel]
    chunk_size: eqx.AbstractVar[int | None]
    free: eqx.AbstractVar[PyTree]

    @abc.abstractmethod
    def start(self, zeros: PyTree) -> PyTree:
        """Returns what is kept before the first step, given statistics that are zero."""

    @abc.abstractmethod
    def join(self, kept: PyTree, fresh: PyTree, step: Array) -> tuple[PyTree, PyTree]:
        """Returns (what is kept, the statistics to maximize at), given the batch's own statistics."""

    @abc.abstractmethod
    def waits(self, step: Array) -> Array:
        """Returns whether θ is unchanged in this step."""

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> Remembered:
        name = type(self).__name__
        if not self.model.is_linear():
            raise TypeError(
                f"{name} adds up statistics of different steps, but those of {type(self.model).__name__} "
                "belong to the params that they were taken at (a latent of its components is eliminated, or its "
                "log-joint is not linear in statistics at all). Use GradientMStep on minibatches."
            )
        zeros = statistics_of(self.model, params, self.free)
        return Remembered(self.start(zeros), params, jnp.zeros((), int))

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        if not self.model.is_linear(as_batch(batch).x):
            raise TypeError(
                f"{type(self).__name__}: statistics of different steps do not add up where columns are "
                "missing, as these are eliminated at the params of the moment, nor inside of Anneal. Use "
                "GradientMStep on minibatches."
            )
        key, now = jax.random.split(state.key)
        memory, step = state.memory, state.memory.step
        # Statistics depend on the point that they are taken about, not on the point at which they are evaluated.
        _, fresh, _ = expected_statistics(
            self.model, memory.about, state.posterior, batch, key=now, chunk_size=self.chunk_size
        )
        kept, statistics = self.join(memory.kept, fresh, step)
        free = spread(self.free, state.params)
        moved = choose(free, self.model.maximize(statistics, memory.about, free), state.params)
        waits = self.waits(step)
        params = jax.tree.map(lambda new, old: jnp.where(waits, old, new), moved, state.params)
        value = elbo(
            self.model, state.params, state.posterior, batch, key=now, chunk_size=self.chunk_size
        )
        found = Remembered(kept, memory.about, step + 1)
        nothing = state.params, self.unmade(memory, found)
        params, memory = where_seen(batch, (params, found), nothing)
        return state.replace(params=params, memory=memory, key=key), Info(value)
