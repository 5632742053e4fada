"""Networks as pytrees of arrays only."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ._arguments import kind_of, takes_key
from ._reference import Reference
from ._types import Any, Callable, Key, PyTree


class Network(eqx.Module):
    """Wraps a network as a callable pytree whose leaves are arrays only, so that a scan can carry it.

    Called with `key=`, it trains: it passes the key to a network that takes one, for dropout. Called without a
    key, it evaluates an Equinox module in `equinox.nn.inference_mode`; `equinox.nn.inference_mode(
    state.posterior)` does so at every call.

    **Arguments:**

    - `network`: any Equinox module (or other callable pytree). Its arrays are the weights; its functions and
        numbers are part of the tree's structure.
    - `weights`: if given, `network` is a pure function `network(weights, x)` or `network(weights, x, key=None)`,
        such as the `apply` of a flax module, and these are its weights.
    - `state`: what the network keeps beside its weights, such as running statistics: the second of
        `equinox.nn.make_with_state`, or the `batch_stats` of flax. The network then takes it after the datum, and
        returns (output, new state). No gradient step moves it; `RunningStatistics` does.

    **Fields:**

    - `weights`: the network with `Static` in place of all leaves that are not arrays, or the given weights.
    - `state`: a `Reference` to the state, or `None`.

    **Raises** `TypeError` for a network that is not callable; when called, for one with a state that does not
    return two things.

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
    state: "Reference | Listening | None" = None

    def __init__(
        self,
        network: Callable[..., Any],
        weights: PyTree | None = None,
        *,
        state: PyTree | None = None,
    ):
        if not callable(network):
            raise TypeError(f"Network: expected a callable, got {network!r}.")
        self.state = None if state is None else Reference(state)
        if weights is None:
            hide = lambda leaf: leaf if eqx.is_array(leaf) else Static(leaf)
            self.weights, self.function = jax.tree.map(hide, network), None
        else:
            self.weights, self.function = weights, network

    def __call__(self, *arguments: Any, key: Key | None = None) -> Any:
        function, weights = self.function, (self.weights,)
        if function is None:
            network = jax.tree.map(_shown, self.weights, is_leaf=_is_static)
            function = eqx.nn.inference_mode(network) if key is None else network
            weights = ()
        if self.state is None:
            return function(*weights, *arguments, **_key_for(function, key))
        # A copy, since an `equinox.nn.State` can be used once only.
        state = jax.tree.map(lambda leaf: leaf, self.state.value)
        found = function(*weights, *arguments, state, **_key_for(function, key))
        if not (isinstance(found, tuple) and len(found) == 2):
            raise TypeError(
                f"Network: a network with a state must return (output, new state), got {kind_of(found)}."
            )
        output, new = found
        if isinstance(self.state, Listening):
            return self.state.heard(output, new)
        return output

    @property
    def num_weights(self) -> int:
        """The number of trained numbers."""
        trained = eqx.filter(self.weights, eqx.is_inexact_array)
        return sum(leaf.size for leaf in jax.tree.leaves(trained))


class Listening(eqx.Module):
    """The state of a network during a pass whose gradient in `ear` is how far the state moves.

    It is the sum over calls: of all rows, draws and steps, whatever transformations they are in.
    """

    value: PyTree
    ear: PyTree

    @staticmethod
    def ear_of(state: PyTree) -> PyTree:
        """Returns where the moves of the state arrive, and the number of calls of each entry."""
        return jax.tree.map(_as_float, state), jax.tree.map(_as_float, state)

    def heard(self, output: PyTree, new: PyTree) -> PyTree:
        """Returns the output of a call that moves the state."""

        def difference(new, old):
            old = _as_float(old)
            return new.astype(old.dtype) - old

        by = jax.tree.map(difference, new, self.value)
        # A one for each call: batched if the move is, since a gradient sums over the batch only then.
        ones = jax.tree.map(lambda by: jnp.where(by == by, 1, jnp.ones_like(by)), by)
        arrays, rest = eqx.partition(output, eqx.is_inexact_array)
        return eqx.combine(_heard(arrays, self.ear, (by, ones)), rest)

    def moved(self, total: PyTree) -> PyTree:
        """Returns the state moved by the mean of all calls."""

        def one(old, by, number):
            new = _as_float(old) + by / jnp.maximum(number, 1)
            whole = not jnp.issubdtype(old.dtype, jnp.inexact)
            return (jnp.round(new) if whole else new).astype(old.dtype)

        return jax.tree.map(one, self.value, *total)


def _as_float(leaf: Any) -> Any:
    return leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf.astype(float)


@jax.custom_vjp
def _heard(output: PyTree, ear: PyTree, by: PyTree) -> PyTree:
    return output


def _forward(output, ear, by):
    return output, by


def _backward(by, slope):
    return slope, by, jax.tree.map(jnp.zeros_like, by)


_heard.defvjp(_forward, _backward)


class Static(eqx.Module):
    """A value that is not an array, as a node without leaves: part of the tree's structure."""

    value: Any = eqx.field(static=True)


def _is_static(node: Any) -> bool:
    return isinstance(node, Static)


def _shown(node: Any) -> Any:
    return node.value if _is_static(node) else node


def _key_for(function: Callable[..., Any], key: Key | None) -> dict[str, Key]:
    return {} if key is None or not takes_key(function) else {"key": key}
