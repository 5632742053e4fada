"""Which units of a latent have collapsed to their prior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import guide, kind_of
from .._door import enter
from .._model import AbstractModel
from .._program import compiled
from .._types import Any, Key, PyTree
from ..data._batch import num_rows, over_rows, rows
from ..families import Distribution
from ..posteriors._drawn import as_distribution
from ._active_units import active_units


class Collapse(eqx.Module):
    """What each unit of a latent says of the data; units are numbers of a `DiagonalGaussian`, factors or draws.

    **Fields:**

    - `kl_prior`: KL(q(z_j | x) ‖ p(z_j)) of each unit, in nats, the mean over data; their sum is the model's KL.
    - `variance`: what `active_units` returns.
    - `least`: the KL below which a unit counts as collapsed.

    ```python
    >>> import elbax, jax.numpy as jnp
    >>> print(elbax.diagnostics.Collapse(jnp.array([1.5, 0.0]), jnp.array([0.9, 0.0]), 0.01))
    1 of 2 units of the latent have collapsed to their prior (a KL below 0.01 nats): 1.

    ```
    """

    kl_prior: PyTree
    variance: PyTree
    least: float = eqx.field(static=True)

    @property
    def collapsed(self) -> PyTree:
        """Which units have collapsed, booleans in the shape of `kl_prior`."""
        return jax.tree.map(lambda kl: kl < self.least, self.kl_prior)

    def __str__(self) -> str:
        found = [
            f"{jax.tree_util.keystr(path)}{', '.join(map(str, place))}".strip()
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.collapsed)
            for place in np.argwhere(np.asarray(leaf)).tolist()
        ]
        number = sum(leaf.size for leaf in jax.tree.leaves(self.kl_prior))
        what = f"units of the latent have collapsed to their prior (a KL below {self.least} nats)"
        if not found:
            return f"0 of {number} {what}."
        said = f"{len(found)} of {number} {what}: {'; '.join(found)}."
        if len(found) < number:
            return said
        return (
            f"{said} The posterior ignores the data: the decoder explains them without the latent. Warm the KL up "
            'with elbax.wrappers.Anneal(update, schedule, target="divergence"), or weaken the decoder.'
            f"{guide('the-kl-of-a-vae-goes-to-zero')}"
        )


def collapse(
    model: AbstractModel,
    params: PyTree,
    posterior: Any,
    batch: PyTree,
    *,
    least: float = 0.01,
    key: Key | None = None,
) -> Collapse:
    r"""Measures posterior collapse: KL(q(z_j | x) ‖ p(z_j)) of each unit of the latent, beside `active_units`.

    A unit with a divergence near 0 has the prior as its posterior for all data, and says nothing of them. A unit
    whose divergence is not small but whose mean does not vary says nothing either.

    **Arguments:**

    - `model`: a model that knows p(z), such as `Model(likelihood=, prior=)`.
    - `params`, `batch`: as for `elbax.elbo`.
    - `posterior`: a function from a datum to a member of the latent's family. Units are the numbers of a
        `DiagonalGaussian`, the parts of a `Product` or `Copies`, and otherwise the whole latent. Where q and the
        prior are programs they are the draws, each given those before, and their divergences are estimated by one
        draw a datum.
    - `least`: below how many nats a unit counts as collapsed.
    - `key`: a random key for these draws.

    **Raises** `TypeError` for a model that does not know p(z), and where p(z) or q is of no family: then
    `active_units` still serves.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def likelihood(decoder, x, z):
    ...     return jax.scipy.stats.norm.logpdf(x, decoder @ z).sum()
    >>> def prior(decoder, x):
    ...     return jnp.zeros(2), jnp.ones(2)
    >>> model = elbax.Model(likelihood=likelihood, prior=prior, latent=elbax.DiagonalGaussian(2))
    >>> weights = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])  # the second mean is always 0
    >>> encoder = elbax.Amortized(elbax.Network(lambda w, x: w @ x, weights), model.latent)
    >>> x = jnp.array([[1.0, 5.0], [-1.0, 7.0]])
    >>> found = elbax.diagnostics.collapse(model, jnp.eye(2), encoder, x)
    >>> print(found.kl_prior, found.collapsed)
    [0.5 0. ] [False  True]

    ```
    """
    batch = enter("collapse", model, params, batch, posterior=posterior, key=key)
    if not model.knows_prior:
        raise TypeError(
            f"collapse: this {type(model).__name__} does not know p(z). Use Model(likelihood=..., prior=...), or "
            "diagnostics.active_units(posterior, batch), which needs the posterior alone."
        )
    params, posterior = eqx.nn.inference_mode((params, posterior))
    key = jax.random.key(0) if key is None else key
    kl = _divergences(model, params, posterior, *rows(batch), key)
    return Collapse(kl, active_units(posterior, batch), least)


@compiled
def _divergences(
    model: AbstractModel, params: PyTree, posterior: Any, x: PyTree, weight: Any, key: Key
) -> PyTree:
    def one(x, key):
        q, prior = posterior(x), model.latent_prior(params, x)
        for given, what in ((prior, "p(z) of the model"), (q, "q")):
            if not (isinstance(given, Distribution) or hasattr(given, "parts")):
                raise TypeError(
                    f"collapse: {what} is {kind_of(given)}, not a member of a family, so its divergence does not "
                    "split into units. Use diagnostics.active_units(posterior, batch)."
                )
        return model.divergences(as_distribution(q, model.latent, key), prior, key)

    def mean(leaf):
        share = (weight / jnp.sum(weight)).astype(leaf.dtype)
        return jnp.tensordot(share, leaf, 1)

    keys = jax.random.split(key, num_rows(x))
    return jax.tree.map(mean, over_rows(one, x, keys))
