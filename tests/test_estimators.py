"""Estimators of the bound against its closed form: values, gradients, variances."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbax
from elbax import estimators
from elbax.estimators._estimator import draws


X, NOISE = 1.3, 0.6
FAMILY = elbax.DiagonalGaussian(1)
POINT = {"slope": jnp.array(0.8), "q": jnp.array([0.2, -0.4])}


def log_joint(slope, z):
    norm = jax.scipy.stats.norm
    return (norm.logpdf(z) + norm.logpdf(X, slope * z, NOISE))[0]


def bound(point):
    """E_q[log p(x, z)] + H(q), by hand."""
    mean, sd = point["q"][0], jnp.exp(point["q"][1])
    slope = point["slope"]
    prior = -0.5 * (mean**2 + sd**2 + jnp.log(2 * jnp.pi))
    error = (X - slope * mean) ** 2 + (slope * sd) ** 2
    likelihood = -0.5 * (error / NOISE**2 + jnp.log(2 * jnp.pi * NOISE**2))
    return prior + likelihood + 0.5 * jnp.log(2 * jnp.pi * jnp.e) + point["q"][1]


def log_evidence(slope):
    return jax.scipy.stats.norm.logpdf(X, 0.0, jnp.sqrt(slope**2 + NOISE**2))


def posterior(slope):
    """The output that stands for p(z | x)."""
    precision = 1 + (slope / NOISE) ** 2
    return jnp.stack([slope * X / NOISE**2 / precision, -0.5 * jnp.log(precision)])


def estimate(estimator, point, key):
    q = FAMILY(FAMILY.from_network(point["q"]))
    return estimator(lambda z: log_joint(point["slope"], z), q, key)


@eqx.filter_jit
def many(estimator, point, key, number):
    """Values and gradients of that many estimates."""
    one = jax.value_and_grad(lambda point, key: estimate(estimator, point, key))
    return jax.vmap(one, (None, 0))(point, jax.random.split(key, number))


def assert_unbiased(found, expected):
    """The mean is within five standard errors."""
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = np.std(ours, 0) / np.sqrt(len(ours))
        assert (np.abs(np.mean(ours, 0) - theirs) <= 5 * error + 1e-9).all(), (
            np.mean(ours, 0),
            theirs,
            error,
        )


@pytest.mark.parametrize(
    "estimator",
    [
        estimators.Reparameterized(2),
        estimators.StickingTheLanding(2),
        estimators.ScoreFunction(4),
    ],
    ids=lambda e: type(e).__name__,
)
def test_unbiased_for_the_bound(estimator):
    value, slope = many(estimator, POINT, jax.random.key(0), 20_000)
    assert_unbiased((value, slope), jax.jit(jax.value_and_grad(bound))(POINT))


def two_draws(point):
    """E log of the mean of two weights, by quadrature over both draws' noise."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    mean, sd = point["q"][0], jnp.exp(point["q"][1])
    z = mean + sd * points
    density = jax.scipy.stats.norm.logpdf(z, mean, sd)
    log_weight = jax.vmap(lambda z: log_joint(point["slope"], z[None]))(z) - density
    both = jnp.logaddexp(log_weight[:, None], log_weight[None, :]) - jnp.log(2.0)
    return weights @ both @ weights


@pytest.mark.parametrize(
    "estimator",
    [
        estimators.ImportanceWeighted(2),
        estimators.DoublyReparameterized(2),
        estimators.ImportanceWeightedScore(2),
    ],
    ids=lambda e: type(e).__name__,
)
def test_unbiased_for_the_bound_of_two_draws(estimator):
    value, slope = many(estimator, POINT, jax.random.key(0), 20_000)
    assert_unbiased((value, slope), jax.jit(jax.value_and_grad(two_draws))(POINT))


@pytest.mark.parametrize("estimator", [estimators.Reparameterized, estimators.StickingTheLanding])
def test_one_draw_has_no_axis(estimator):
    """A network then multiplies a vector, and under `vmap` over rows a matrix in the order of its memory."""
    seen = []

    def function(z):
        seen.append(isinstance(z, jax.core.Tracer))
        return jnp.sum(z)

    q = elbax.DiagonalGaussian(2)((jnp.zeros(2), jnp.ones(2)))
    for number in (1, 2):
        estimator(number)(function, q, jax.random.key(0))
    assert seen == [False, True]


def test_more_draws_are_a_tighter_bound():
    means = [
        float(jnp.mean(many(estimators.ImportanceWeighted(n), POINT, jax.random.key(1), 5000)[0]))
        for n in (1, 4, 64)
    ]
    assert bound(POINT) - 0.05 < means[0] < means[1] < means[2] < log_evidence(POINT["slope"])


@pytest.mark.parametrize("family", [elbax.DiagonalGaussian(2), elbax.Gaussian(2)])
def test_quadrature_is_exact_for_polynomials(family):
    """A quartic by 5 points a dimension, against the moments of a normal; its gradient too."""
    output = jnp.array([0.3, -0.2, 0.1, 0.4])

    def quartic(z):
        return z[0] ** 4 + z[0] ** 2 * z[1] - 2 * z[1]

    def by_hand(output):
        m, v = output[:2], jnp.exp(2 * output[2:])
        fourth = m[0] ** 4 + 6 * m[0] ** 2 * v[0] + 3 * v[0] ** 2
        entropy = jnp.log(2 * jnp.pi * jnp.e) + jnp.sum(output[2:])
        return fourth + (m[0] ** 2 + v[0]) * m[1] - 2 * m[1] + entropy

    def ours(output):
        q = family(family.from_network(output))
        return estimators.Quadrature(5)(quartic, q, jax.random.key(0))

    found, expected = (jax.jit(jax.value_and_grad(f))(output) for f in (ours, by_hand))
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_quadrature_of_correlated_coordinates():
    """Full covariance: E zᵀBz by hand."""
    precision = jnp.array([[2.0, 0.7], [0.7, 1.0]])
    q = elbax.Gaussian(2)((jnp.array([1.0, -1.0]), precision))
    B = jnp.array([[1.0, 3.0], [0.0, 2.0]])
    covariance = jnp.linalg.inv(precision)
    mean = covariance @ jnp.array([1.0, -1.0])
    expected = jnp.trace(B @ covariance) + mean @ B @ mean + q.entropy()
    found = estimators.Quadrature(3)(lambda z: z @ B @ z, q, jax.random.key(0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


CHOICE = elbax.Categorical(3)
PAYOFF = jnp.array([0.3, -1.0, 2.0])


def choose(estimator, logits, key):
    """Payoffs of a choice, or of shares of it."""

    def log_joint(z):
        return PAYOFF @ z if z.ndim else PAYOFF[z]

    return estimator(log_joint, CHOICE(logits), key)


def exact_choice(logits):
    share = jax.nn.softmax(logits)
    return share @ (PAYOFF - jnp.log(share))


LOGITS = jnp.array([0.5, 0.1, -0.3])


def test_enumeration_is_the_sum():
    found = choose(estimators.Enumeration(), LOGITS, jax.random.key(0))
    np.testing.assert_allclose(found, exact_choice(LOGITS), rtol=1e-12)


def choices(estimator, number=20_000):
    one = jax.value_and_grad(lambda logits, key: choose(estimator, logits, key))
    keys = jax.random.split(jax.random.key(2), number)
    return jax.jit(jax.vmap(one, (None, 0)))(LOGITS, keys)


def test_scores_of_choices_are_unbiased():
    expected = jax.jit(jax.value_and_grad(exact_choice))(LOGITS)
    assert_unbiased(choices(estimators.ScoreFunction(3)), expected)


@pytest.mark.parametrize("number", [2, 3])
def test_scores_of_several_choices_are_unbiased(number):
    """An estimate is a function of the draws; its mean over all tuples of them, weighted by their probability, is
    the bound of that many draws and its slope, to rounding."""
    estimator = estimators.ImportanceWeightedScore(number)

    def one(point, key):
        def log_joint(z):
            return point["payoff"][z]

        return estimator(log_joint, CHOICE(point["logits"]), key)

    point = {"logits": LOGITS, "payoff": PAYOFF}
    keys = jax.random.split(jax.random.key(3), 1000)
    found = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(point, keys)
    drawn = jax.vmap(lambda key: draws(CHOICE(LOGITS), key, number))(keys)
    tuples, first = np.unique(np.asarray(drawn), axis=0, return_index=True)
    assert len(tuples) == 3**number

    def probabilities(logits):
        return jnp.prod(jax.nn.softmax(logits)[tuples], 1)

    def expected(point):
        log_weights = point["payoff"] - jax.nn.log_softmax(point["logits"])
        bounds = jax.nn.logsumexp(log_weights[tuples], 1) - np.log(number)
        return probabilities(point["logits"]) @ bounds

    share = probabilities(LOGITS)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(jax.value_and_grad(expected)(point)), strict=True
    ):
        np.testing.assert_allclose(share @ ours[first], theirs, rtol=1e-10, atol=1e-12)


def test_each_choice_learns_what_it_added():
    """So its gradient has a third of the noise, or less, of the score times the whole bound."""
    number = 8

    def alone(logits, key):
        q = CHOICE(logits)
        z = draws(q, key, number)
        density = jax.vmap(q.log_prob)(z)
        log_weights = PAYOFF[z] - density
        bound = jax.nn.logsumexp(log_weights) - np.log(number)
        still = jax.lax.stop_gradient
        return bound + still(bound) * jnp.sum(density - still(density))

    keys = jax.random.split(jax.random.key(4), 2000)
    plain = jax.jit(jax.vmap(jax.grad(alone), (None, 0)))(LOGITS, keys)
    _, ours = choices(estimators.ImportanceWeightedScore(number), 2000)
    assert 3 * jnp.std(ours, 0).max() < jnp.std(plain, 0).min()


def test_reweighted_slopes_are_those_of_all_pairs_of_draws():
    """Of the bound in the payoffs, of the weighted log q in the logits; with many draws that of KL(p ‖ q)."""

    def one(point, key):
        payoff, logits = point
        return estimators.ReweightedWakeSleep(2)(lambda z: payoff[z], CHOICE(logits), key)

    pair = np.indices((3, 3)).reshape(2, 9)

    def log_weights(point):
        return (point[0] - jax.nn.log_softmax(point[1]))[pair]

    def expected(point, at):
        log_q, probability = jax.nn.log_softmax(point[1]), jax.nn.softmax(at[1])
        share = jax.nn.softmax(log_weights(at), axis=0)
        every = jnp.prod(probability[pair], 0)
        # Its slope at the point is that of the payoffs and of log q, at fixed weights.
        return jnp.sum(every * jnp.sum(share * (point[0][pair] + log_q[pair]), 0)), every

    point = PAYOFF, LOGITS
    keys = jax.random.split(jax.random.key(3), 20_000)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(one), (None, 0)))(point, keys)
    by_hand, every = jax.jit(jax.grad(expected, has_aux=True))(point, point)
    mean = jax.nn.logsumexp(log_weights(point), axis=0) - jnp.log(2.0)
    assert_unbiased((value, slope), (every @ mean, by_hand))

    many = lambda logits: estimators.ReweightedWakeSleep(100_000)(
        lambda z: PAYOFF[z], CHOICE(logits), jax.random.key(4)
    )
    inclusive = jax.nn.softmax(PAYOFF) - jax.nn.softmax(LOGITS)
    np.testing.assert_allclose(jax.jit(jax.grad(many))(LOGITS), inclusive, atol=0.01)


def test_relaxed_choices_come_near_as_they_cool():
    """A payoff that is no linear function: the bias of the gradient shrinks with the temperature."""

    def curved(estimator, logits, key):
        payoff = lambda z: jnp.sum(PAYOFF * z**2)
        return estimator(payoff, CHOICE(logits), key)

    keys = jax.random.split(jax.random.key(2), 40_000)
    expected = jax.jit(jax.grad(exact_choice))(LOGITS)

    def bias(temperature):
        one = jax.grad(lambda e, key: curved(estimators.GumbelSoftmax(1, temperature), e, key))
        found = jax.jit(jax.vmap(one, (None, 0)))(LOGITS, keys)
        return float(jnp.max(jnp.abs(jnp.mean(found, 0) - expected)))

    warm, cool = bias(2.0), bias(0.2)
    assert cool < 0.05 < 0.2 < warm


def test_no_noise_where_the_landing_is():
    """At q = p(z | x) every draw gives the encoder the same gradient, zero."""
    point = POINT | {"q": posterior(POINT["slope"])}
    _, slope = many(estimators.StickingTheLanding(1), point, jax.random.key(0), 100)
    np.testing.assert_allclose(slope["q"], 0, atol=1e-13)
    _, noisy = many(estimators.Reparameterized(1), point, jax.random.key(0), 100)
    assert np.std(noisy["q"], 0).min() > 0.1


@pytest.mark.slow
def test_signal_and_noise_of_many_draws():
    """The encoder's gradient: |mean| / sd falls as K^-1/2 for IWAE and rises as K^1/2 for DReG (Rainforth et
    al. 2018,
    Tucker et al. 2019)."""
    numbers = np.array([32, 128, 512])

    def signal_to_noise(estimator):
        _, slope = many(estimator, POINT, jax.random.key(5), 16_000)
        gradient = np.asarray(slope["q"][:, 0])
        return abs(gradient.mean()) / gradient.std()

    for kind, expected in [
        (estimators.ImportanceWeighted, -0.5),
        (estimators.DoublyReparameterized, 0.5),
    ]:
        ratios = [signal_to_noise(kind(int(n))) for n in numbers]
        slope = np.polyfit(np.log(numbers), np.log(ratios), 1)[0]
        assert abs(slope - expected) < 0.1, (kind, ratios, slope)


@pytest.mark.parametrize(
    ("estimator", "family", "message"),
    [
        (estimators.Reparameterized(), CHOICE, "discrete Categorical.*ScoreFunction"),
        (estimators.DoublyReparameterized(), CHOICE, "discrete"),
        (estimators.Enumeration(), FAMILY, "finitely many.*DiagonalGaussian"),
        (estimators.GumbelSoftmax(), FAMILY, "GumbelSoftmax: the latent must be Categorical"),
        (estimators.Quadrature(), CHOICE, "Quadrature: the latent must be Gaussian"),
        (estimators.Quadrature(20), elbax.Gaussian(9), "more than 131072"),
    ],
)
def test_what_an_estimator_cannot_serve(estimator, family, message):
    with pytest.raises(TypeError, match=message):
        elbax.Model(lambda params, x, z: 0.0, family, estimator=estimator)


def test_numbers_are_checked(as_users_run):
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        estimators.ScoreFunction(1)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        estimators.Reparameterized(0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        estimators.GumbelSoftmax(temperature=0.0)
    with pytest.raises(ValueError, match="num_samples must be at least 2, got 1"):
        estimators.ImportanceWeightedScore(1)
    with pytest.raises(TypeError, match="one of elbax.estimators"):
        elbax.Model(lambda params, x, z: 0.0, FAMILY, estimator="exact")


def test_a_model_that_draws_knows_no_bayes_rule():
    model = elbax.Model(
        lambda params, x, z: PAYOFF[z], CHOICE, estimator=estimators.ScoreFunction(2)
    )
    assert not model.exact
    with pytest.raises(TypeError, match=r"estimator=ScoreFunction\(...\)\) samples"):
        elbax.Exact(model, ())(jnp.zeros(1))
