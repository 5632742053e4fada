"""The beliefs with which the updates of a log-joint start."""

import jax
import jax.numpy as jnp

from .._program import program
from .._types import Any, Key, PyTree
from ._local import LocalBeliefs


def dtype_of(tree: PyTree) -> Any:
    """Returns the precision of the data, or the default one for whole numbers."""
    found = [jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)]
    inexact = [dtype for dtype in found if jnp.issubdtype(dtype, jnp.inexact)]
    return inexact[0] if inexact else jnp.result_type(float)


@program
def start(
    joint: Any, key: Key, starts: dict[str, PyTree], number: int, dtype: Any
) -> tuple[dict[str, PyTree], LocalBeliefs]:
    """Returns wide beliefs about the given values, or about random ones; local blocks have `number` rows."""

    def belief(name, block, key):
        value = starts[name] if name in starts else block.start(key, dtype)
        return block.around(value)

    keys = iter(jax.random.split(key, len(joint.blocks)))
    params = {name: belief(name, block, next(keys)) for name, block in joint.shared}
    local = {}
    for name, block in joint.local:
        key = next(keys)
        if name in starts:
            local[name] = block.around(starts[name])
        else:
            each = lambda key, name=name, block=block: belief(name, block, key)
            local[name] = jax.vmap(each)(jax.random.split(key, number))
    return params, LocalBeliefs(local)
