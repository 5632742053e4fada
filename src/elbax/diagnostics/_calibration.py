"""Simulation-based calibration: whether true latents look like draws of their posterior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_count, check_function, takes_key
from .._program import compiled
from .._types import Any, Callable, Key, PyTree


_MOST_BINS = 20
_LEVEL = 1e-3


class Calibration(eqx.Module):
    """Ranks of simulated latents among draws of their posterior, which are uniform if the posterior is right.

    **Fields:**

    - `ranks`: of each number of the latent, how many draws are below the true one; a tree like the latent, with an
        axis for the simulated data first.
    - `num_draws`: L, so that ranks are 0, …, L.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> found = elbax.diagnostics.Calibration(jnp.arange(400)[:, None] % 20, num_draws=19)
    >>> found.uniform, found.p_values.shape
    (True, (1,))

    ```
    """

    ranks: PyTree
    num_draws: int = eqx.field(static=True)

    @property
    def p_values(self) -> PyTree:
        """The p-value of each number: Pearson's test of uniform ranks, in at most 20 bins."""
        return jax.tree.map(lambda leaf: _p_values(np.asarray(leaf), self.num_draws), self.ranks)

    @property
    def uniform(self) -> bool:
        """Whether no p-value is below 0.001 divided by the number of them."""
        every = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self.p_values)])
        return bool(every.min() * every.size >= _LEVEL)

    def __str__(self) -> str:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.ranks)]
        every = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)
        place = (every + 0.5) / (self.num_draws + 1)
        smallest = min(float(np.min(leaf)) for leaf in jax.tree.leaves(self.p_values))
        said = f"{every.shape[1]} numbers, {len(every)} simulated data, smallest p-value {smallest:.1e}: "
        if self.uniform:
            return f"{said}ranks are uniform, as those of the exact posterior."
        off = np.abs(place.mean(0) - 0.5).max() > 0.1
        wide = np.mean((place - 0.5) ** 2) < 1 / 12
        how = "shifted" if off else "too wide" if wide else "too narrow"
        return f"{said}ranks are not uniform; the posterior is {how}."


def calibration(
    sample: Callable[[Any, Any], Any],
    params: PyTree,
    posterior: Any,
    *,
    key: Key,
    num_data: int = 1000,
    num_draws: int = 99,
) -> Calibration:
    r"""Ranks the latents of simulated data among draws of the posterior (Talts et al. 2018).

    If $(x, z)$ is drawn from the model and $z_1, \ldots, z_L$ from p(z | x), the rank of z among them is uniform
    on 0, …, L. Ranks pile up at both ends if q is too narrow, as of encoders that descend KL(q ‖ p), in the middle
    if it is too wide, at one end if it is shifted. Each number of z is ranked alone, so a wrong correlation is not
    seen. Equal values are ordered at random.

    **Arguments:**

    - `sample`: `sample(params, key) -> (x, z)`, one draw from the model, as for `SleepEStep`; of a program it is
        `programs.dream(program)`.
    - `params`: θ.
    - `posterior`: a function from a datum to a distribution with `sample(key)`, such as `state.posterior`.
    - `key`: for the data and the draws.
    - `num_data`: how many data are simulated.
    - `num_draws`: L.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def sample(params, key):
    ...     z, noise = jax.random.normal(key, (2, 1))
    ...     return z + noise, z
    >>> def posterior(precision):  # p(z | x) has mean x / 2 and precision 2
    ...     return lambda x: elbax.DiagonalGaussian(1)((precision * x / 2, jnp.full(1, precision)))
    >>> ranks = lambda q: elbax.diagnostics.calibration(sample, (), q, key=jax.random.key(0))
    >>> ranks(posterior(2.0)).uniform, ranks(posterior(4.0)).uniform
    (True, False)

    ```
    """
    check_function("calibration", "sample(params, key) -> (x, z)", sample=sample)
    check_count("calibration", num_data=num_data, num_draws=num_draws)
    params, posterior = eqx.nn.inference_mode((params, posterior))
    return Calibration(_ranks(sample, params, posterior, key, num_data, num_draws), num_draws)


@compiled
def _ranks(
    sample: Callable, params: PyTree, posterior: Any, key: Key, num_data: int, num_draws: int
) -> PyTree:
    def one(key):
        of_datum, of_q, of_draws, of_ties = jax.random.split(key, 4)
        x, z = sample(params, of_datum)
        q = posterior(x, key=of_q) if takes_key(posterior) else posterior(x)
        drawn = jax.vmap(q.sample)(jax.random.split(of_draws, num_draws))

        def rank(true, drawn):
            true = jnp.asarray(true)
            tied = jnp.sum(drawn == true, 0)
            # Equal values are in random order.
            among = jax.random.randint(of_ties, tied.shape, 0, tied + 1)
            return jnp.sum(drawn < true, 0) + among

        return jax.tree.map(rank, z, drawn)

    return jax.vmap(one)(jax.random.split(key, num_data))


def _p_values(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """Returns the p-values of Pearson's test, one for each number of the latent."""
    bins = min(_MOST_BINS, num_draws + 1)
    bin_of = np.arange(num_draws + 1) * bins // (num_draws + 1)
    expected = np.bincount(bin_of) * len(ranks) / (num_draws + 1)

    def p_value(column):
        counts = np.bincount(bin_of[column], minlength=bins)
        square = np.sum((counts - expected) ** 2 / expected)
        return float(jax.scipy.special.gammaincc((bins - 1) / 2, square / 2))

    columns = ranks.reshape(len(ranks), -1).T
    return np.array([p_value(column) for column in columns]).reshape(ranks.shape[1:])
