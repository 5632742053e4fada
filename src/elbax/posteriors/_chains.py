"""Where the Markov chains of each datum stand."""

import jax
import jax.numpy as jnp

from .._algebra import is_label
from .._types import PyTree
from ._particles import Particles
from ._table import AbstractTable


class Chains(AbstractTable):
    """The latents at which Markov chains of each row stand, equally weighted, from a table with axes rows
    and chains.

    `MarkovChainMonteCarloEStep` moves them. Where a chain stands has no density, so that their entropy
    counts as 0 and the bound is the mean of log p(x, z).

    **Arguments:**

    - `table`: latents, each array of shape `(num_data, num_chains, ...)`, as the family has them: paths of
        a `MarkovChain` are integers, and −1 in the padding of a shorter sequence.
    - `family`: the family of the latent, usually `model.latent`.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> chains = elbax.Chains(jnp.zeros((100, 4, 2)), elbax.DiagonalGaussian(2))
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
