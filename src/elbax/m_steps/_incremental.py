"""The M-step of incremental EM."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count
from .._model import AbstractModel
from .._types import PyTree
from ._statistics import AbstractStatisticsStep, Remembered


class IncrementalMStep(AbstractStatisticsStep):
    r"""Maximizes over statistics of all batches, of which each step replaces one batch's (Neal and Hinton 1998).

    $s_k \leftarrow \hat s$ of the batch k, then $\theta \leftarrow \arg\max_\theta \langle \eta(\theta), \sum_k
    s_k \rangle + \log p(\theta)$. Batches come in a fixed cycle of `num_batches`, which together are the data. The
    step counts them, and θ is unchanged until the last batch of the first round. With an exact E-step each step
    ascends the ELBO of all the data, with q exact on the newest batch and older on the others. It thus converges
    where EM on all data does, usually in fewer passes.

    **Arguments:**

    - `model`: as for `OnlineMStep`.
    - `num_batches`: the number of batches in a cycle; so many statistics are stored, and moved in every step.
    - `chunk_size`: about how many rows to process at a time.
    - `free`: which params this step updates; see `ClosedFormMStep`.

    **Raises** `TypeError` for the same models as `OnlineMStep`.

    ```python
    >>> import elbax, jax
    >>> x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> em = elbax.Chain(elbax.ExactEStep(model), elbax.IncrementalMStep(model, num_batches=4))
    >>> state = em.init(params, key=jax.random.key(1))
    >>> batches = jax.numpy.tile(x.reshape(4, 68, 2), (10, 1, 1))  # ten rounds
    >>> state, info = jax.lax.scan(em, state, batches)

    ```
    """

    model: AbstractModel
    num_batches: int = eqx.field(static=True)
    chunk_size: int | None = eqx.field(static=True, default=None)
    free: PyTree = True

    def __check_init__(self):
        check_count("IncrementalMStep", num_batches=self.num_batches)

    def unmade(self, before: Remembered, after: Remembered) -> Remembered:
        # The next batch has the next position in the cycle.
        return Remembered(before.kept, before.about, after.step)

    def start(self, zeros):
        return jax.tree.map(
            lambda leaf: jnp.zeros((self.num_batches, *leaf.shape), leaf.dtype), zeros
        )

    def move(self, kept, change):
        return jax.vmap(change)(kept)

    def join(self, kept, fresh, step):
        place = step % self.num_batches
        kept = jax.tree.map(lambda old, new: old.at[place].set(new), kept, fresh)
        return kept, jax.tree.map(lambda leaf: jnp.sum(leaf, 0), kept)

    def waits(self, step):
        return step < self.num_batches - 1
