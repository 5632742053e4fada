"""What a scan of updates carries, and what each step reports."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._program import outside
from ._types import Any, Key, PyTree, Scalar


class ELBOState(eqx.Module):
    r"""The point (q, θ) at which $\mathrm{ELBO}(q, \theta)$ stands: the carry of the scan.

    **Fields:**

    - `params`: θ, the model's parameters, a pytree of arrays.
    - `posterior`: q, a callable pytree `posterior(x, key=None) -> q(z)`.
    - `memory`: what the update keeps for itself (optimizer state, running statistics).
    - `key`: all randomness to come.

    Nothing here is a cache of another field, so an update that moves one field makes no other stale.
    Make one with `update.init(params, posterior, key=key)`.
    """

    params: PyTree
    posterior: PyTree
    memory: PyTree
    key: Key

    def replace(self, **fields: Any) -> "ELBOState":
        """The same state with the named fields exchanged."""
        current = {name: getattr(self, name) for name in ("params", "posterior", "memory", "key")}
        unknown = fields.keys() - current.keys()
        if unknown:
            raise TypeError(f"ELBOState has no field {sorted(unknown)}; it has {list(current)}.")
        return ELBOState(**(current | fields))


class Info(eqx.Module):
    """What one step saw; `lax.scan` stacks it, nothing carries it.

    **Fields:**

    - `elbo`: the ELBO at the (q, θ) and the batch of the step's data pass, in nats per datum
        (before its own move); `None` for a step that makes no pass, such as an exact E-step.
    - `parts`: one `Info` for each part of a chain.
    - `reconstruction`, `kl_prior`: E_q[log p(x | z)] and KL(q ‖ p(z)) in nats per datum, so that the ELBO is the
        one less the other, and the global term more. Gradient steps know them for a model whose likelihood and
        prior are apart, `Model(likelihood=, prior=)`; elsewhere they are `None`, as `elbo_terms` takes a pass.
    """

    elbo: Scalar | None = None
    parts: tuple["Info", ...] = ()
    reconstruction: Scalar | None = None
    kl_prior: Scalar | None = None


def unmeasured(info: PyTree) -> PyTree:
    """An info of the same shapes that says nothing: −∞, which every ELBO is above, and −1 for a part's number.

    NaN would be taken for a failure, by `jax_debug_nans` too.
    """

    def blank(leaf):
        value = -jnp.inf if jnp.issubdtype(leaf.dtype, jnp.inexact) else -1
        return jnp.full(leaf.shape, value, leaf.dtype)

    return jax.tree.map(blank, info)


def carry(tree: PyTree, name: str) -> PyTree:
    """The tree as a scan can carry it: device arrays only, of strong types.

    **Raises** `TypeError` that names the path of any other leaf.
    """

    def leaf(path, value):
        if isinstance(value, jax.Array):
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                return value
            # A weak type (that of `jnp.asarray(0.0)`) would turn strong in the first step, and the
            # carry of a scan must keep its types.
            return jax.lax.convert_element_type(value, value.dtype) if value.weak_type else value
        if isinstance(value, np.ndarray | np.generic):
            return jax.device_put(value)
        where = name + jax.tree_util.keystr(path)
        hint = (
            "wrap the network as elbax.Network(network), which keeps its functions out of the leaves"
            if callable(value)
            else "make it an array, jnp.asarray(value)"
        )
        raise TypeError(
            f"A state carries arrays only, but {where} is a {type(value).__name__} ({value!r}): {hint}."
        )

    return jax.tree_util.tree_map_with_path(leaf, tree)


def apart(tree: PyTree) -> PyTree:
    """The tree, no two leaves of which are one buffer: so it can be donated to a program (`donate_argnums`).

    Params that stand in it twice, as in an exact posterior, come out as two arrays of equal values.
    """
    # Inside of a program leaves are values, not places, be they known or not.
    if not outside():
        return tree
    seen: set[int] = set()

    def leaf(value):
        if isinstance(value, Tracer) or not value.is_fully_addressable:
            return value
        places = set(map(_place, value.addressable_shards)) - {0}
        if not places & seen:
            seen.update(places)
            return value
        # Where it is, though not committed to that place if it was not.
        return jax.device_put(value, may_alias=False)

    return jax.tree.map(leaf, tree)


def _place(shard: Any) -> int:
    data = shard.data
    is_key = jnp.issubdtype(data.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(data) if is_key else data
    try:
        return data.unsafe_buffer_pointer()
    except jax.errors.JaxRuntimeError:  # A device that tells no addresses.
        return id(data)
