"""An update moves a state; a chain of updates is one."""

import abc
import dataclasses
import enum
import functools
from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from ._algebra import nodes_of
from ._arguments import check_count, check_key, told
from ._batch import host_rows
from ._check import check_rows
from ._door import check_model
from ._model import AbstractModel, models_of
from ._program import compiled, program
from ._sharding import automatic
from ._state import apart, carry, ELBOState, Info
from ._types import Any, Callable, Key, PyTree
from .posteriors._posterior import check_posterior


class Promise(enum.IntEnum):
    """What an update has not lowered since it began, the strongest last.

    `BOUND` is the ELBO of the state as it stands. `SETTLED` is the ELBO once the posterior is brought up to the
    params: the posterior lags behind, and the ELBO as it stands may have fallen.
    """

    NOTHING = 0
    SETTLED = 1
    BOUND = 2


class AbstractUpdate(eqx.Module):
    """`state, info = update(state, batch)`: the body of a `jax.lax.scan`, as it stands.

    Hyperparameters are fields; what an update remembers from step to step is `state.memory`. It is
    pure: the same state and batch give the same answer.
    """

    def __check_init__(self):
        who = type(self).__name__
        if hasattr(self, "model"):
            check_model(getattr(self, "model"), who)  # noqa: B009
        chunk_size = getattr(self, "chunk_size", None)
        if chunk_size is not None:
            check_count(who, chunk_size=chunk_size)
        for flag in jax.tree.leaves(getattr(self, "free", True)):
            if not (isinstance(flag, bool) or getattr(flag, "dtype", None) == jnp.dtype(bool)):
                raise TypeError(
                    f"{who}: free must be True, False or an array of them for each block, got {flag!r}."
                )

    @property
    @abc.abstractmethod
    def ascends(self) -> bool:
        """The promise never to lower the ELBO of the batch it is given (given the same again).

        It is the ELBO that a step measures; where the posterior is left behind the params, that of the settled
        state. Nothing is promised of an estimate, under a posterior that draws anew in every pass.
        """

    def keeps(self, promise: Promise) -> Promise:
        """What is still promised after a step, of what was before it; of `NOTHING` nothing.

        One step of a chain may need what another leaves behind: an M-step at a posterior that lags behind raises
        the ELBO as it stands, which says nothing of the one to come. A class that defines `ascends` alone keeps
        `BOUND` if it ascends, and nothing else.
        """
        return promise if self.ascends and promise is Promise.BOUND else Promise.NOTHING

    @property
    def settles(self) -> bool:
        """Whether `settle` moves the posterior, up to the params."""
        return type(self).settle is not AbstractUpdate.settle

    @property
    def parts(self) -> tuple["AbstractUpdate", ...]:
        """The updates that it is made of: those among its fields."""
        return tuple(nodes_of(AbstractUpdate, list(vars(self).values())))

    @property
    def patience(self) -> int:
        """After how many steps in a row that gain nothing `fit` takes it that nothing is left to gain."""
        return 1 if self.ascends else 10

    @property
    def fixed_point(self) -> bool:
        """Whether a step, its memory aside, is a map of the params alone, whatever the posterior was."""
        return False

    @abc.abstractmethod
    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        """One step; outside of `jit` it is one compiled program."""

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "ascends" in vars(cls) and "keeps" not in vars(cls):
            # What a class says of itself holds in a composition too.
            cls.keeps = AbstractUpdate.keeps
        for name in ("__call__", "settle"):
            if name in vars(cls):
                setattr(cls, name, _looks_first(program(automatic(vars(cls)[name]))))

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        """What the update remembers at the start; raises `TypeError` for a posterior it cannot move."""
        return ()

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        """The memory where a step was tried and is not made: as before, but for clocks, which go on.

        Clocks are the turns of `Every`, the schedule of `Anneal` and the places of `IncrementalMStep`.
        """
        return before

    def natural_posterior(self, params: PyTree) -> PyTree:
        """The posterior that `init` starts with where none is given; `None` if the update knows none.

        By default it is that of the first part that knows one, such as `Exact(model, params)` for an
        `ExactEStep`.
        """
        found = (part.natural_posterior(params) for part in self.parts)
        return next((posterior for posterior in found if posterior is not None), None)

    @property
    def usual_posterior(self) -> str | None:
        """How a user writes a posterior for this update to start with, for errors; by default that of a part."""
        found = (part.usual_posterior for part in self.parts)
        return next((words for words in found if words is not None), None)

    def init(self, params: PyTree, posterior: PyTree = None, *, key: Key) -> ELBOState:
        """The first state of a scan of this update.

        To change the update in mid-run, start the next scan from
        `other.init(state.params, posterior, key=state.key)`.

        **Arguments:**

        - `params`: what `model.init` returns, or of that structure.
        - `posterior`: the posterior to start with, such as an encoder. An update with an `ExactEStep`, a
          `HardEStep` or a `LaplaceEStep` needs none: it starts with that step's posterior at `params`.
        - `key`: the state's random key.

        **Raises** `TypeError` for a leaf that is not an array (it names the path), for a posterior that this
        update cannot move, and where no posterior is given and the update knows none.
        """
        check_key(key, "init")
        models = distinct_models(self)
        for model in models:
            model.check_params(params, f"{type(self).__name__}.init")
        if posterior is None:
            posterior = self.natural_posterior(params)
        if posterior is None:
            usual = self.usual_posterior or "elbax.Exact(model, params)"
            raise TypeError(
                f"{name_of(self)}.init got no posterior, and none of its steps has one to start with. Pass "
                f"posterior={usual} to init. For starts from data: initial_states(update, x, key=key, "
                f"posterior=lambda params: {usual}) and fit_restarts."
            )
        if hasattr(posterior, "dtype"):
            raise TypeError(
                f"{name_of(self)}.init: a posterior is a function from a datum to a distribution, got "
                f"{told(posterior)}. A key goes by its name: init(params, key=key)."
            )
        for model in models:
            check_posterior(posterior, model, f"{type(self).__name__}.init")
        if len(models) > 1:
            raise TypeError(
                f"{name_of(self)}: its steps are of {len(models)} different models, which have no ELBO in common. "
                "Give all of them the same model, its estimator included."
            )
        params, posterior = carry(params, "params"), carry(posterior, "posterior")
        if jax.tree.leaves(eqx.filter(self, eqx.is_array)):
            # A mask is looked at where its values are known, which they are not inside of a program.
            eqx.filter_eval_shape(lambda *start: self.init_memory(*start), params, posterior)
        memory = carry(_memory(self, params, posterior), "memory")
        return apart(ELBOState(params, posterior, memory, key))

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        """Brings the posterior up to the params, where the update does so at no cost.

        After a chain that ends in an M-step the posterior belongs to the params before it; this is
        one E-step more. It changes nothing where the posterior is learned.
        """
        return state

    def check(self, batch: PyTree) -> None:
        """Raises `ValueError` for data that no step could use; `fit` calls it before it begins."""
        models = distinct_models(self)
        for model in models:
            model.check(batch)
        if not models:
            check_rows(*host_rows(batch), "fit")

    # A scan hashes its body. By value, an update that holds an array (a traced rate) could not be.
    def __hash__(self) -> int:
        return object.__hash__(self)

    def __eq__(self, other: Any) -> bool:
        return self is other


def distinct_models(update: AbstractUpdate) -> list[AbstractModel]:
    """The models in an update, each once."""
    found: list[AbstractModel] = []
    for model in models_of(update):
        if model not in found:
            found.append(model)
    return found


def _looks_first(step: Callable) -> Callable:
    """The step, which says so if the state is none of its own."""

    @functools.wraps(step)
    def call(self, state, *batch, **named):
        if not isinstance(state, ELBOState):
            raise TypeError(
                f"An update takes (state, batch) with state = update.init(params, posterior, key=key); got a "
                f"{type(state).__name__} for the state."
            )
        try:
            return step(self, state, *batch, **named)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # To look at every memory would cost as much as to trace the step: only what failed is looked at.
            told = _strange(self, state)
            if told is None:
                raise
            raise TypeError(f"{name_of(self)}: {told}") from error

    return call


def _strange(update: AbstractUpdate, state: ELBOState) -> str | None:
    """In words, what of the state's memory is not as the update makes it; `None` if it is, or cannot be told."""
    try:
        made = eqx.filter_eval_shape(update.init_memory, state.params, state.posterior)
    except Exception:  # A user's own may raise anything; what the step raised says more.
        return None
    if jax.tree.structure(made) != jax.tree.structure(state.memory):
        return (
            "the memory of this state is another update's. Start from update.init(state.params, state.posterior, "
            "key=state.key)."
        )
    if shaped(made) != shaped(state.memory):
        return (
            "the memory of this state is of params of other shapes. Several states in one are for jax.vmap; one "
            "state is what update.init(params, posterior, key=key) makes."
        )
    return None


def shaped(tree: PyTree) -> Any:
    """Structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def walk(update: AbstractUpdate) -> Iterator[AbstractUpdate]:
    """The update and all that it is made of."""
    yield update
    # Wrappers look into what they were given before it is known to be an update.
    for part in getattr(update, "parts", ()):
        yield from walk(part)


def name_of(update: AbstractUpdate) -> str:
    """Such as `Repeat(Chain(ExactEStep, ClosedFormMStep))`."""
    parts = getattr(update, "parts", ())
    inside = f"({', '.join(map(name_of, parts))})" if parts else ""
    return type(update).__name__ + inside


def ascends_again_and_again(update: AbstractUpdate) -> bool:
    """Whether a promise is left after any number of steps."""
    # There are two promises to lose, so what is left after two steps stays.
    return update.keeps(update.keeps(Promise.BOUND)) is not Promise.NOTHING


@compiled
def _memory(update: AbstractUpdate, params: PyTree, posterior: PyTree) -> PyTree:
    return update.init_memory(params, posterior)


class Chain(AbstractUpdate):
    """`Chain(e_step, m_step)`: the updates in order, each with a memory of its own.

    Its ELBO is that of its last part that measures one. For EM, that is the evidence at θ before the
    M-step: a trace that never falls.

    ```python
    >>> import elbax, jax
    >>> model = elbax.GaussianMixture(2)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model))
    >>> em.ascends
    True

    ```
    """

    updates: tuple[AbstractUpdate, ...]

    def __init__(self, *updates: AbstractUpdate):
        for i, update in enumerate(updates):
            if not isinstance(update, AbstractUpdate):
                raise TypeError(
                    f"Chain: argument {i} must be an update, got {told(update)}. Several are several arguments: "
                    "Chain(e_step, m_step)."
                )
        if not updates:
            raise TypeError("Chain: expected at least one update.")
        self.updates = updates

    @property
    def ascends(self) -> bool:
        return ascends_again_and_again(self)

    def keeps(self, promise: Promise) -> Promise:
        for update in self.updates:
            promise = update.keeps(promise)
        return promise

    @property
    def settles(self) -> bool:
        return any(update.settles for update in self.updates)

    @property
    def patience(self) -> int:
        # A part that acts now and then may gain then only.
        return max([1 if self.ascends else 10, *(update.patience for update in self.updates)])

    @property
    def fixed_point(self) -> bool:
        return self.updates[0].fixed_point

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        return tuple(update.init_memory(params, posterior) for update in self.updates)

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        each = zip(self.updates, before, after, strict=True)
        return tuple(update.unmade(old, new) for update, old, new in each)

    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        *_, last = steps = list(self.walk(state, batch))
        return last[0], self.summary([info for _, info in steps])

    def walk(self, state: ELBOState, batch: PyTree) -> Iterator[tuple[ELBOState, Info]]:
        """(the state after it, what it saw), part by part."""
        for i, update in enumerate(self.updates):
            memory = state.memory
            moved, info = update(state.replace(memory=memory[i]), batch)
            state = moved.replace(memory=(*memory[:i], moved.memory, *memory[i + 1 :]))
            yield state, info

    @staticmethod
    def summary(parts: Sequence[Info]) -> Info:
        """The info of a chain from those of its parts."""
        measured = [info for info in parts if info.elbo is not None]
        last = measured[-1] if measured else Info()
        return dataclasses.replace(last, parts=tuple(parts))

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        for i, update in enumerate(self.updates):
            settled = update.settle(state.replace(memory=state.memory[i]), batch)
            state = settled.replace(memory=state.memory)
        return state
