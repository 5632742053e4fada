"""Updates, which move a state, and chains of updates."""

import abc
import dataclasses
import enum
import functools
from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from ._arguments import check_count, check_key, guide, kind_of, told
from ._door import check_model
from ._math.algebra import nodes_of
from ._model import AbstractModel, models_of
from ._program import compiled, program
from ._sharding import automatic
from ._state import apart, carry, ELBOState, Info
from ._types import Any, Callable, Key, PyTree
from .data._batch import host_rows, read
from .data._check import check_rows
from .posteriors._posterior import check_posterior


class Promise(enum.IntEnum):
    """The quantity that an update has not lowered since its start, the strongest promise last.

    `BOUND` is the ELBO of the current state. `SETTLED` is the ELBO once the posterior is moved to the params: if
    the posterior lags behind, the ELBO of the current state may have fallen.
    """

    NOTHING = 0
    SETTLED = 1
    BOUND = 2


class AbstractUpdate(eqx.Module):
    """An update `state, info = update(state, batch)`, which can be the body of a `jax.lax.scan`.

    Hyperparameters are fields, and `state.memory` is what the update remembers between steps. It is pure: the same
    state and batch give the same result.
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
                    f"{who}: free must be True, False or a boolean array for each block of params, got {flag!r}."
                )

    @property
    @abc.abstractmethod
    def ascends(self) -> bool:
        """Whether it promises never to lower the ELBO, if it is given the same batch at every step.

        This is the ELBO that a step measures or, if the posterior lags behind the params, that of the settled
        state. The promise does not hold for an estimate, under a posterior that samples in every pass.
        """

    def keeps(self, promise: Promise) -> Promise:
        """Returns the promise that holds after a step, given the one before it; of `NOTHING`, nothing.

        Steps of a chain depend on each other: an M-step at a posterior that lags behind raises the ELBO of the
        current state, but not necessarily that of the settled one. A class that only defines `ascends` keeps
        `BOUND` if it ascends, and nothing else.
        """
        return promise if self.ascends and promise is Promise.BOUND else Promise.NOTHING

    @property
    def settles(self) -> bool:
        """Whether `settle` moves the posterior to the params."""
        return type(self).settle is not AbstractUpdate.settle

    @property
    def parts(self) -> tuple["AbstractUpdate", ...]:
        """The updates of which it is composed: those among its fields."""
        return tuple(nodes_of(AbstractUpdate, list(vars(self).values())))

    @property
    def patience(self) -> int:
        """The number of consecutive steps without a gain after which `fit` stops."""
        return 1 if self.ascends else 10

    @property
    def fixed_point(self) -> bool:
        """Whether a step, apart from its memory, depends on the params only and not on the posterior."""
        return False

    @abc.abstractmethod
    def __call__(self, state: ELBOState, batch: PyTree) -> tuple[ELBOState, Info]:
        """Makes one step; outside of `jit` it runs as one compiled program.

        **Arguments:**

        - `state`: the state, from `init` or from the last step.
        - `batch`: data with a leading axis, or a `Batch`.

        **Returns** (the next state, an `Info` on this step).

        **Raises** `TypeError` for a state of another update.
        """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "ascends" in vars(cls) and "keeps" not in vars(cls):
            # The class's own `ascends` must hold in a composition too, not the `keeps` that it inherits.
            cls.keeps = AbstractUpdate.keeps
        for name in ("__call__", "settle"):
            if name in vars(cls):
                step = vars(cls)[name]
                step = _carries(step) if name == "__call__" else step
                setattr(cls, name, _looks_first(program(automatic(step))))

    def init_memory(self, params: PyTree, posterior: PyTree) -> PyTree:
        """Returns the initial memory, which the first step finds in `state.memory`; by default none, `()`.

        Every step must return a memory of the same structure. An update that calls another one overrides this,
        because the other's memory is a part of its own. `elbax.wrappers.AbstractWrapper` does so.

        **Raises** `TypeError` for a posterior that the update cannot move.

        ```python
        >>> import elbax, jax, jax.numpy as jnp
        >>> class Counted(elbax.AbstractUpdate):
        ...     update: elbax.AbstractUpdate
        ...     ascends = False
        ...     def init_memory(self, params, posterior):
        ...         return self.update.init_memory(params, posterior), jnp.zeros((), int)
        ...     def __call__(self, state, batch):
        ...         inner, count = state.memory
        ...         moved, info = self.update(state.replace(memory=inner), batch)
        ...         return moved.replace(memory=(moved.memory, count + 1)), info
        >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
        >>> counted = Counted(elbax.em(model))
        >>> state = counted.init(model.init(jax.random.key(0), x), key=jax.random.key(1))
        >>> state, info = jax.lax.scan(lambda s, _: counted(s, x), state, length=5)
        >>> print(state.memory[1])
        5

        ```
        """
        return ()

    def unmade(self, before: PyTree, after: PyTree) -> PyTree:
        """Returns the memory after a rejected step: that before it, except for clocks, which advance.

        Clocks are the turns of `Every`, the schedule of `Anneal` and the places of `IncrementalMStep`.
        """
        return before

    def natural_posterior(self, params: PyTree) -> PyTree:
        """Returns the posterior with which `init` starts if none is given, or `None` if the update has none.

        By default it is that of the first part that has one, such as `Exact(model, params)` for an `ExactEStep`.
        """
        found = (part.natural_posterior(params) for part in self.parts)
        return next((posterior for posterior in found if posterior is not None), None)

    @property
    def usual_posterior(self) -> str | None:
        """How a user writes a first posterior for this update, for errors; by default that of a part."""
        found = (part.usual_posterior for part in self.parts)
        return next((words for words in found if words is not None), None)

    def init(self, params: PyTree, posterior: PyTree = None, *, key: Key) -> ELBOState:
        """Returns the first state of a scan of this update.

        To continue with another update, start its scan from `other.init(state.params, posterior, key=state.key)`.

        **Arguments:**

        - `params`: params of the model, as `model.init` returns them.
        - `posterior`: the posterior to start with, such as an encoder. An update with an `ExactEStep`, a
            `HardEStep` or a `LaplaceEStep` needs none: it starts with that step's posterior at `params`.
        - `key`: the state's random key.

        **Raises** `TypeError` for a leaf that is not an array (with its path), for a posterior that this update
        cannot move, for steps of different models, and if no posterior is given and the update has none;
        `ValueError` or `TypeError` for params of another model.
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
                f"{name_of(self)}.init: got no posterior, and no step of this update provides one. Pass "
                f"posterior={usual} to init. To start from data, call initial_states(update, x, key=key, "
                f"posterior=lambda params: {usual}) and then fit_restarts."
            )
        if hasattr(posterior, "dtype"):
            raise TypeError(
                f"{name_of(self)}.init: posterior must be a function from a datum to a distribution, got "
                f"{told(posterior)}. Pass a key by keyword: init(params, key=key)."
            )
        for model in models:
            check_posterior(posterior, model, f"{type(self).__name__}.init")
        if len(models) > 1:
            raise TypeError(
                f"{name_of(self)}: its steps have {len(models)} different models, which have no common ELBO. "
                "Give all steps the same model, including its estimator."
            )
        params, posterior = carry(params, "params"), carry(posterior, "posterior")
        if jax.tree.leaves(eqx.filter(self, eqx.is_array)):
            # The values of a mask are checked here, where they are known; inside of a program they are not.
            eqx.filter_eval_shape(lambda *start: self.init_memory(*start), params, posterior)
        memory = carry(_memory(self, params, posterior), "memory")
        return apart(ELBOState(params, posterior, memory, key))

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        """Returns the state with the posterior moved to the current params, if the update has such an E-step.

        After a chain that ends in an M-step the posterior belongs to the params before it; this is one more
        E-step. Weights that are trained by gradients are unchanged.
        """
        return state

    def check(self, batch: PyTree) -> None:
        """Raises `ValueError` for data that no step can use; `fit` calls it before its first step."""
        models = distinct_models(self)
        for model in models:
            model.check(batch)
        if not models:
            check_rows(*host_rows(batch), "fit")

    # By identity, since a scan hashes its body, and an update that holds an array (a traced rate) has no hash by
    # value.
    def __hash__(self) -> int:
        return object.__hash__(self)

    def __eq__(self, other: Any) -> bool:
        return self is other


def distinct_models(update: AbstractUpdate) -> list[AbstractModel]:
    """Returns the distinct models in an update."""
    found: list[AbstractModel] = []
    for model in models_of(update):
        if model not in found:
            found.append(model)
    return found


def _looks_first(step: Callable) -> Callable:
    """Decorates a step so that it takes tables, and raises a clear error for a state of another update."""

    @functools.wraps(step)
    def call(self, state, *batch, **named):
        if not isinstance(state, ELBOState):
            raise TypeError(
                "update(state, batch): state must be the result of update.init(params, posterior, key=key), got "
                f"{kind_of(state)}."
            )
        batch, named = map(read, batch), {name: read(given) for name, given in named.items()}
        try:
            return step(self, state, *batch, **named)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Checking every memory would cost as much as tracing the step, so it is checked only after a failure.
            told = _strange(self, state, error)
            if told is None:
                raise
            raise TypeError(told) from error

    return call


def _carries(step: Callable) -> Callable:
    """Decorates a step so that it raises a clear error if it returns what a scan could not carry.

    Structures are compared, which are known when the step is traced: a compiled step does not pay for it.
    """

    @functools.wraps(step)
    def call(self, state, *batch, **named):
        found = step(self, state, *batch, **named)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], ELBOState)):
            raise TypeError(
                f"{name_of(self)}: its step must return (state, info), got {kind_of(found)}."
            )
        given, left = state.memory, found[0].memory
        if jax.tree.structure(left) != jax.tree.structure(given):
            raise TypeError(
                f"{name_of(self)}: its step returned {_counted(left)} as the memory; expected {_counted(given)}, "
                "as init_memory makes it. If the step calls another update, put back a memory of its own: "
                "moved.replace(memory=...)."
            )
        return found

    return call


def _counted(tree: PyTree) -> str:
    return f"{kind_of(tree)} ({len(jax.tree.leaves(tree))} arrays)"


_FOREIGN = "the state has the memory of a different update."


def _strange(update: AbstractUpdate, state: ELBOState, raised: Exception) -> str | None:
    """Returns an error on a state of another update, in words; `None` for its own, or if it is not known."""
    try:
        # The update is not an argument, so that its masks have values here.
        made = eqx.filter_eval_shape(
            lambda *start: update.init_memory(*start), state.params, state.posterior
        )
    except TypeError as error:
        # Models that hold arrays (a temperature) are not themselves any more inside of this trace.
        if str(error) in str(raised) or jax.tree.leaves(models_of((update, state.posterior))):
            return None
        return (
            f"{error} Then make a new state: update.init(state.params, posterior, key=state.key)."
        )
    except Exception:  # A user's class may raise anything; the step's own error says more.
        return None
    who = name_of(update)
    if jax.tree.structure(made) != jax.tree.structure(state.memory):
        return (
            f"{who}: {_FOREIGN} Start from update.init(state.params, state.posterior, key=state.key)."
            f"{guide('the-state-has-the-memory-of-a-different-update')}"
        )
    if shaped(made) != shaped(state.memory):
        return (
            f"{who}: the memory of the state does not match the shapes of its params. For a single state, call "
            "update.init(params, posterior, key=key). For several stacked states, use jax.vmap."
        )
    if _FOREIGN in str(raised):
        return (
            f"{who}: it calls an update inside of it with another memory than that one's own. Derive from "
            "elbax.wrappers.AbstractWrapper, or make that memory in init_memory, by "
            "self.update.init_memory(params, posterior)."
        )
    return None


def shaped(tree: PyTree) -> Any:
    """Returns the structure, shapes and dtypes of a tree, for comparisons."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def walk(update: AbstractUpdate) -> Iterator[AbstractUpdate]:
    """Yields the update and all parts of which it is composed."""
    yield update
    # Wrappers may call this before their argument is known to be an update.
    for part in getattr(update, "parts", ()):
        yield from walk(part)


def name_of(update: AbstractUpdate) -> str:
    """Returns a name such as `Repeat(Chain(ExactEStep, ClosedFormMStep))`."""
    parts = getattr(update, "parts", ())
    inside = f"({', '.join(map(name_of, parts))})" if parts else ""
    return type(update).__name__ + inside


def ascends_again_and_again(update: AbstractUpdate) -> bool:
    """Returns whether a promise holds after any number of steps."""
    # There are two promises to lose, so one that holds after two steps holds after any number.
    return update.keeps(update.keeps(Promise.BOUND)) is not Promise.NOTHING


@compiled
def _memory(update: AbstractUpdate, params: PyTree, posterior: PyTree) -> PyTree:
    return update.init_memory(params, posterior)


class Chain(AbstractUpdate):
    """Runs several updates in order, `Chain(e_step, m_step)`, each with its own memory.

    `info.elbo` is that of the last part that measures one. For EM, this is the evidence at θ before the M-step
    (plus the global term), which never decreases.

    **Arguments:**

    - `updates`: at least one update.

    **Raises** `TypeError` for an argument that is not an update, or without arguments.

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
                    f"Chain: argument {i} must be an update, got {told(update)}. Pass several updates as "
                    "separate arguments: Chain(e_step, m_step)."
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
        # A part that acts in some steps only may gain only in these.
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
        """Yields (the state after it, its info) for each part."""
        for i, update in enumerate(self.updates):
            memory = state.memory
            moved, info = update(state.replace(memory=memory[i]), batch)
            state = moved.replace(memory=(*memory[:i], moved.memory, *memory[i + 1 :]))
            yield state, info

    @staticmethod
    def summary(parts: Sequence[Info]) -> Info:
        """Returns the info of a chain from those of its parts."""
        measured = [info for info in parts if info.elbo is not None]
        last = measured[-1] if measured else Info()
        return dataclasses.replace(last, parts=tuple(parts))

    def settle(self, state: ELBOState, batch: PyTree) -> ELBOState:
        for i, update in enumerate(self.updates):
            settled = update.settle(state.replace(memory=state.memory[i]), batch)
            state = settled.replace(memory=state.memory)
        return state
