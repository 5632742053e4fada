"""Statistics kept over steps: the common part of online and incremental EM."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from .._free import choose, spread
from .._model import AbstractModel
from .._pass import expected_statistics, per_datum
from .._reference import split_coordinates
from .._state import ELBOState, Info
from .._types import Array, Callable, PyTree
from .._update import AbstractUpdate
from ..data._batch import where_seen
from ._closed_form import statistics_of


class Remembered(eqx.Module):
    """The memory: the statistics kept so far, the params that they are about, and the number of steps."""

    kept: PyTree
    about: PyTree
    step: Array


class AbstractStatisticsStep(AbstractUpdate):
    r"""Computes $\arg\max_\theta \langle \eta(\theta), s \rangle + \log p(\theta)$ at s of several batches.

    Statistics add up only if they are about the same point. A batch's are taken about the current params, and what
    is kept is moved there first.
    """

    model: eqx.AbstractVar[AbstractModel]
    chunk_size: eqx.AbstractVar[int | None]
    free: eqx.AbstractVar[PyTree]

    @abc.abstractmethod
    def start(self, zeros: PyTree) -> PyTree:
        """Returns what is kept before the first step, given statistics that are zero."""

    @abc.abstractmethod
    def move(self, kept: PyTree, change: Callable[[PyTree], PyTree]) -> PyTree:
        """Returns what is kept, with `change` applied to all statistics in it."""

    @abc.abstractmethod
    def join(self, kept: PyTree, fresh: PyTree, step: Array) -> tuple[PyTree, PyTree]:
        """Returns (what is kept, the statistics to maximize at), given the batch's own statistics."""

    @abc.abstractmethod
    def waits(self, step: Array) -> Array:
        """Returns whether θ is unchanged in this step."""

    def recall(self, memory: Remembered, params: PyTree) -> PyTree:
        """Returns what is kept, about these params."""
        return self.move(memory.kept, change_of_statistics(self.model, memory.about, params))

    @property
    def ascends(self) -> bool:
        return False

    def init_memory(self, params: PyTree, posterior: PyTree) -> Remembered:
        zeros = statistics_of(self.model, params, self.free)
        # A model that defines no change of coordinates, but needs one, raises here.
        eqx.filter_eval_shape(lambda at: self.model.rebase(self.model.natural(at), at), params)
        return Remembered(self.start(zeros), params, jnp.zeros((), int))

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        key, now = jax.random.split(state.key)
        model, memory, step = self.model, state.memory, state.memory.step
        total, fresh, weight = expected_statistics(
            model, state.params, state.posterior, batch, key=now, chunk_size=self.chunk_size
        )
        elbo = per_datum(total, model.global_term(state.params, now), weight)
        kept, statistics = self.join(self.recall(memory, state.params), fresh, step)
        free = spread(self.free, state.params)
        moved = choose(free, model.maximize(statistics, state.params, free), state.params)
        waits = self.waits(step)
        params = jax.tree.map(lambda new, old: jnp.where(waits, old, new), moved, state.params)
        found = Remembered(kept, state.params, step + 1)
        nothing = state.params, self.unmade(memory, found)
        params, memory = where_seen(batch, (params, found), nothing)
        return state.replace(params=params, memory=memory, key=key), Info(elbo)


def change_of_statistics(
    model: AbstractModel, old: PyTree, new: PyTree
) -> Callable[[PyTree], PyTree]:
    """Returns the map from expected statistics about the params `old` to those about `new`.

    The log-joint is linear in either coordinates, ⟨η', t'⟩ = ⟨Aη', t⟩ with A the change of coordinates from new to
    old (`rebase`). So t' = Aᵀt: statistics move the other way than coordinates.
    """
    coordinates, rest = split_coordinates(model.natural(new))

    def about_old(coordinates):
        return split_coordinates(model.rebase(eqx.combine(coordinates, rest), old))[0]

    _, transpose = jax.vjp(about_old, coordinates)
    return lambda statistics: transpose(statistics)[0]
