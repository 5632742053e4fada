"""A VAE as a user writes it; and its linear case, whose optimum is known in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import linear_gaussian_evidence, ppca_optimum
from sklearn.datasets import load_digits

import elbax


norm = jax.scipy.stats.norm


def digits_autoencoder(x, num_steps, batch_size=100):
    """A variational autoencoder on digits, as in the guide to minibatches."""
    keys = jax.random.split(jax.random.key(0), 4)
    decoder = elbax.Network(eqx.nn.MLP(8, 64, 128, 1, key=keys[0]))

    def log_joint(decoder, x, z):
        logits = decoder(z)
        return norm.logpdf(z).sum() + (x * logits - jax.nn.softplus(logits)).sum()

    model = elbax.Model(log_joint, latent=elbax.DiagonalGaussian(8))
    encoder = elbax.Amortized(eqx.nn.MLP(64, 16, 128, 1, key=keys[1]), model.latent)
    vae = elbax.JointGradientStep(model, optax.adam(1e-3))
    state = vae.init(decoder, encoder, key=keys[2])

    def step(state, key):
        rows = jax.random.choice(key, len(x), (batch_size,), replace=False)
        return vae(state, elbax.Batch(x[rows], weight=len(x) / batch_size))

    return model, *jax.lax.scan(step, state, jax.random.split(keys[3], num_steps))


@pytest.fixture(scope="module")
def digits():
    return jnp.asarray(load_digits().data > 7, float)


@pytest.mark.slow
def test_digits(digits, tmp_path):
    model, state, info = digits_autoencoder(digits, 1500)
    first, last = info.elbo[:20].mean(), info.elbo[-100:].mean()
    # Independent pixels reach −25.4 nats an image; a VAE that has learned digits is well above.
    rate = digits.mean(0)
    independent = jnp.sum(
        jax.scipy.special.xlogy(rate, rate) + jax.scipy.special.xlog1py(1 - rate, -rate)
    )
    assert first < independent < last - 3

    file = tmp_path / "weights.eqx"
    eqx.tree_serialise_leaves(file, (state.params, state.posterior))
    params, posterior = eqx.tree_deserialise_leaves(file, (state.params, state.posterior))
    key = jax.random.key(5)
    before = elbax.elbo(model, state.params, state.posterior, digits, key=key)
    assert elbax.elbo(model, params, posterior, digits, key=key) == before


def linear_model(dim):
    def log_joint(params, x, z):
        density = norm.logpdf(x, params["loadings"] @ z, jnp.exp(params["log_noise"]))
        return norm.logpdf(z).sum() + density.sum()

    return elbax.Model(log_joint, elbax.Gaussian(dim), conjugate=True)


@pytest.mark.slow
def test_linear_case_reaches_the_optimum_of_ppca():
    """Exact E-step, then an encoder (warmed up) in its place, then back: one model, one state."""
    x = jnp.asarray(load_digits().data[:400] / 16)
    x, dim = x - x.mean(0), 3
    best = ppca_optimum(x, dim)
    model = linear_model(dim)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "loadings": 0.1 * jax.random.normal(keys[0], (x.shape[1], dim)),
        "log_noise": jnp.array(-1.0),
    }
    model.verify(params, x[:5])

    def run(update, state, num_steps):
        return jax.jit(
            lambda s, x: jax.lax.scan(lambda s, _: update(s, x), s, length=num_steps)[0]
        )(state, x)

    def gap(state):
        value = elbax.evidence(model, state.params, x)
        described = state.params["loadings"], jnp.exp(state.params["log_noise"])
        np.testing.assert_allclose(value, linear_gaussian_evidence(*described, x).mean(), rtol=1e-9)
        return best - float(value)

    exact = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-2)))
    state = run(exact, exact.init(params, elbax.Exact(model, params), key=keys[1]), 40)
    after_exact = gap(state)
    assert after_exact > 1e-3  # Far enough from the optimum for the encoder to have work to do.

    linear = eqx.nn.Linear(x.shape[1], dim + dim * (dim + 1) // 2, key=keys[2], dtype=float)
    rate = optax.cosine_decay_schedule(3e-2, 300)
    amortize = elbax.GradientEStep(model, optax.adam(rate))
    encoder = elbax.Amortized(linear, model.latent)
    state = run(amortize, amortize.init(state.params, encoder, key=state.key), 300)
    assert gap(state) == pytest.approx(after_exact, abs=1e-12)  # θ has not moved.

    vae = elbax.JointGradientStep(model, optax.adam(optax.cosine_decay_schedule(1e-2, 600)))
    state = run(vae, vae.init(state.params, state.posterior, key=state.key), 600)
    assert gap(state) < 1e-3

    gentle = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-3)))
    bayes = elbax.Exact(model, state.params)
    state = run(gentle, gentle.init(state.params, bayes, key=state.key), 20)
    assert gap(state) < 1e-3
