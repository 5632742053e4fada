"""Saving states to files and loading them."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._types import Any, PyTree


def save(path: str | os.PathLike[str], state: PyTree) -> None:
    """Writes the arrays of a state, or of any pytree, to a file, including random keys.

    The file holds arrays only: `load` takes everything else from a state of the same structure.

    **Arguments:**

    - `path`: the file.
    - `state`: the state.

    ```python
    >>> import elbax, jax, pathlib, tempfile
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> em = elbax.em(model)
    >>> state = em.init(model.init(jax.random.key(0), x), key=jax.random.key(1))
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "state.eqx"
    >>> elbax.save(file, state)
    >>> restored = elbax.load(file, like=state)
    >>> bool((restored.params["logits"] == state.params["logits"]).all())
    True

    ```
    """
    with open(path, "wb") as file:
        eqx.tree_serialise_leaves(file, state, filter_spec=_write)


def load(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Reads a state that `save` wrote.

    **Arguments:**

    - `path`: the file.
    - `like`: a state of the same structure, shapes and dtypes, such as `update.init(params, posterior, key=key)`.
        The values of its arrays are not used.

    **Returns** the state: `like` with the arrays of the file.

    **Raises** `ValueError` for a file of other arrays than those of `like`.
    """
    with open(path, "rb") as file:
        try:
            tree = eqx.tree_deserialise_leaves(file, like, filter_spec=_read)
            rest = file.read(1)
        except (RuntimeError, ValueError, EOFError) as error:
            raise ValueError(
                f"load: the arrays in {path} do not match those of `like` ({error}). Pass as `like` a state of "
                "the same update, model and network sizes, or the pytree that was saved, such as (state.params, "
                "state.posterior)."
            ) from error
    if rest:
        raise ValueError(
            f"load: {path} holds more arrays than `like`. Pass as `like` a state of the same update, or the "
            "pytree that was saved."
        )
    return tree


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _write(file: Any, leaf: Any) -> None:
    if _is_key(leaf):
        np.save(file, np.asarray(jax.random.key_data(leaf)))
    else:
        eqx.default_serialise_filter_spec(file, leaf)


def _read(file: Any, leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.load(file), impl=jax.random.key_impl(leaf))
    return eqx.default_deserialise_filter_spec(file, leaf)
