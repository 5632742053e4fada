"""Sizes at which batched LAPACK calls made a program wait for ever on two cores, each in a process of its own."""

import os
import subprocess
import sys

import pytest


RESTARTS = """
import elbax, jax, numpy as np
from sklearn.datasets import load_breast_cancer
x = load_breast_cancer().data
x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
model = elbax.GaussianMixture(4)
em = elbax.em(model)

@jax.jit
@jax.vmap
def start(key):
    params = model.init(key, x)
    return em.init(params, key=key)

for seed in range(2):
    states = start(jax.random.split(jax.random.key(seed), 8))
    fits = elbax.fit_restarts(em, states, x, max_steps=100)
    print(fits.elbo)
"""

CHUNKS = """
import elbax, jax
x = jax.random.normal(jax.random.key(0), (20_000, 32))
model = elbax.GaussianMixture(16)
params = model.init(jax.random.key(1), x)
em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size=250))
state = em.init(params, key=jax.random.key(2))
run = jax.jit(lambda state, x: jax.lax.scan(lambda s, _: em(s, x), state, length=20))
for _ in range(2):
    print(run(state, x)[1].elbo[-1])
"""

ENCODER = """
import elbax, equinox as eqx, jax, jax.numpy as jnp, optax
keys, dim = jax.random.split(jax.random.key(0), 4), 80
x = jax.random.normal(keys[0], (50, 12))
def log_joint(decoder, x, z):
    norm = jax.scipy.stats.norm
    return norm.logpdf(z).sum() + norm.logpdf(x, decoder @ z).sum()
model = elbax.Model(log_joint, elbax.Gaussian(dim))
network = eqx.nn.Linear(12, dim + dim * (dim + 1) // 2, key=keys[1])
network = jax.tree.map(lambda leaf: 0.05 * leaf, network)
step = elbax.JointGradientStep(model, optax.adam(1e-4))
decoder = jax.random.normal(keys[2], (12, dim)) / dim**0.5
state = step.init(decoder, elbax.Amortized(network, model.latent), key=keys[3])
run = jax.jit(lambda state, x: jax.lax.scan(lambda s, _: step(s, x), state, length=80))
for _ in range(2):
    print(run(state, x)[1].elbo[-1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [RESTARTS, CHUNKS, ENCODER], ids=["restarts", "chunks", "encoder"])
def test_it_returns(code):
    """Two threads, as the programs waited for each other on, whatever the machine has."""
    environment = os.environ | {"NPROC": "2", "XLA_FLAGS": ""}
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=150,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
