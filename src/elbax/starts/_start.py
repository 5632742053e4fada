"""Params from a partition of the rows, and the ways to come by one."""

import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_key
from .._batch import as_batch, effective_weight, row_numbers
from .._check import is_concrete
from .._model import AbstractExponentialFamilyModel
from .._program import compiled
from .._types import Any, Array, Bool, Callable, Float, Int, Key, PyTree
from ._hierarchical import hierarchical
from ._k_means import k_means
from ._parts import random_parts, with_own_spread
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
"""What `init=` takes: see `AbstractPartitioned.init`."""

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
# The others are called where their values are known: they may run on the host.
_JITTED = (k_means, k_means_plus_plus, random_from_data, random_parts, random, quantiles)
_WITH_OWN_SPREAD = (random_parts,)


class AbstractPartitioned(AbstractExponentialFamilyModel):
    """A model whose params follow from a partition of its rows."""

    @property
    @abc.abstractmethod
    def num_parts(self) -> int:
        """How many parts a partition has."""

    @abc.abstractmethod
    def start_rows(self, batch: PyTree) -> tuple[PyTree, Array]:
        """(rows, weights) of a batch, checked where their values are known."""

    @abc.abstractmethod
    def start_table(self, x: PyTree) -> Float[Array, "num_rows features"]:
        """Numbers in which rows that are alike are near; NaN where missing."""

    @abc.abstractmethod
    def from_parts(
        self, x: PyTree, weight: Float[Array, " num_rows"], assignment: Int[Array, " num_rows"]
    ) -> PyTree:
        """Params from the part of each row, or −1 for a row in none: such rows count in what components share."""

    @property
    @abc.abstractmethod
    def parted(self) -> dict[str, Any]:
        """The component whose params `from_parts` makes one of each part, by their name."""

    def exchange_parts(self, which: Bool[Array, " K"], fresh: PyTree, params: PyTree) -> PyTree:
        """`fresh` for the components in `which` in what each has to itself, `params` in all else."""
        return params | {
            name: component.exchange(which, fresh[name], params[name])
            for name, component in self.parted.items()
        }

    def init(self, key: Key, x: PyTree, init: Init = "k-means") -> PyTree:
        r"""Params to start from: a pure function of the key, so restarts may be vmapped.

        Each component starts at the mean (rate, …) of a part of the rows, all with what spread is left within
        the parts (a part's own covariance may be singular), unless `init` says otherwise.

        **Arguments:**

        - `x`: what the model takes, with a leading axis, or a `Batch` (also of incomplete rows).
        - `init`: how rows are parted.
            - `"k-means"`: k-means++ and ten rounds of k-means.
            - `"k-means++"`: K rows far from each other are the means; what is spread is that of all rows.
            - `"random_from_data"`: K distinct rows, drawn by their weights, likewise. Of many such starts EM
                often ends higher than of k-means, whose starts are much alike.
            - `"random_parts"`: the rows nearest to each of 2 K random rows, dealt out to the components. Each
                component begins with the spread of its own part, drawn a little to that of all rows: it leads to
                optima with components of unequal width.
            - `"random"`: every row is shared among the components at random.
            - `"quantiles"`: K parts of equal weight along the first principal component.
            - `"hierarchical"`: Ward's agglomeration, on the host (not under `jit`).
            - labels (num_rows,), whole numbers below K, or −1 for a row in no part; or responsibilities
                (num_rows, K), each row of sum 1.
            - a function `(key, table, weight, K)` that returns either.
            - params, which are returned as they are.

        **Raises** `ValueError` for data that no fit could use (it names the row or the column), for labels and
        params that do not fit the model.
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
    """What a jitted program can take: one of our functions; labels or responsibilities of the rows; or params."""
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
    """Labels or responsibilities in the order of a batch's rows: incomplete rows come sorted by what is missing,
    and steps of sequences one after the other."""
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
    # Rows of weight 0 that were added at the end.
    return jnp.concatenate([parts, jnp.repeat(parts[:1], missing, 0)])


def _checked(parts: Any, weight: Array, number: int, who: str) -> Array:
    parts = jnp.asarray(parts)
    count = len(weight)
    whole = jnp.issubdtype(parts.dtype, jnp.integer)
    if parts.shape != ((count,) if whole else (count, number)):
        raise ValueError(
            f"{who}: init takes labels, whole numbers of shape {(count,)}, or responsibilities of shape "
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
        raise ValueError(f"{who}: init takes {expected}; row {row} has {table[row]}.")
    return parts


def start_of(start: Callable, init: Any, model: Any, key: Key, x: Any, weight: Array) -> PyTree:
    """`start(model, key, x, weight, drawn)` as `init` has it: `"principal_components"`, `"random"`, or params."""
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
    """Whether components begin each with the spread of its own part, not all with that within the parts."""
    return callable(start) and start in _WITH_OWN_SPREAD


def from_parted(model: AbstractPartitioned, x: PyTree, weight: Array, parts: Array) -> PyTree:
    """Params from labels, or from responsibilities: a row that K parts share is K rows of such weights."""
    if jnp.issubdtype(parts.dtype, jnp.integer):
        return model.from_parts(x, weight, parts)
    number = model.num_parts
    x = jax.tree.map(lambda leaf: jnp.repeat(leaf, number, 0), x)
    labels = jnp.tile(jnp.arange(number), len(weight))
    shared = weight[:, None] * parts.astype(weight.dtype)
    return model.from_parts(x, shared.reshape(-1), labels)


def shares_of(weight: Array, assignment: Array, number: int) -> Float[Array, " number"]:
    """Logarithms of the parts' shares of the weight; what is in no part is all parts', and none has nothing."""
    mass = jax.ops.segment_sum(weight, assignment, number)
    total = jnp.sum(weight)
    mass = mass + (total - jnp.sum(mass)) / number
    return jax.nn.log_softmax(jnp.log(jnp.maximum(mass, 1e-3 * total / number)))
