"""Params from a partition of the rows, and the ways to get a partition."""

import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_key
from .._model import AbstractExponentialFamilyModel
from .._program import compiled
from .._types import Any, Array, Bool, Callable, Float, Int, Key, PyTree
from ..data._batch import as_batch, effective_weight, row_numbers
from ..data._check import is_concrete
from ._hierarchical import hierarchical
from ._k_means import k_means
from ._parts import random_parts
from ._quantiles import quantiles
from ._responsibilities import random
from ._rows import k_means_plus_plus, random_from_data


Name = Literal[
    "k-means",
    "k-means++",
    "random_from_data",
    "random_parts",
    "random",
    "quantiles",
    "hierarchical",
]
Init = Name | Array | np.ndarray | Callable[[Key, Array, Array, int], Array] | PyTree
"""The type of `init=`: see `AbstractPartitioned.init`."""

_STARTS: dict[str, Callable] = {
    "k-means": k_means,
    "k-means++": k_means_plus_plus,
    "random_from_data": random_from_data,
    "random_parts": random_parts,
    "random": random,
    "quantiles": quantiles,
    "hierarchical": hierarchical,
    # scikit-learn's spelling.
    "kmeans": k_means,
}
# The other functions are called where values are known: they may run on the host.
_JITTED = (k_means, k_means_plus_plus, random_from_data, random_parts, random, quantiles)
_WITH_OWN_SPREAD = (random_parts,)


class AbstractPartitioned(AbstractExponentialFamilyModel):
    """A model whose initial params follow from a partition of its rows."""

    @property
    @abc.abstractmethod
    def num_parts(self) -> int:
        """The number of parts of a partition."""

    @abc.abstractmethod
    def start_rows(self, batch: PyTree) -> tuple[PyTree, Array]:
        """Returns (rows, weights) of a batch, checked if their values are known."""

    @abc.abstractmethod
    def start_table(self, x: PyTree) -> Float[Array, "num_rows features"]:
        """Returns numbers in which similar rows are close; NaN where missing."""

    @abc.abstractmethod
    def from_parts(
        self, x: PyTree, weight: Float[Array, " num_rows"], assignment: Int[Array, " num_rows"]
    ) -> PyTree:
        """Returns params, given the part of each row. Rows in no part (−1) count in what components share."""

    @property
    @abc.abstractmethod
    def parted(self) -> dict[str, Any]:
        """The blocks of params with one entry per part, and their components, by name."""

    def rebase(self, natural: PyTree, params: PyTree) -> PyTree:
        return natural | {
            name: component.rebase(natural[name], params[name])
            for name, component in self.parted.items()
        }

    def prepare(self, natural: PyTree) -> PyTree:
        return natural | {
            name: component.prepare(natural[name]) for name, component in self.parted.items()
        }

    def exchange_parts(self, which: Bool[Array, " K"], fresh: PyTree, params: PyTree) -> PyTree:
        """Returns `fresh` in the own params of the components in `which`, and `params` in all others."""
        return params | {
            name: component.exchange(which, fresh[name], params[name])
            for name, component in self.parted.items()
        }

    def init(self, key: Key, x: PyTree, init: Init = "k-means") -> PyTree:
        r"""Returns params to start from. It is a pure function of the key, so restarts may be vmapped.

        Each component starts at the mean (rate, …) of a part of the rows. By default all start with the spread
        that is left within the parts, because a part's own covariance may be singular.

        **Arguments:**

        - `x`: data of the model with a leading axis, or a `Batch` (also of incomplete rows).
        - `init`: how rows are partitioned.
            - `"k-means"`: k-means++ and ten rounds of k-means.
            - `"k-means++"`: K distant rows as means; the spread is that of all rows.
            - `"random_from_data"`: K distinct rows, drawn by weight, as means; the spread is that of all rows.
                From many such starts EM often ends higher than from k-means, whose starts are much alike.
            - `"random_parts"`: the rows nearest to each of 2 K random rows, distributed over the components. Each
                component starts with the spread of its own part, shrunk slightly to that of all rows. It leads to
                optima with components of unequal width.
            - `"random"`: every row is shared among the components at random.
            - `"quantiles"`: K parts of equal weight along the first principal component.
            - `"hierarchical"`: Ward's agglomeration, on the host (not under `jit`).
            - labels (num_rows,), whole numbers below K, or −1 for a row in no part; or responsibilities (num_rows,
                K), each row with sum 1.
            - a function `(key, table, weight, K)` that returns either.
            - params, which are returned unchanged.

        **Raises** `ValueError` for data that no fit could use (the message names the row or column), and for
        labels or params that do not match the model.
        """
        check_key(key, f"{type(self).__name__}.init")
        rows, weight = self.start_rows(x)
        start = known_start(self, key, x, rows, weight, init)
        return start if is_params(start) else _start(self, key, rows, weight, start)


def is_params(init: Any) -> bool:
    return not (isinstance(init, str | np.ndarray) or eqx.is_array(init) or callable(init))


def known_start(
    model: AbstractPartitioned, key: Key, batch: PyTree, rows: PyTree, weight: Array, init: Init
) -> Any:
    """Returns a start that a jitted program takes: a function of this package, labels, shares or params."""
    who = f"{type(model).__name__}.init"
    if isinstance(init, str):
        if init not in _STARTS:
            raise ValueError(
                f"{who}: init must be one of {', '.join(map(repr, _STARTS))}, labels, responsibilities, "
                f"params or a function (key, table, weight, num_components); got {init!r}."
            )
        init = _STARTS[init]
    if is_params(init):
        model.check_params(init, who)
        return init
    if not callable(init):
        parts = _in_order(jnp.asarray(init), batch, len(weight), model.num_parts)
    elif init in _JITTED:
        return init
    else:
        parts = init(key, _table(model, rows), weight, model.num_parts)
    return _checked(parts, weight, model.num_parts, who)


def _in_order(parts: Array, batch: PyTree, count: int, number: int) -> Array:
    """Returns labels or responsibilities in the order of a batch's rows.

    Incomplete rows are sorted by what is missing, and steps of sequences follow each other.
    """
    if jnp.issubdtype(parts.dtype, jnp.integer):
        parts = parts.reshape(-1)
    elif parts.ndim > 1 and parts.shape[-1] == number:
        parts = parts.reshape(-1, number)
    batch = as_batch(batch)
    if batch.blocked:
        return parts[row_numbers(batch).reshape(-1)]
    missing = count - len(parts)
    if (
        missing <= 0
        or not batch.padded
        or bool(np.any(np.asarray(effective_weight(batch))[-missing:]))
    ):
        return parts
    # Rows of weight 0 that were added as padding at the end.
    return jnp.concatenate([parts, jnp.repeat(parts[:1], missing, 0)])


def _checked(parts: Any, weight: Array, number: int, who: str) -> Array:
    parts = jnp.asarray(parts)
    count = len(weight)
    whole = jnp.issubdtype(parts.dtype, jnp.integer)
    if parts.shape != ((count,) if whole else (count, number)):
        raise ValueError(
            f"{who}: init must be labels, integers of shape {(count,)}, or responsibilities of shape "
            f"{(count, number)}; got {parts.dtype} of shape {parts.shape}."
        )
    if not is_concrete((parts, weight)):
        return parts
    table, counts = np.asarray(parts), np.asarray(weight) > 0
    if whole:
        bad = counts & ((table < -1) | (table >= number))
        expected = f"labels 0, ..., {number - 1}, or -1 for a row in no part"
    else:
        bad = counts & ~(np.all(table >= 0, 1) & (np.abs(table.sum(1) - 1) < 1e-3))
        expected = "responsibilities that are not negative and add up to 1"
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{who}: init must hold {expected}; row {row} has {table[row]}.")
    return parts


def start_of(start: Callable, init: Any, model: Any, key: Key, x: Any, weight: Array) -> PyTree:
    """Returns `start(model, key, x, weight, drawn)` for the two names of starts, or the given params."""
    who = f"{type(model).__name__}.init"
    if not isinstance(init, str):
        model.check_params(init, who)
        return init
    if init not in ("principal_components", "random"):
        raise ValueError(
            f"{who}: init must be 'principal_components', 'random' or params; got {init!r}."
        )
    return start(model, key, x, weight, init == "random")


@compiled
def _table(model: AbstractPartitioned, x: PyTree) -> Array:
    return model.start_table(x)


@compiled
def _start(model: AbstractPartitioned, key: Key, x: PyTree, weight: Array, start: Any) -> PyTree:
    table = model.start_table(x)
    weight = weight.astype(table.dtype)
    parts: Any = start(key, table, weight, model.num_parts) if callable(start) else start
    params = from_parted(model, x, weight, parts)
    return with_own_spread(model, x, weight, parts, params) if has_own_spread(start) else params


def has_own_spread(start: Any) -> bool:
    """Returns whether each component starts with the spread of its own part, not with the pooled spread."""
    return callable(start) and start in _WITH_OWN_SPREAD


def from_parted(model: AbstractPartitioned, x: PyTree, weight: Array, parts: Array) -> PyTree:
    """Returns params from labels or responsibilities; a row shared by K parts becomes K weighted rows."""
    if jnp.issubdtype(parts.dtype, jnp.integer):
        return model.from_parts(x, weight, parts)
    number = model.num_parts
    x = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, 0), x)
    labels = jnp.tile(jnp.arange(number), len(weight))
    shared = weight[:, None] * parts.astype(weight.dtype)
    return model.from_parts(x, shared.reshape(-1), labels)


def shares_of(weight: Array, assignment: Array, number: int) -> Float[Array, " number"]:
    """Returns the logarithms of the parts' shares; unassigned weight is split evenly, and no share is 0."""
    mass = jax.ops.segment_sum(weight, assignment, number)
    total = jnp.sum(weight)
    mass = mass + (total - jnp.sum(mass)) / number
    return jax.nn.log_softmax(jnp.log(jnp.maximum(mass, 1e-3 * total / number)))


def with_own_spread(
    model: AbstractPartitioned,
    x: PyTree,
    weight: Float[Array, " num_data"],
    parts: Int[Array, " num_data"],
    params: PyTree,
) -> PyTree:
    """Returns `params` with each component's own params fitted to its part; other rows have little weight.

    The other rows have just enough weight that no covariance is singular. Components are processed one after
    another, so that memory is that of one.
    """
    number, width = model.num_parts, model.start_table(x).shape[-1]
    share = weight / jnp.sum(weight)
    little = (width + 1) / jnp.sum((weight > 0).astype(weight.dtype)) + 0.01
    places = jnp.arange(number, dtype=parts.dtype)

    def one(params, component):
        inside = parts == component
        outside = jnp.sum(jnp.where(inside, 0, share))
        rate = jnp.minimum(1, little / jnp.where(outside > 0, outside, 1))
        labels = jnp.where(inside, parts, -1)
        fresh = model.from_parts(x, weight * jnp.where(inside, 1, rate), labels)
        return model.exchange_parts(places == component, fresh, params), None

    return jax.lax.scan(one, params, places)[0]
