"""What a public function does first: it looks at what it was given, where the values are known."""

import jax
import jax.numpy as jnp
import numpy as np

from ._arguments import check_count, check_key
from ._batch import read
from ._check import is_concrete
from ._model import AbstractModel
from ._types import Any, Key, PyTree


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
    """The batch, its tables made arrays, after all that came was looked at.

    Nothing of that happens inside of `jit` and `vmap` but for types and shapes: what is impossible has a density
    of 0 there, and NaN stays NaN.

    **Raises** `TypeError` or `ValueError`, which name the argument, what came and what was expected.
    """
    check_model(model, who)
    if posterior is not None and not callable(posterior):
        raise TypeError(
            f"{who}: posterior must be a function of a datum, such as elbax.Exact(model, params); got a "
            f"{type(posterior).__name__}."
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
    """The params as arrays, after all that `model.sample` was given was looked at."""
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
            f"{who}: model must be a model such as elbax.GaussianMixture(2), got a {type(model).__name__}."
        )


def check_datum(model: AbstractModel, x: PyTree, who: str) -> None:
    """Raises `ValueError` for a datum that the model cannot have made, where its values are known."""
    if is_concrete(x):
        model.check(jax.tree.map(lambda leaf: np.asanyarray(leaf)[None], x), who)
