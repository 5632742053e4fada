"""The current states of Markov chains, several for each datum."""

import jax
import jax.numpy as jnp

from .._math.algebra import is_label
from .._types import PyTree
from ._particles import Particles
from ._table import AbstractTable


class PersistentChains(AbstractTable):
    """Looks up the current states of each row's Markov chains, as equally weighted draws.

    `MarkovChainMonteCarloEStep` moves them. The density of a chain's state is not known, so the entropy counts as
    0 and the bound is the mean of log p(x, z).

    **Arguments:**

    - `table`: latents of the family, each array of shape `(num_data, num_chains, ...)`. Paths of a `MarkovChain`
        are integers, −1 in the padding of a shorter sequence.
    - `family`: the family of the latent, usually `model.latent`.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> chains = elbax.posteriors.PersistentChains(jnp.zeros((100, 4, 2)), elbax.DiagonalGaussian(2))
    >>> print(chains(None, index=0).mean()[0])
    [0. 0.]

    ```
    """

    def at(self, entry: PyTree) -> Particles:
        number = len(jax.tree.leaves(entry)[0])
        inexact = [leaf for leaf in jax.tree.leaves(entry) if not is_label(leaf)]
        dtype = jnp.result_type(*inexact) if inexact else jnp.result_type(float)
        none = jnp.zeros(number, dtype)
        return Particles(entry, none - jnp.log(jnp.asarray(number, dtype)), none, self.family)
