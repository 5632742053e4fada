"""Which numbers of a latent a posterior uses."""

import jax
import jax.numpy as jnp

from .._program import compiled
from .._types import Any, PyTree
from ..data._batch import over_rows, rows


def active_units(posterior: Any, batch: PyTree) -> PyTree:
    r"""Returns $\mathrm{Var}_x(E_{q(z | x)}[z_j])$, by how much the mean of each number of the latent varies.

    A number whose mean is the same for all data says nothing of them: it has collapsed to its prior. Burda et al.
    (2016) call a unit active if the variance is above 0.01, for priors of variance 1.

    **Arguments:**

    - `posterior`: a function from a datum to a distribution, such as `state.posterior`. For a discrete latent the
        mean is that of its statistics (the probabilities), for a continuous one the mode.
    - `batch`: data, or a `Batch` with weights.

    **Returns** an array, or a tree of arrays like the latent.

    **Raises** `TypeError` for a distribution without a mode.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> weights = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])  # the second mean is always 0
    >>> network = elbax.Network(lambda weights, x: weights @ x, weights)
    >>> encoder = elbax.Amortized(network, elbax.DiagonalGaussian(2))
    >>> x = jnp.array([[1.0, 5.0], [-1.0, 7.0]])
    >>> print(elbax.diagnostics.active_units(encoder, x) > 0.01)
    [ True False]

    ```
    """
    return _variances(posterior, *rows(batch))


@compiled
def _variances(posterior: Any, x: PyTree, weight: Any) -> PyTree:
    means = over_rows(lambda x: _center(posterior(x)), x)

    def variance(leaf):
        share = (weight / jnp.sum(weight)).astype(leaf.dtype)
        share = share.reshape((-1,) + (1,) * (leaf.ndim - 1))
        mean = jnp.sum(share * leaf, 0)
        return jnp.sum(share * (leaf - mean) ** 2, 0)

    return jax.tree.map(variance, means)


def _center(q: Any) -> PyTree:
    if getattr(q, "discrete", False):
        return q.mean()
    if not callable(getattr(q, "mode", None)):
        raise TypeError(
            f"active_units: this {type(q).__name__} has no mode(). Pass a posterior whose distributions "
            "have one: those of a family, or of a program whose draws have."
        )
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if leaf.dtype.kind in "ib" else leaf, q.mode()
    )
