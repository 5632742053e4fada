"""Posteriors of a mixture in which one component's rows go to others."""

import jax.numpy as jnp

from .._program import program
from .._types import Array, Callable, Int, Key, PyTree
from ..families import Distribution
from ._posterior import AbstractPosterior, looks_first


class Reassigned(AbstractPosterior):
    r"""Gives the rows of the component `source` to `target`, or to all others: a merge, or a deletion.

    $r_{target} \leftarrow r_{target} + r_{source}$ and $r_{source} \leftarrow 0$. If target and source are equal,
    the other responsibilities are divided by their sum instead.

    **Arguments:**

    - `posterior`: a posterior over a `Categorical` latent.
    - `source`, `target`: numbers of components.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> q = lambda x, key=None: elbax.Categorical(3)(jnp.log(jnp.array([0.5, 0.3, 0.2])))
    >>> merged = elbax.posteriors.Reassigned(q, jnp.array(2), jnp.array(0))
    >>> print(merged(jnp.zeros(1)).mean().round(1))
    [0.7 0.3 0. ]

    ```
    """

    posterior: Callable[..., Distribution]
    source: Int[Array, ""]
    target: Int[Array, ""]

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Distribution:
        q = self.posterior(x, key=key)
        logits = q.natural
        both = jnp.logaddexp(logits[self.target], logits[self.source])
        moved = logits.at[self.target].set(both).at[self.source].set(-jnp.inf)
        return Distribution(moved, q.family)
