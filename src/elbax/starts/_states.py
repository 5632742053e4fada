"""Many starts at once, for restarts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_key
from .._capability import StartsFromData, StartsInside
from .._model import AbstractModel, models_of
from .._program import compiled
from .._sharding import automatic
from .._state import ELBOState
from .._types import Any, Callable, Key, PyTree
from .._update import AbstractUpdate
from ..data._check import is_concrete
from ..posteriors import Exact
from ._start import (
    AbstractPartitioned,
    from_parted,
    has_own_spread,
    Init,
    is_params,
    known_start,
    Name,
    with_own_spread,
)


def initial_states(
    update: AbstractUpdate,
    batch: PyTree,
    *,
    key: Key,
    num_restarts: int = 8,
    init: Init | list[Init] | None = None,
    posterior: Callable[[PyTree], PyTree] | None = None,
) -> ELBOState:
    r"""Returns initial states, one for each restart, for `fit_restarts`.

    By default starts are of several kinds, because many of one kind miss optima. Of eight, one each comes from
    k-means, hierarchical clusters, quantiles and k-means++, two from random rows as means with the covariance of
    all rows, and two from random parts each with its own covariance. Beyond eight, half come from random parts,
    and a quarter each from random rows and from k-means++. If only one end is the best, use more restarts.

    **Arguments:**

    - `update`: the update to fit by; its model is started.
    - `batch`: the data.
    - `num_restarts`: the number of starts.
    - `init`: a start for all of them, as for `model.init`, or a list of starts, used in turn.
    - `posterior`: a function from params to the initial posterior; by default that of the update's E-step, or
        `Exact(model, params)` for an update without E-steps.

    **Returns:** a state with a leading axis of restarts.

    **Raises** `TypeError` for an update without a model, or with a model without `init`.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> em = elbax.em(model)
    >>> states = elbax.initial_states(em, x, key=jax.random.key(0), num_restarts=8)
    >>> restarts = elbax.fit_restarts(em, states, x, reject=model.collapsed)
    >>> print(restarts.codes[0], round(float(restarts.best.elbo) * len(x), 1))
    converged -1130.3

    ```
    """
    models = models_of(update)
    if not models:
        raise TypeError(
            f"initial_states: {type(update).__name__} has no model, so it has no params to start from."
        )
    model = models[0]
    check_key(key, "initial_states")
    key_start, key_run = jax.random.split(key)
    params = initial_params(model, batch, key=key_start, num_restarts=num_restarts, init=init)
    return _states(update, model, posterior, params, key_run)


def first_state(
    update: AbstractUpdate,
    model: AbstractModel,
    params: PyTree,
    key: Key,
    posterior: Callable[[PyTree], PyTree] | None = None,
) -> ELBOState:
    """Returns the state at params: with the update's own posterior, or Bayes' rule if it has no E-step."""
    if posterior is None and update.usual_posterior is None:
        posterior = eqx.Partial(Exact, model)
    return update.init(params, None if posterior is None else posterior(params), key=key)


def initial_params(
    model: AbstractModel,
    batch: PyTree,
    *,
    key: Key,
    num_restarts: int,
    init: Init | list[Init] | None = None,
) -> PyTree:
    """Returns the params of `initial_states`, with a leading axis of restarts."""
    check_count("initial_states", num_restarts=num_restarts)
    if isinstance(model, StartsInside):
        inside = initial_params(model.model, batch, key=key, num_restarts=num_restarts, init=init)
        return _around(model, inside, batch)
    keys = jax.random.split(key, num_restarts)
    if not isinstance(model, AbstractPartitioned):
        return _by_its_own_init(model, batch, keys, init)
    rows, weight = model.start_rows(batch)
    if init is None:
        inits = _diverse(num_restarts, is_concrete((rows, weight)))
    else:
        inits = _dealt(init, num_restarts)
    starts = [known_start(model, key, batch, rows, weight, one) for key, one in zip(keys, inits)]
    groups: dict[Any, list[int]] = {}
    for lane, start in enumerate(starts):
        groups.setdefault(start if callable(start) else _kind(start), []).append(lane)
    given = {
        kind: jax.tree.map(lambda *leaves: np.stack(leaves), *(starts[lane] for lane in lanes))
        for kind, lanes in groups.items()
        if isinstance(kind, str)
    }
    plan = tuple((start, tuple(lanes)) for start, lanes in groups.items())
    return _lanes(model, keys, rows, weight, plan, given)


@compiled
@automatic
def _around(model, inside, batch) -> PyTree:
    return jax.vmap(lambda params: model.start(params, batch))(inside)


def _kind(start: Any) -> str:
    """Returns the kind of a given start: "params", "labels" or "responsibilities"."""
    if is_params(start):
        return "params"
    return "labels" if jnp.issubdtype(start.dtype, jnp.integer) else "responsibilities"


def _dealt(init: Any, number: int) -> list:
    inits = init if isinstance(init, list) else [init]
    return [inits[lane % len(inits)] for lane in range(number)]


_FIRST: list[Name] = [
    "k-means",
    "random_from_data",
    "hierarchical",
    "random_parts",
    "k-means++",
    "random_from_data",
    "quantiles",
    "random_parts",
]
_LATER: list[Name] = ["k-means++", "random_parts", "random_from_data", "random_parts"]


def _diverse(number: int, known: bool) -> list[Name]:
    """Returns the default starts: each good one once, then random ones in turn."""
    names = (_FIRST + _LATER * number)[:number]
    # The hierarchical start runs on the host and sees no values inside of jit.
    instead: Name = "random_from_data"
    return [name if known or name != "hierarchical" else instead for name in names]


@compiled
@automatic
def _lanes(model, keys, x, weight, plan, given) -> PyTree:
    """Returns the params of every lane, in one program that contains each kind of start once, vmapped."""
    table = model.start_table(x)
    weight = weight.astype(table.dtype)
    kinds: dict[str, list] = {}
    for start, lanes in plan:
        if callable(start):
            draw = lambda key, start=start: start(key, table, weight, model.num_parts)
            parts = jax.vmap(draw)(keys[np.array(lanes)])
        else:
            parts = given[start]
        kind = _kind(parts)
        if kind != "params":
            parts = parts.astype(jnp.int32 if kind == "labels" else weight.dtype)
        kinds.setdefault(kind, []).append((lanes, parts, [has_own_spread(start)] * len(lanes)))
    found, order = [], []
    for kind, several in kinds.items():
        lanes, parts, own = zip(*several)
        parts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        if kind != "params":
            params = jax.vmap(lambda p: from_parted(model, x, weight, p))(parts)
            parts = _with_own_spread(
                np.flatnonzero(np.concatenate(own)), model, x, weight, parts, params
            )
        found.append(parts)
        order += np.concatenate(lanes).tolist()
    back = np.argsort(order)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *found)


def _with_own_spread(places: np.ndarray, model, x, weight, labels, params) -> PyTree:
    """Applies `with_own_spread` to the lanes at some places."""
    if not places.size:
        return params
    move = lambda labels, params: with_own_spread(model, x, weight, labels, params)
    moved = jax.vmap(move)(*jax.tree.map(lambda leaf: leaf[places], (labels, params)))
    return jax.tree.map(lambda old, new: old.at[places].set(new), params, moved)


def _by_its_own_init(model, batch, keys, init) -> PyTree:
    if not isinstance(model, StartsFromData):
        raise TypeError(
            f"initial_states: {type(model).__name__} has no init method, so it cannot start from data. Make the "
            "params of every restart yourself, and their states with jax.vmap over update.init(params, "
            "posterior, key=key)."
        )
    model.check(batch, "initial_states")
    if init is None:
        return _each(model, keys, batch)
    found = [_one(model, key, batch, one) for key, one in zip(keys, _dealt(init, len(keys)))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@compiled
@automatic
def _each(model, keys, batch) -> PyTree:
    return jax.vmap(lambda key: model.init(key, batch))(keys)


@compiled
@automatic
def _one(model, key, batch, init) -> PyTree:
    return model.init(key, batch, init=init)


@compiled
@automatic
def _states(update, model, posterior, params, key) -> ELBOState:
    keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))
    return jax.vmap(lambda params, key: first_state(update, model, params, key, posterior))(
        params, keys
    )
