"""The E-step of stochastic approximation EM."""

from typing import ClassVar

import equinox as eqx
import jax

from .._arguments import check_count, check_function
from .._types import Any, Callable
from ..posteriors import PersistentChains
from ._local import AbstractLocalStep


class MarkovChainMonteCarloEStep(AbstractLocalStep):
    r"""Moves each row's Markov chains by a kernel that leaves $p_\theta(z \mid x)$ invariant.

    The chains continue from their states in the table. With `OnlineMStep` this is stochastic approximation EM
    (Delyon, Lavielle and Moulines 1999; with chains, Kuhn and Lavielle 2004); with a gradient M-step, Monte Carlo
    maximum likelihood. It only evaluates log p(x, z).

    **Arguments:**

    - `model`: any model.
    - `kernel`: `kernel(key, z, log_density) -> z`, one transition of one chain, where `log_density(z)` is log
        p(x, z). A kernel of blackjax can be passed as `lambda key, z, f: step(f).step(key,
        step(f).init(z))[0].position`, where for example `step = lambda f: blackjax.nuts(f, 0.5, jnp.ones(dim))`.
    - `num_steps`: the number of transitions per call.
    - `chunk_size`: about how many rows to process at a time.

    **Raises** `TypeError` at `init` for a posterior that is not `PersistentChains`.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> x, model = elbax.datasets.old_faithful(), elbax.FactorAnalysis(1)
    >>> def metropolis(key, z, log_density):
    ...     key_move, key_accept = jax.random.split(key)
    ...     other = z + jax.random.normal(key_move, z.shape, z.dtype)
    ...     gain = log_density(other) - log_density(z)
    ...     return jnp.where(jnp.log(jax.random.uniform(key_accept)) < gain, other, z)
    >>> params = model.init(jax.random.key(0), x)
    >>> saem = elbax.Chain(
    ...     elbax.MarkovChainMonteCarloEStep(model, metropolis, num_steps=5),
    ...     elbax.OnlineMStep(model, lambda t: (t + 1.0) ** -0.6),
    ... )
    >>> chains = elbax.posteriors.PersistentChains(jnp.zeros((len(x), 1, 1)), model.latent)
    >>> state, info = saem(saem.init(params, chains, key=jax.random.key(1)), x)

    ```
    """

    kernel: Callable[[Any, Any, Callable[[Any], Any]], Any]
    num_steps: int = eqx.field(static=True, default=1)
    chunk_size: int | None = eqx.field(static=True, default=None)

    kind: ClassVar[type] = PersistentChains
    form: ClassVar[str] = "elbax.posteriors.PersistentChains(table, model.latent)"

    def __check_init__(self):
        check_function(
            "MarkovChainMonteCarloEStep", "kernel(key, z, log_density) -> z", kernel=self.kernel
        )
        check_count("MarkovChainMonteCarloEStep", num_steps=self.num_steps)

    @property
    def ascends(self) -> bool:
        return False

    def improve(self, form, natural, x, table, entry, key):
        def log_density(z):
            return form.log_joint_at(natural, x, z)

        def step(z, key):
            keys = jax.random.split(key, len(jax.tree.leaves(z)[0]))
            return jax.vmap(lambda key, z: self.kernel(key, z, log_density))(keys, z), None

        return jax.lax.scan(step, entry, jax.random.split(key, self.num_steps))[0]
