"""The registry: everything elbax can do, on small data. A model or an update joins by one row."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import elbax


@eqx.filter_jit
def step(update, state, batch):
    return update(state, batch)


@dataclasses.dataclass(frozen=True)
class System:
    """A model with params and data of its own."""

    name: str
    model: Any
    params: Any
    x: Any


@dataclasses.dataclass(frozen=True)
class Case:
    """An update on a system. `make(rate)` builds it; what has no rate ignores it."""

    name: str
    system: System
    make: Callable[[Any], elbax.AbstractUpdate]
    posterior: Any

    @functools.cached_property
    def update(self):
        return self.make(0.05)

    @functools.cached_property
    def state(self):
        return self.update.init(self.system.params, self.posterior, key=jax.random.key(7))

    def step(self, state, batch):
        """One step, compiled once for all laws."""
        return step(self.update, state, batch)


def table(num_data=24, dim=2, num_clusters=3):
    key_center, key_noise = jax.random.split(jax.random.key(11))
    center = 3 * jax.random.normal(key_center, (num_clusters, dim))
    which = jnp.arange(num_data) % num_clusters
    return center[which] + jax.random.normal(key_noise, (num_data, dim))


def gaussian_mixture(covariance, form="auto", floor=0.01):
    x = table()
    model = elbax.GaussianMixture(3, covariance, form=form, floor=floor)
    params = model.init(jax.random.key(0), x)
    # Away from the symmetric start, so that every entry of every parameter is seen.
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    return System(f"mixture-{covariance}-{form}", model, moved, x)


def plain_categorical():
    def log_joint(params, x, z):
        log_weights = jax.nn.log_softmax(params["logits"])
        return log_weights[z] + jax.scipy.stats.norm.logpdf(x, params["mean"][z], 1.0).sum()

    params = {"logits": jnp.array([0.1, -0.2, 0.3]), "mean": table()[:3]}
    model = elbax.Model(
        log_joint,
        latent=elbax.Categorical(3),
        log_prior=lambda params: -0.5 * jnp.sum(params["mean"] ** 2),
        latent_prior=lambda params: jax.nn.log_softmax(params["logits"]),
    )
    return System("plain-categorical", model, params, table())


def linear_gaussian_log_joint(params, x, z):
    norm = jax.scipy.stats.norm
    noise = jnp.exp(params["log_noise"])
    return norm.logpdf(z).sum() + norm.logpdf(x, params["loadings"] @ z, noise).sum()


def plain_gaussian():
    params = {
        "loadings": jnp.array([[1.0, 0.2], [0.5, -1.0], [0.3, 0.4]]),
        "log_noise": jnp.array(-0.5),
    }
    model = elbax.Model(
        linear_gaussian_log_joint,
        latent=elbax.Gaussian(2),
        conjugate=True,
        latent_prior=lambda params: (jnp.zeros(2), jnp.eye(2)),
    )
    return System("plain-gaussian", model, params, table(dim=3))


def autoencoder():
    def log_joint(decoder, x, z):
        norm = jax.scipy.stats.norm
        return norm.logpdf(z).sum() + norm.logpdf(x, decoder(z)).sum()

    decoder = elbax.Network(
        eqx.nn.MLP(2, 3, 4, 1, activation=jnp.tanh, key=jax.random.key(5), dtype=float)
    )
    model = elbax.Model(log_joint, latent=elbax.DiagonalGaussian(2), num_samples=2)
    return System("autoencoder", model, decoder, table(dim=3))


def encoder(system, num_outputs):
    dim = system.x.shape[1]
    network = eqx.nn.MLP(
        dim, num_outputs, 4, 1, activation=jnp.tanh, key=jax.random.key(3), dtype=float
    )
    return elbax.Amortized(network, system.model.latent)


def recipes(system, num_outputs):
    """All cells of the table: (name, update from a rate, first posterior)."""
    model = system.model
    exact = elbax.Exact(model, system.params)
    amortized = encoder(system, num_outputs)

    def adam(step):
        return lambda rate: step(model, optax.adam(rate))

    def chain(e_step, m_step):
        return lambda rate: elbax.Chain(e_step(rate), m_step(rate))

    bayes = lambda rate: elbax.ExactEStep(model)
    closed = lambda rate: elbax.ClosedFormMStep(model)
    return {
        "exact/closed": (chain(bayes, closed), exact),
        "exact/gradient": (chain(bayes, adam(elbax.GradientMStep)), exact),
        "encoder/closed": (chain(adam(elbax.GradientEStep), closed), amortized),
        "encoder/gradient": (
            chain(adam(elbax.GradientEStep), adam(elbax.GradientMStep)),
            amortized,
        ),
        "joint": (adam(elbax.JointGradientStep), amortized),
    }


def build():
    full = gaussian_mixture("full")
    rows = [
        (
            full,
            3,
            ["exact/closed", "exact/gradient", "encoder/closed", "encoder/gradient", "joint"],
        ),
        (gaussian_mixture("full", "difference"), 3, ["exact/closed", "exact/gradient"]),
        (gaussian_mixture("tied"), 3, ["exact/closed"]),
        (gaussian_mixture("tied", "difference"), 3, ["exact/closed"]),
        (gaussian_mixture("diagonal"), 3, ["exact/closed"]),
        (gaussian_mixture("spherical"), 3, ["exact/closed"]),
        (plain_categorical(), 3, ["exact/gradient", "joint"]),
        (plain_gaussian(), 4, ["exact/gradient", "joint"]),
        (autoencoder(), 4, ["encoder/gradient", "joint"]),
    ]
    cases = []
    for system, num_outputs, names in rows:
        table_of_recipes = recipes(system, num_outputs)
        for name in names:
            make, posterior = table_of_recipes[name]
            cases.append(Case(f"{system.name}:{name}", system, make, posterior))
    return cases


CASES = build()
SYSTEMS = list({case.system.name: case.system for case in CASES}.values())


def find(name):
    return next(case for case in CASES if case.name == name)
