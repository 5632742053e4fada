"""An encoder."""

import equinox as eqx

from .._program import program
from .._types import Any, Callable, Key, PyTree
from ..families import AbstractFamily, Distribution
from ._network import Network


class Amortized(eqx.Module):
    """q(z) of the `family`, its natural parameters being the network's output at x.

    **Arguments:**

    - `network`: an Equinox module, or `Network(apply, weights)` for any pure function.
    - `family`: the family of the latent, usually `model.latent`; it says how many outputs it wants.

    A fresh encoder ruins good params within a few joint steps: train it alone first, with
    `GradientEStep`.

    ```python
    >>> import elbax, equinox as eqx, jax, jax.numpy as jnp
    >>> network = eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0))
    >>> encoder = elbax.Amortized(network, elbax.Categorical(3))
    >>> encoder(jnp.zeros(2)).mean().shape
    (3,)

    ```
    """

    network: Network
    family: AbstractFamily

    def __init__(self, network: Callable[..., Any], family: AbstractFamily):
        if not isinstance(family, AbstractFamily):
            raise TypeError(
                f"Amortized: family must be a family such as model.latent, got {family!r}."
            )
        self.network = network if isinstance(network, Network) else Network(network)
        self.family = family

    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        return self.family.distribution(self.network(x))
