"""The state that a scan of updates carries, and the report of each step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._arguments import kind_of
from ._program import outside
from ._types import Any, Key, PyTree, Scalar


class ELBOState(eqx.Module):
    r"""Holds the current (q, θ) of $\mathrm{ELBO}(q, \theta)$, as the carry of a scan.

    Make one with `update.init(params, posterior, key=key)`. No field is a cache of another one, so an update that
    moves one field does not make another one stale.

    **Fields:**

    - `params`: θ, the model's parameters, a pytree of arrays.
    - `posterior`: q, a callable pytree `posterior(x, key=None) -> q(z)`.
    - `memory`: the update's own state (optimizer state, running statistics).
    - `key`: the random key of all steps to come.
    """

    params: PyTree
    posterior: PyTree
    memory: PyTree
    key: Key

    def replace(self, **fields: Any) -> "ELBOState":
        """Returns the state with the named fields replaced; raises `TypeError` for an unknown field."""
        current = {name: getattr(self, name) for name in ("params", "posterior", "memory", "key")}
        unknown = fields.keys() - current.keys()
        if unknown:
            raise TypeError(
                f"ELBOState.replace: there is no field {sorted(unknown)}; the fields are {list(current)}."
            )
        return ELBOState(**(current | fields))


class Info(eqx.Module):
    """Reports one step. `lax.scan` stacks it; it is not part of the state.

    **Fields:**

    - `elbo`: the ELBO at the (q, θ) and the batch of the step's pass over data, before the step's own move, in
        nats per datum; `None` for a step that makes no pass, such as an exact E-step.
    - `parts`: one `Info` for each part of a chain.
    - `reconstruction`, `kl_prior`: E_q[log p(x | z)] and KL(q ‖ p(z)) in nats per datum; the ELBO is their
        difference (with β times the divergence inside of `Anneal`) plus the global term. Gradient steps report
        them for a model with a separate likelihood and prior, `Model(likelihood=, prior=)`. Otherwise they are
        `None`; `elbo_terms` computes them with a pass over data.
    """

    elbo: Scalar | None = None
    parts: tuple["Info", ...] = ()
    reconstruction: Scalar | None = None
    kl_prior: Scalar | None = None


def unmeasured(info: PyTree) -> PyTree:
    """Returns an info of the same shapes without information: −∞, below every ELBO, and −1 for integers.

    NaN would count as a failure, also for `jax_debug_nans`.
    """

    def blank(leaf):
        value = -jnp.inf if jnp.issubdtype(leaf.dtype, jnp.inexact) else -1
        return jnp.full(leaf.shape, value, leaf.dtype)

    return jax.tree.map(blank, info)


def carry(tree: PyTree, name: str) -> PyTree:
    """Returns the tree as a scan can carry it: with device arrays only, of strong types.

    **Raises** `TypeError`, with its path, for a leaf that is not an array.
    """

    def leaf(path, value):
        if isinstance(value, jax.Array):
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                return value
            # A weak type, as of `jnp.asarray(0.0)`, would become strong in the first step, but the carry of a scan
            # must keep its types.
            return jax.lax.convert_element_type(value, value.dtype) if value.weak_type else value
        if isinstance(value, np.ndarray | np.generic):
            return jax.device_put(value)
        where = name + jax.tree_util.keystr(path)
        wrap = "wrap the module as elbax.Network(module), whose only leaves are its arrays"
        hint = wrap if callable(value) else f"convert it with jnp.asarray(value), or {wrap}"
        if name == "posterior" and callable(value):
            hint = f"use an encoder, elbax.Amortized(network, model.latent), or {wrap}"
        raise TypeError(
            f"ELBOState: {where} is {kind_of(value)} ({value!r}), but a state holds only arrays. To fix "
            f"this, {hint}."
        )

    return jax.tree_util.tree_map_with_path(leaf, tree)


def apart(tree: PyTree) -> PyTree:
    """Returns the tree with no two leaves in one buffer, so that a program can take its memory (`donate_argnums`).

    Params that occur twice, as with an exact posterior, become two arrays of equal values.
    """
    # Inside of a program leaves have no buffers, even if their values are known.
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
        # A copy on the same device, which is committed to it only if the array was.
        return jax.device_put(value, may_alias=False)

    return jax.tree.map(leaf, tree)


def _place(shard: Any) -> int:
    data = shard.data
    is_key = jnp.issubdtype(data.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(data) if is_key else data
    try:
        return data.unsafe_buffer_pointer()
    except jax.errors.JaxRuntimeError:  # A device without buffer addresses.
        return id(data)
