"""A function with weights, as a pytree of arrays alone."""

import equinox as eqx
import jax

from .._types import Any, Callable, PyTree


class Network(eqx.Module):
    """A callable pytree whose leaves are arrays only, so that a scan can carry it.

    **Arguments:**

    - `network`: any Equinox module (or other callable pytree): its arrays are the weights, its
        functions and numbers stay behind.
    - `weights`: if given, `network` is a pure function `network(weights, x)`, such as the `apply`
        of a flax module, and these are its weights.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp
    >>> decoder = elbax.Network(eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0)))
    >>> decoder(jnp.zeros(2)).shape
    (3,)
    >>> linear = elbax.Network(lambda weights, x: weights @ x, jnp.ones((3, 2)))
    >>> print(linear(jnp.ones(2)))
    [2. 2. 2.]

    ```
    """

    weights: PyTree
    static: Any = eqx.field(static=True)

    def __init__(self, network: Callable[..., Any], weights: PyTree | None = None):
        if not callable(network):
            raise TypeError(f"Network: expected a callable, got {network!r}.")
        if weights is None:
            self.weights, self.static = eqx.partition(network, eqx.is_array)
        else:
            self.weights, self.static = weights, _Apply(network)

    def __call__(self, *arguments: Any) -> Any:
        if isinstance(self.static, _Apply):
            return self.static.function(self.weights, *arguments)
        return eqx.combine(self.weights, self.static)(*arguments)

    @property
    def num_weights(self) -> int:
        """How many numbers are trained."""
        trained = eqx.filter(self.weights, eqx.is_inexact_array)
        return sum(leaf.size for leaf in jax.tree.leaves(trained))


class _Apply(eqx.Module):
    function: Callable[..., Any] = eqx.field(static=True)
