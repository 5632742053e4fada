"""The mean of a drawn bound's derivative is the derivative of its mean, for discrete draws too: by enumeration."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import elbax
from elbax.posteriors._particles import Particles


def log_joint(params, x, z):
    shares = jax.nn.log_softmax(jnp.array([1.0, 0.0, -1.0]))
    return shares[z] + jax.scipy.stats.norm.logpdf(x, jnp.array([-2.0, 0.0, 2.0])[z])


MODEL = elbax.Model(log_joint, elbax.Categorical(3))
LOGITS = jnp.array([0.4, -0.3, 0.2])
X = jnp.array(0.7)


def particles(logits, z, weighted):
    """What `MonteCarlo` or `Importance` make of these draws."""
    log_density = jax.vmap(MODEL.latent(logits).log_prob)(z)
    log_weights = jnp.zeros(len(z))
    if weighted:
        log_weights = jax.vmap(lambda z: log_joint((), X, z))(z) - log_density
    return Particles(z, jax.nn.log_softmax(log_weights), log_density, MODEL.latent)


ANSWERS = {
    "bound": lambda q: q.bound(jax.vmap(lambda z: log_joint((), X, z))(jnp.arange(3))),
    "elbo": lambda q: MODEL.elbo((), X, q, jax.random.key(0)),
    "entropy": lambda q: q.entropy(),
    "mean": lambda q: q.mean() @ jnp.array([1.0, -2.0, 0.5]),
    "expect": lambda q: q.expect(lambda z: jnp.cos(z.astype(float))),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["draws", "importance"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_score_is_unbiased(number, weighted):
    draws = jnp.array(list(itertools.product(range(3), repeat=number)))

    @jax.jit
    def slopes():
        def answers(logits, z):
            q = particles(logits, z, weighted)
            return {name: answer(q) for name, answer in ANSWERS.items()}

        def probability(logits, z):
            return jnp.exp(jnp.sum(jax.vmap(MODEL.latent(logits).log_prob)(z)))

        def mean(logits):
            values = jax.vmap(lambda z: answers(jax.lax.stop_gradient(logits), z))(draws)
            # Of the mean itself: by the draws' probabilities and by what the answers know of φ.
            fixed = jax.vmap(lambda z: probability(logits, z))(draws)
            return jax.tree.map(lambda v: fixed @ v, values)

        by_density = jax.jacobian(mean)(LOGITS)

        def plain(logits, z):
            q = eqx.tree_at(lambda q: q.family, particles(logits, z, weighted), Moving(3))
            return {name: answer(q) for name, answer in ANSWERS.items()}

        direct = jax.vmap(lambda z: jax.jacobian(plain)(LOGITS, z))(draws)
        whole = jax.vmap(lambda z: jax.jacobian(answers)(LOGITS, z))(draws)
        weight = jax.vmap(lambda z: probability(LOGITS, z))(draws)
        average = lambda tree: jax.tree.map(lambda leaf: weight @ leaf, tree)
        exact = jax.tree.map(jnp.add, by_density, average(direct))
        return exact, average(whole)

    exact, found = slopes()
    for name in ANSWERS:
        np.testing.assert_allclose(found[name], exact[name], atol=1e-12, err_msg=name)
    assert float(jnp.max(jnp.abs(exact["elbo"]))) > 1e-2


class Moving(elbax.Categorical):
    """Says that its draws move with its parameters, so that no score is added."""

    discrete = False


@pytest.mark.parametrize("kind", ["draws", "importance"])
def test_a_discrete_encoder_climbs(kind):
    """With θ fixed: from a bound of −3 to the evidence."""
    x = jnp.linspace(-3, 3, 16)
    weights = jnp.array([0.5, 0.0, -0.2]), jnp.array([0.1, 0.0, 0.3])
    encoder = elbax.Amortized(elbax.Network(lambda w, x: w[0] * x + w[1], weights), MODEL.latent)
    q = elbax.posteriors.MonteCarlo(encoder, 8)
    if kind == "importance":
        q = elbax.posteriors.Importance(encoder, elbax.Exact(MODEL, ()), 2)
    step = elbax.GradientEStep(MODEL, optax.adam(0.03))
    state = step.init((), q, key=jax.random.key(0))
    state, _ = jax.lax.scan(lambda s, _: step(s, x), state, length=600)
    learned = state.posterior.posterior if kind == "draws" else state.posterior.proposal
    evidence = elbax.evidence(MODEL, (), x)
    # Logits linear in x hold the exact posterior.
    np.testing.assert_allclose(elbax.elbo(MODEL, (), learned, x), evidence, atol=0.02)
    assert float(elbax.elbo(MODEL, (), encoder, x)) < float(evidence) - 0.3


def test_the_weights_behind_a_mode_are_not_trained():
    encoder = elbax.Amortized(elbax.Network(lambda w, x: w * x, jnp.ones(3)), MODEL.latent)
    with pytest.raises(TypeError, match="Train the posterior without Hard"):
        elbax.GradientEStep(MODEL, optax.adam(0.1)).init(
            (), elbax.posteriors.Hard(encoder), key=jax.random.key(0)
        )
