"""Checks of the arguments of public functions."""

import jax
import jax.numpy as jnp
import numpy as np

from ._arguments import check_count, check_key, kind_of
from ._model import AbstractModel
from ._types import Any, Key, PyTree
from .data._batch import read
from .data._check import is_concrete


def enter(
    who: str,
    model: AbstractModel,
    params: PyTree,
    batch: PyTree,
    *,
    posterior: Any = None,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> PyTree:
    """Checks the arguments of a public function, and returns the batch with its tables made arrays.

    Inside of `jit` and `vmap` only types and shapes are checked: an impossible datum then has density 0, and NaN
    gives NaN.

    **Raises** `TypeError` or `ValueError`, which name the argument, what was given and what was expected.
    """
    check_model(model, who)
    if posterior is not None and not callable(posterior):
        raise TypeError(
            f"{who}: posterior must be a function of a datum, such as elbax.Exact(model, params); got "
            f"{kind_of(posterior)}."
        )
    if key is not None:
        check_key(key, who)
    if chunk_size is not None:
        check_count(who, chunk_size=chunk_size)
    model.check_params(params, who)
    if is_concrete(batch):
        model.check(batch, who)
    return read(batch)


def enter_sample(model: AbstractModel, params: PyTree, key: Key, **numbers: Any) -> PyTree:
    """Checks the arguments of `model.sample`, and returns the params as arrays."""
    who = f"{type(model).__name__}.sample"
    check_key(key, who)
    check_count(who, **{name: number for name, number in numbers.items() if number is not None})
    model.check_params(params, who)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, params
    )


def check_model(model: Any, who: str) -> None:
    if not isinstance(model, AbstractModel):
        raise TypeError(
            f"{who}: model must be a model such as elbax.GaussianMixture(2), got {kind_of(model)}."
        )


def check_datum(model: AbstractModel, x: PyTree, who: str) -> None:
    """Raises `ValueError` for a datum that is impossible for the model, if its values are known."""
    if is_concrete(x):
        model.check(jax.tree.map(lambda leaf: np.asanyarray(leaf)[None], x), who)
