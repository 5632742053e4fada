"""Networks as pytrees of arrays only."""

import equinox as eqx
import jax

from ._arguments import takes_key
from ._types import Any, Callable, Key, PyTree


class Network(eqx.Module):
    """Wraps a network as a callable pytree whose leaves are arrays only, so that a scan can carry it.

    Called with `key=`, it passes the key to a network that takes one, for dropout. Called without a key, it
    evaluates an Equinox module in `equinox.nn.inference_mode`; `equinox.nn.inference_mode(state.posterior)` does
    so at every call.

    **Arguments:**

    - `network`: any Equinox module (or other callable pytree). Its arrays are the weights; its functions and
        numbers are part of the tree's structure.
    - `weights`: if given, `network` is a pure function `network(weights, x)` or `network(weights, x, key=None)`,
        such as the `apply` of a flax module, and these are its weights.

    **Fields:**

    - `weights`: the network with `Static` in place of all leaves that are not arrays, or the given weights.

    **Raises** `TypeError` for a network that is not callable.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp
    >>> decoder = elbax.Network(eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0)))
    >>> decoder(jnp.zeros(2)).shape
    (3,)
    >>> linear = elbax.Network(lambda weights, x: weights @ x, jnp.ones((3, 2)))
    >>> print(linear(jnp.ones(2)))
    [2. 2. 2.]

    ```

    Dropout, with a module whose `__call__(self, x, key=None)` hands the key to its layers:

        encoder = elbax.Amortized(module, model.latent)
        state, info = jax.lax.scan(vae, vae.init(decoder, encoder, key=key), batches)  # drops at random
        q = state.posterior(x[0])  # evaluates
    """

    weights: PyTree
    function: Callable[..., Any] | None = eqx.field(static=True)

    def __init__(self, network: Callable[..., Any], weights: PyTree | None = None):
        if not callable(network):
            raise TypeError(f"Network: expected a callable, got {network!r}.")
        if weights is None:
            hide = lambda leaf: leaf if eqx.is_array(leaf) else Static(leaf)
            self.weights, self.function = jax.tree.map(hide, network), None
        else:
            self.weights, self.function = weights, network

    def __call__(self, *arguments: Any, key: Key | None = None) -> Any:
        if self.function is None:
            network = jax.tree.map(_shown, self.weights, is_leaf=_is_static)
            network = eqx.nn.inference_mode(network) if key is None else network
            return network(*arguments, **_key_for(network, key))
        return self.function(self.weights, *arguments, **_key_for(self.function, key))

    @property
    def num_weights(self) -> int:
        """The number of trained numbers."""
        trained = eqx.filter(self.weights, eqx.is_inexact_array)
        return sum(leaf.size for leaf in jax.tree.leaves(trained))


class Static(eqx.Module):
    """A value that is not an array, as a node without leaves: part of the tree's structure."""

    value: Any = eqx.field(static=True)


def _is_static(node: Any) -> bool:
    return isinstance(node, Static)


def _shown(node: Any) -> Any:
    return node.value if _is_static(node) else node


def _key_for(function: Callable[..., Any], key: Key | None) -> dict[str, Key]:
    return {} if key is None or not takes_key(function) else {"key": key}
