"""Independent latents of several families: sums by hand over all values are the oracle."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_estimators import assert_unbiased

import elbax
from elbax import estimators
from elbax.families import Bernoulli, Copies, MarkovChain, Product


KEYS = jax.random.split(jax.random.key(0), 6)
FAMILY = Product(
    digits=Copies(elbax.Categorical(3)), flag=Bernoulli(), place=elbax.DiagonalGaussian(2)
)
OUTPUT = {
    "digits": jax.random.normal(KEYS[0], (2, 3)),
    "flag": jnp.array(0.3),
    "place": jnp.array([0.1, 0.2, -0.3, 0.4]),
}
PAYOFF = jax.random.normal(KEYS[1], (3, 3))
SLOPE = jax.random.normal(KEYS[2], (2,))


def log_joint(scale, x, z):
    """Every part is coupled to every other."""
    first, second = z["digits"]
    flag = z["flag"].astype(float)
    here = PAYOFF[first, second] * (0.5 + flag) + (z["place"] @ SLOPE) * (
        flag + first.astype(float)
    )
    return scale * here - 0.5 * jnp.sum(z["place"] ** 2)


def bound(output, scale):
    """E_q[log p] + H(q) by hand: the log-joint is quadratic in the place, whose moments are known."""
    mean, deviation = output["place"][:2], jnp.exp(output["place"][2:])
    shares = jax.nn.softmax(output["digits"])
    on = jax.nn.sigmoid(output["flag"])
    total = -0.5 * jnp.sum(mean**2 + deviation**2)
    for first, second, flag in itertools.product(range(3), range(3), range(2)):
        weight = shares[0, first] * shares[1, second] * jnp.where(flag, on, 1 - on)
        here = PAYOFF[first, second] * (0.5 + flag) + (mean @ SLOPE) * (flag + first)
        total += weight * scale * here
    entropies = -jnp.sum(shares * jnp.log(shares)) - on * jnp.log(on) - (1 - on) * jnp.log(1 - on)
    return total + entropies + jnp.sum(output["place"][2:]) + jnp.log(2 * jnp.pi * jnp.e)


def estimate(estimator, output, scale, key):
    model = elbax.Model(log_joint, FAMILY, estimator=estimator)
    return model.elbo(scale, None, FAMILY.distribution(output), key)


@pytest.mark.parametrize(
    "estimator",
    [estimators.Enumeration(), estimators.LocalExpectation(), estimators.ScoreFunction(3)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_values_and_gradients_are_those_of_the_bound(estimator):
    """On average; the gradient of a part that is summed out with all others has no noise at all."""
    slope = jax.value_and_grad(lambda *given: estimate(estimator, *given), argnums=(0, 1))
    keys = jax.random.split(KEYS[3], 4000)
    found = jax.jit(jax.vmap(slope, (None, None, 0)))(OUTPUT, jnp.array(0.7), keys)
    expected = jax.jit(jax.value_and_grad(bound, argnums=(0, 1)))(OUTPUT, jnp.array(0.7))
    assert_unbiased(found, expected)


def test_fewer_parts_are_drawn_with_less_noise():
    def noise(estimator):
        slope = jax.grad(lambda output, key: estimate(estimator, output, jnp.array(0.7), key))
        found = jax.jit(jax.vmap(slope, (None, 0)))(OUTPUT, jax.random.split(KEYS[4], 1000))
        return sum(np.var(leaf, axis=0).sum() for leaf in jax.tree.leaves(found))

    joint, local, score = map(
        noise,
        [estimators.Enumeration(), estimators.LocalExpectation(), estimators.ScoreFunction(2)],
    )
    assert joint < local < 0.5 * score


def test_relaxed_parts_tend_to_the_corners():
    """At a low temperature the value of a relaxed vector of categories is that of the categories."""
    family = Copies(elbax.Categorical(3))
    soft = lambda scale, x, z: scale * (z[0] @ PAYOFF @ z[1])
    hard = lambda scale, x, z: scale * PAYOFF[z[0], z[1]]
    q = family.distribution(OUTPUT["digits"])
    relaxed = elbax.Model(soft, family, estimator=estimators.GumbelSoftmax(2000, temperature=0.02))
    exact = elbax.Model(hard, family, estimator=estimators.Enumeration())
    found = jax.jit(relaxed.elbo)(jnp.array(0.7), None, q, KEYS[5])
    expected = exact.elbo(jnp.array(0.7), None, q, KEYS[5])
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_the_density_is_that_of_the_parts():
    q = FAMILY.distribution(OUTPUT)
    z = q.sample(KEYS[0])
    parts = [
        np.sum(np.log(jax.nn.softmax(OUTPUT["digits"]))[np.arange(2), z["digits"]]),
        np.log(jax.nn.sigmoid(jnp.where(z["flag"], 1, -1) * OUTPUT["flag"])),
        jax.scipy.stats.norm.logpdf(
            z["place"], OUTPUT["place"][:2], jnp.exp(OUTPUT["place"][2:])
        ).sum(),
    ]
    np.testing.assert_allclose(q.log_prob(z), sum(parts), rtol=1e-12)
    rows = jax.vmap(FAMILY.distribution)(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), OUTPUT))
    many = rows.sample(KEYS[1])
    assert rows.log_prob(many).shape == (2,)
    assert rows.mode()["digits"].shape == (2, 2)


def test_an_encoder_of_a_product_learns():
    """Two clusters along a line, and the place in each: a category and a number."""
    family = Product(k=elbax.Categorical(2), u=elbax.DiagonalGaussian(1))
    norm = jax.scipy.stats.norm

    def log_joint(params, x, z):
        center = params[z["k"]]
        prior = norm.logpdf(z["u"][0]) - jnp.log(2.0)
        return prior + norm.logpdf(x, center + 0.5 * z["u"][0], 0.2)

    model = elbax.Model(log_joint, family)
    weights = {"k": jnp.zeros((2, 3)), "u": jnp.zeros((2, 3))}
    # The place is a linear function of x on either side.
    features = lambda x: jnp.stack([jnp.ones_like(x), x, jnp.sign(x)])
    apply = lambda weights, x: {n: w @ features(x) for n, w in weights.items()}
    encoder = elbax.Amortized(elbax.Network(apply, weights), family)
    x = jnp.concatenate([jnp.linspace(-2.5, -1.5, 10), jnp.linspace(1.5, 2.5, 10)])
    summed = elbax.Model(log_joint, family, estimator=estimators.Enumeration())
    step = elbax.JointGradientStep(summed, optax.adam(0.03))
    state = step.init(jnp.array([-1.0, 1.0]), encoder, key=KEYS[0])
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: step(s, x), state, length=1500))
    state, _ = run(state)
    labels = jax.vmap(state.posterior)(x).mode()["k"]
    np.testing.assert_array_equal(labels, np.repeat([0, 1], 10))
    np.testing.assert_allclose(state.params, [-2.0, 2.0], atol=0.1)
    # Without an estimator of its own the model uses the score function.
    assert isinstance(model._estimator(state.posterior(x[0])), estimators.ScoreFunction)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Product(), ValueError, "all by name or all without"),
        (
            lambda: Product(elbax.Categorical(2), a=Bernoulli()),
            ValueError,
            "all by name or all without",
        ),
        (lambda: Product(a=3), TypeError, "a factor must be a family, got a int"),
        (
            lambda: FAMILY.distribution({"digits": OUTPUT["digits"]}),
            ValueError,
            "the output for each of",
        ),
        (
            lambda: elbax.Model(log_joint, FAMILY, estimator=estimators.Reparameterized()),
            TypeError,
            "got a discrete Product latent",
        ),
        (
            lambda: elbax.Model(
                log_joint, Copies(elbax.DiagonalGaussian(1)), estimator=estimators.Enumeration()
            ),
            TypeError,
            "Enumeration: the latent must have finitely many values",
        ),
        (
            lambda: elbax.Model(
                log_joint,
                Product(elbax.Categorical(2), MarkovChain(2)),
                estimator=estimators.LocalExpectation(),
            ),
            TypeError,
            "LocalExpectation: the latent must have finitely many values",
        ),
        (
            lambda: elbax.Model(log_joint, MarkovChain(2), estimator=estimators.GumbelSoftmax()),
            TypeError,
            "GumbelSoftmax: the latent must be Categorical",
        ),
        (
            lambda: estimators.Enumeration()(
                lambda z: 0.0, Copies(elbax.Categorical(9))(jnp.zeros((5, 9))), KEYS[0]
            ),
            ValueError,
            "59049 combinations of values, more than 4096. Use LocalExpectation",
        ),
    ],
)
def test_errors_teach(make, error, words, as_users_run):
    with pytest.raises(error, match=words):
        make()
