"""Posteriors that are represented by draws."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._arguments import check_count, check_function
from .._program import program
from .._types import Callable, Key, PyTree
from ..families import Distribution
from ._exact import check_target, Exact
from ._particles import moves, Particles
from ._posterior import AbstractPosterior, looks_first


class MonteCarlo(AbstractPosterior):
    """Draws `num_samples` independent samples from another posterior, new ones in every pass over data.

    **Arguments:**

    - `posterior`: the posterior to sample from, usually `Exact(model, params)`.
    - `num_samples`: the number of draws per datum.

    **Raises** `TypeError`, when called, without a key.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> q = elbax.posteriors.MonteCarlo(lambda x, key=None: elbax.Categorical(2)(x), 1000)
    >>> drawn = q(jnp.log(jnp.array([0.25, 0.75])), key=jax.random.key(0))
    >>> bool(abs(drawn.mean()[1] - 0.75) < 0.05)
    True

    ```
    """

    posterior: Callable[..., Distribution]
    num_samples: int = eqx.field(static=True)

    def __check_init__(self):
        check_function("MonteCarlo", "elbax.Exact(model, params)", posterior=self.posterior)
        check_count("MonteCarlo", num_samples=self.num_samples)

    @property
    def draws_anew(self) -> bool:
        return True

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Particles:
        q, z = draw("MonteCarlo", self.posterior, x, self.num_samples, key)
        log_density = jax.vmap(q.log_prob)(z)
        even = jnp.full_like(log_density, -jnp.log(self.num_samples))
        return Particles(z, even, log_density, getattr(q, "family", None), moves(q, z))


class Importance(AbstractPosterior):
    r"""Weights draws $z_s$ of a `proposal` r(z | x), such as an encoder, by $p_\theta(x, z_s) / r(z_s \mid x)$.

    Its bound is that of the importance weighted autoencoder (Burda et al. 2016), for which `GradientEStep` trains
    the proposal. Expectations are self-normalized, as in the wake phase of reweighted wake-sleep (Bornschein and
    Bengio 2015).

    **Arguments:**

    - `proposal`: a posterior with `sample` and `log_prob`.
    - `target`: `Exact(model, params)`, whose joint density gives the weights. Its conditional need not be known.
    - `num_samples`: the number of draws per datum.

    **Raises** `TypeError`, when called, without a key.

    ```python
    >>> import elbax, jax, jax.numpy as jnp
    >>> def log_joint(params, x, z):
    ...     return jax.scipy.stats.norm.logpdf(jnp.append(z, x - z)).sum()
    >>> model = elbax.Model(log_joint, elbax.DiagonalGaussian(1))
    >>> prior = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.zeros(2)), model.latent)
    >>> q = elbax.posteriors.Importance(prior, elbax.Exact(model, ()), 4000)(jnp.array(1.0), key=jax.random.key(0))
    >>> bool(abs(q.mean()[0][0] - 0.5) < 0.05)
    True

    ```
    """

    proposal: Callable[..., Distribution]
    target: Exact
    num_samples: int = eqx.field(static=True)

    def __check_init__(self):
        check_function("Importance", "elbax.Amortized(network, family)", proposal=self.proposal)
        check_target("Importance", self.target)
        check_count("Importance", num_samples=self.num_samples)

    @property
    def draws_anew(self) -> bool:
        return True

    @looks_first
    @program
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Particles:
        r, z = draw("Importance", self.proposal, x, self.num_samples, key)
        log_density = jax.vmap(r.log_prob)(z)
        model, natural = self.target.model, self.target.prepared
        log_joint = jax.vmap(lambda z: model.log_joint_at(natural, x, z))(z)
        log_weights = jax.nn.log_softmax(log_joint - log_density.astype(log_joint.dtype))
        return Particles(z, log_weights, log_density, model.latent, moves(r, z))


def draw(who: str, posterior: Callable, x: PyTree, number: int, key: Key | None) -> tuple:
    """Returns q at x and `number` draws of it."""
    if key is None:
        raise TypeError(f"{who}: sampling needs a key. Call posterior(x, key=jax.random.key(0)).")
    key_q, key_draws = jax.random.split(key)
    q = posterior(x, key=key_q)
    z = jax.vmap(q.sample)(jax.random.split(key_draws, number))
    # Draws whose derivative is their density's score must not move besides.
    return q, z if moves(q, z) else jax.lax.stop_gradient(z)
