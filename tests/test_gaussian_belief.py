"""Gaussian beliefs by draws: exact evidences, quadrature and moments as oracles."""

import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
import sklearn.datasets
from cases import sweeps, SYSTEMS
from flax import nnx

import elbax
from elbax._reference import split_coordinates
from elbax.beliefs import GaussianBelief
from elbax.beliefs._whitened import Independent, Joint


NOISE = 0.5


def regression(params, x):
    inputs, target = x
    return jax.scipy.stats.norm.logpdf(target, inputs @ params["slopes"], NOISE)


def logistic(params, x):
    inputs, label = x
    return -jax.nn.softplus(-(2 * label - 1) * (inputs @ params))


@functools.cache
def lines(num_data=60):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(num_data, 3)) @ [[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]]
    target = inputs @ [1.0, -0.5, 0.3] + NOISE * rng.normal(size=num_data)
    return jnp.asarray(inputs), jnp.asarray(target)


def exact_line():
    """The posterior of the regression under N(0, 1) and its evidence in all: (mean, covariance, log p)."""
    inputs, target = map(np.asarray, lines())
    covariance = np.linalg.inv(np.eye(3) + inputs.T @ inputs / NOISE**2)
    spread = inputs @ inputs.T + NOISE**2 * np.eye(len(target))
    evidence = scipy.stats.multivariate_normal.logpdf(target, np.zeros(len(target)), spread)
    return covariance @ inputs.T @ target / NOISE**2, covariance, evidence


def of_lines(**options):
    return elbax.Bayesian(elbax.Model(regression), GaussianBelief(1.0, **options))


def started(bayesian, params, x):
    return bayesian.start(params, x), elbax.Exact(bayesian, bayesian.start(params, x))


SLOPES = {"slopes": jnp.zeros(3)}
FULL = {"full": lambda params: params["slopes"]}
PAIRS = {"num_samples": 2, "antithetic": True, "draws": "datum"}


def trained(bayesian, m_step, params, x, length):
    update = elbax.Chain(elbax.ExactEStep(bayesian), m_step)
    state = update.init(bayesian.start(params, x), key=jax.random.key(3))
    return sweeps(update, state, x, length)


def test_a_full_covariance_is_the_posterior_and_its_bound_the_evidence():
    bayesian = of_lines(**FULL, num_samples=10, antithetic=True)
    rate = optax.exponential_decay(3e-2, 1000, 0.2)
    state, _ = trained(
        bayesian, elbax.GradientMStep(bayesian, optax.adam(rate)), SLOPES, lines(), 3000
    )
    mean, covariance, evidence = exact_line()
    deviations = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(state.params["mean"]["slopes"] - mean) < 0.05 * deviations)
    _, (normal,) = bayesian.belief._normals(state.params)
    gap = np.asarray(normal.mean) - mean
    inverse, factor = np.linalg.inv(covariance), np.asarray(normal.factor)
    log_ratio = np.linalg.slogdet(covariance)[1] - 2 * np.log(np.diag(factor)).sum()
    divergence = 0.5 * (np.trace(inverse @ factor @ factor.T) - 3 + log_ratio + gap @ inverse @ gap)
    assert divergence < 0.02
    draws = jax.vmap(lambda key: bayesian.sample_params(state.params, key)["slopes"])
    found = np.cov(draws(jax.random.split(jax.random.key(0), 20000)).T)
    np.testing.assert_allclose(found, factor @ factor.T, atol=0.05 * np.diag(covariance).max())
    bound = jax.jit(
        lambda key: elbax.elbo(bayesian, state.params, state.posterior, lines(), key=key)
    )
    bounds = 60 * jax.lax.map(bound, jax.random.split(jax.random.key(1), 2000))
    error = 4.5 * bounds.std() / np.sqrt(2000)
    assert abs(bounds.mean() - (evidence - divergence)) < error < 0.1


@functools.cache
def flowers():
    """Two inputs and a label of 400 rows, and the posterior under N(0, 9) on a grid."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
    label = (rng.random(400) < 1 / (1 + np.exp(-inputs @ [1.5, -1.0]))).astype(float)
    axis = np.linspace(-3.0, 4.0, 281)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    scores = grid @ (inputs * (2 * label - 1)[:, None]).T
    log_joint = -np.logaddexp(0, -scores).sum(1) + scipy.stats.norm.logpdf(grid, 0, 3.0).sum(1)
    top = log_joint.max()
    weights = np.exp(log_joint - top)
    evidence = top + np.log(weights.sum() * (axis[1] - axis[0]) ** 2)
    weights /= weights.sum()
    mean = weights @ grid
    deviations = np.sqrt(weights @ (grid - mean) ** 2)
    return (jnp.asarray(inputs), jnp.asarray(label)), mean, deviations, evidence


def test_natural_gradients_of_a_logistic_regression():
    """The evidence to 0.1 nats in all and the deviations to 2 %, beside quadrature."""
    x, mean, deviations, evidence = flowers()
    bayesian = elbax.Bayesian(
        elbax.Model(logistic), GaussianBelief(3.0, full=lambda params: params, **PAIRS)
    )
    step = elbax.OnlineMStep(bayesian, rate=lambda t: (t + 10.0) ** -0.7)
    state, info = trained(bayesian, step, jnp.zeros(2), x, 300)
    assert abs(400 * info.elbo[-50:].mean() - evidence) < 0.1
    assert np.all(np.abs(state.params["mean"] - mean) < 0.05 * deviations)
    _, (normal,) = bayesian.belief._normals(state.params)
    np.testing.assert_allclose(np.sqrt(normal.variance), deviations, rtol=0.02)


def gates(params, x):
    inputs, label = x
    return jax.nn.log_softmax(params @ inputs)[label.astype(int)]


def of_gates(deviation):
    chosen = GaussianBelief(deviation, full=lambda params: params, **PAIRS)
    return elbax.Bayesian(elbax.Model(gates), chosen)


def test_natural_gradients_of_two_gates():
    """Under N(0, σ² / 2) they are the regression under N(0, σ²), and their sum keeps its prior."""
    x, mean, deviations, evidence = flowers()
    bayesian = of_gates(3.0 / np.sqrt(2))
    step = elbax.OnlineMStep(bayesian, rate=lambda t: (t + 10.0) ** -0.7)
    state, info = trained(bayesian, step, jnp.zeros((2, 2)), x, 300)
    assert abs(400 * info.elbo[-50:].mean() - evidence) < 0.1
    _, (normal,) = bayesian.belief._normals(state.params)
    covariance = np.asarray(normal.factor @ normal.factor.T).reshape(2, 2, 2, 2)
    for sign, center, spread in ((-1.0, mean, deviations), (1.0, np.zeros(2), 3.0 * np.ones(2))):
        turn = np.array([sign, 1.0])
        found = np.einsum("i,iajb,j->ab", turn, covariance, turn)
        np.testing.assert_allclose(np.sqrt(np.diag(found)), spread, rtol=0.02)
        assert np.all(np.abs(turn @ state.params["mean"] - center) < 0.05 * spread)


def test_natural_gradients_where_data_say_nothing():
    """The noise of a precision there, below 0 as often as above, must not add up: the bound diverged by it."""
    inputs, label = sklearn.datasets.load_iris(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    x = jnp.asarray(np.column_stack([np.ones(150), inputs])), jnp.asarray(label)
    bayesian = of_gates(2.0)
    step = elbax.OnlineMStep(bayesian, rate=lambda t: (t + 1.0) ** -0.7, delay=20)
    _, info = trained(bayesian, step, jnp.zeros((3, 5)), x, 300)
    # 30 000 steps of Adam end at −30.56.
    assert abs(150 * info.elbo[-100:].mean() + 30.56) < 0.3


@pytest.mark.parametrize("full", [None, lambda params: params])
def test_an_online_step_starts_from_q(full):
    """At a rate of almost 0 it changes nothing: the statistics of q give q."""
    x, *_ = flowers()
    bayesian = elbax.Bayesian(elbax.Model(logistic), GaussianBelief(3.0, full=full, **PAIRS))
    q = bayesian.start(jnp.array([0.3, -0.2]), x)
    if full is not None:
        q = q | {"lower": jnp.array([[0.0, 0.0], [0.7, 0.0]])}
    step = elbax.Chain(elbax.ExactEStep(bayesian), elbax.OnlineMStep(bayesian, rate=1e-13))
    state, _ = step(step.init(q, key=jax.random.key(0)), x)
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(q), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-9)


def test_natural_gradients_of_minibatches():
    x, mean, deviations, _ = flowers()
    bayesian = elbax.Bayesian(elbax.Model(logistic), GaussianBelief(3.0, **PAIRS))
    update = elbax.Chain(
        elbax.ExactEStep(bayesian),
        elbax.OnlineMStep(bayesian, rate=lambda t: (t + 5.0) ** -0.7),
    )
    state = update.init(bayesian.start(jnp.zeros(2), x), key=jax.random.key(0))
    rows = jax.random.randint(jax.random.key(1), (400, 40), 0, 400)

    def body(state, rows):
        return update(state, elbax.Batch((x[0][rows], x[1][rows]), weight=400 / 40))

    state, _ = jax.jit(lambda state: jax.lax.scan(body, state, rows))(state)
    assert np.all(np.abs(state.params["mean"] - mean) < 0.5 * deviations)
    # Independent normals have the deviations of the conditionals, which are smaller.
    ratio = np.exp(state.params["log_deviations"]) / deviations
    assert np.all((0.75 < ratio) & (ratio < 1.02))


NETWORK = elbax.Network(eqx.nn.MLP(3, "scalar", 1, 0, key=jax.random.key(0)))


def of_layer(params, x):
    inputs, target = x
    return jax.scipy.stats.norm.logpdf(target, params(inputs), NOISE)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("draws", ["pass", "datum", "local"])
def test_draws_average_to_the_expectation(draws, full):
    """Of a linear layer E[log N(y; w·u, σ²)] is known, and so are its derivatives."""
    inputs, target = lines()
    chosen = GaussianBelief(
        1.0, draws=draws, full=(lambda params: params.weights) if full else None
    )
    bayesian = elbax.Bayesian(elbax.Model(of_layer), chosen)
    q, posterior = started(bayesian, NETWORK, (inputs[:8], target[:8]))

    def exact(q):
        layer = jax.tree.leaves(q["mean"], is_leaf=lambda node: isinstance(node, eqx.nn.Linear))[0]
        widths = jax.tree.leaves(q["log_deviations"])
        (weight, bias), (_, _) = jax.tree.leaves(layer), widths
        s, b = (jnp.exp(2 * leaf) for leaf in widths)
        center = inputs[:8] @ weight[0] + bias
        variance = inputs[:8] ** 2 @ s[0] + b
        log_density = jax.scipy.stats.norm.logpdf(target[:8], center, NOISE)
        return jnp.sum(log_density - 0.5 * variance / NOISE**2)

    @jax.jit
    def of_draw(key):
        def bound(q):
            found = elbax.elbo(bayesian, q, posterior, (inputs[:8], target[:8]), key=key)
            return 8 * found - bayesian.log_prior(q)

        return jax.value_and_grad(bound)(q)

    values, slopes = jax.lax.map(of_draw, jax.random.split(jax.random.key(1), 4000), batch_size=500)
    value, slope = jax.value_and_grad(exact)(q)
    error = lambda draws: 4.5 * jnp.std(draws, 0) / np.sqrt(4000) + 1e-12
    assert abs(values.mean() - value) < error(values)
    for name in ("mean", "log_deviations"):
        for draws_of, truth in zip(
            jax.tree.leaves(slopes[name]), jax.tree.leaves(slope[name]), strict=True
        ):
            assert np.all(np.abs(draws_of.mean(0) - truth) < error(draws_of))


def of_linen():
    network = nn.Sequential(
        [nn.Dense(4, param_dtype=float), nn.tanh, nn.Dense(1, param_dtype=float)]
    )
    return elbax.Network(network.apply, network.init(jax.random.key(0), jnp.zeros(3)))


def of_nnx():
    layer = functools.partial(nnx.Linear, rngs=nnx.Rngs(0), param_dtype=float)
    definition, weights = nnx.split(nnx.Sequential(layer(3, 4), nnx.tanh, layer(4, 1)))
    return elbax.Network(lambda weights, inputs: nnx.merge(definition, weights)(inputs), weights)


@pytest.mark.parametrize("draws", ["pass", "datum"])
@pytest.mark.parametrize("make", [of_linen, of_nnx])
def test_networks_of_flax(make, draws):
    """Their bound and gradient are those of the same layers by hand, and they train."""
    network, x = make(), lines()
    # The leaves are the bias and the kernel of both layers.
    by_hand = jax.tree.leaves(network)

    def layers(weights, inputs):
        first, kernel, last, outer = weights
        return jnp.tanh(inputs @ kernel + first) @ outer + last

    def log_density(params, x):
        inputs, target = x
        return jax.scipy.stats.norm.logpdf(target, params(inputs)[0], NOISE)

    bayesian = elbax.Bayesian(elbax.Model(log_density), GaussianBelief(1.0, draws=draws))
    step = elbax.GradientMStep(bayesian, optax.sgd(0.1))
    state, info = trained(bayesian, step, network, x, 20)
    assert info.elbo[-5:].mean() > info.elbo[0] + 0.5
    plain, theirs = trained(bayesian, step, elbax.Network(layers, by_hand), x, 20)
    np.testing.assert_allclose(info.elbo, theirs.elbo, rtol=1e-9)
    ours, theirs = map(jax.tree.leaves, (state.params, plain.params))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def noise_of(draws):
    bayesian = elbax.Bayesian(elbax.Model(of_layer), GaussianBelief(1.0, draws=draws))
    q, posterior = started(bayesian, NETWORK, lines())
    bound = jax.jit(lambda key: elbax.elbo(bayesian, q, posterior, lines(), key=key))
    return jax.lax.map(bound, jax.random.split(jax.random.key(1), 200)).var()


def test_draws_of_every_datum_have_less_noise():
    assert noise_of("datum") < 0.5 * noise_of("pass")
    assert noise_of("local") < 0.5 * noise_of("pass")


@pytest.mark.parametrize("draws", ["pass", "datum"])
def test_chunks_have_the_same_draws(draws):
    bayesian = of_lines(draws=draws)
    q, posterior = started(bayesian, SLOPES, lines())
    key = jax.random.key(5)
    whole = elbax.elbo(bayesian, q, posterior, lines(), key=key)
    chunked = elbax.elbo(bayesian, q, posterior, lines(), key=key, chunk_size=7)
    np.testing.assert_allclose(whole, chunked, rtol=1e-12)


def test_a_prior_that_is_a_function_is_averaged_over_the_draws():
    """The normal prior, given as a density, has its closed KL on average."""
    density = lambda params: jax.scipy.stats.norm.logpdf(params["slopes"]).sum()
    closed = of_lines()
    drawn = elbax.Bayesian(elbax.Model(regression, log_prior=density), GaussianBelief())
    q = closed.start(SLOPES, lines())
    term = jax.jit(lambda key: drawn.global_term(q, key))
    found = jax.lax.map(term, jax.random.split(jax.random.key(0), 4000))
    assert abs(found.mean() - closed.log_prior(q)) < 4.5 * found.std() / np.sqrt(4000)
    terms = elbax.elbo_terms(closed, q, elbax.Exact(closed, q), lines())
    np.testing.assert_allclose(terms.global_terms["slopes"], closed.log_prior(q) / 60)
    np.testing.assert_allclose(terms.global_term, closed.log_prior(q) / 60)


def test_a_hierarchical_prior_beside_quadrature():
    """The logarithm of a prior's deviation is random too: the bound by draws is that by quadrature."""
    normal = jax.scipy.stats.norm
    inputs, target = (np.asarray(leaf)[:20] for leaf in lines())
    x = jnp.asarray(inputs[:, :1]), jnp.asarray(target)

    def log_prior(params):
        of_slopes = normal.logpdf(params["slopes"], 0.0, jnp.exp(params["log_scale"]))
        return of_slopes.sum() + normal.logpdf(params["log_scale"])

    def log_joint(log_scale, slope):
        likelihood = scipy.stats.norm.logpdf(target, np.multiply.outer(slope, inputs[:, 0]), NOISE)
        prior = scipy.stats.norm.logpdf(slope, 0, np.exp(log_scale))
        return likelihood.sum(-1) + prior + scipy.stats.norm.logpdf(log_scale)

    grid = np.meshgrid(np.linspace(-8, 6, 800), np.linspace(-1, 2.5, 700), indexing="ij")
    posterior = np.exp(log_joint(*grid))
    total = posterior.sum()
    evidence = np.log(total * (14 / 799) * (3.5 / 699))

    chosen = GaussianBelief(log_prior, full=lambda params: params, num_samples=10, antithetic=True)
    bayesian = elbax.Bayesian(elbax.Model(regression), chosen)
    start = {"log_scale": jnp.zeros(()), "slopes": jnp.zeros(1)}
    rate = optax.exponential_decay(3e-2, 400, 0.2)
    state, _ = trained(bayesian, elbax.GradientMStep(bayesian, optax.adam(rate)), start, x, 1200)
    _, (found,) = bayesian.belief._normals(state.params)
    mean, root = np.asarray(found.mean), np.asarray(found.factor)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    points = mean + np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2) @ root.T
    share = np.outer(weights, weights).ravel() / (2 * np.pi)
    bound = share @ log_joint(*points.T) + 1 + np.log(2 * np.pi * np.linalg.det(root))
    assert evidence - 0.1 < bound < evidence
    for one, axis, deviation in zip(mean, grid, np.linalg.norm(root, axis=1), strict=True):
        assert abs(one - (posterior * axis).sum() / total) < 0.15 * deviation
    exact = elbax.Exact(bayesian, state.params)
    of_key = jax.jit(lambda key: elbax.elbo(bayesian, state.params, exact, x, key=key))
    bounds = 20 * jax.lax.map(of_key, jax.random.split(jax.random.key(1), 4000))
    assert abs(bounds.mean() - bound) < 4.5 * bounds.std() / np.sqrt(4000) < 0.05


def test_learned_deviations_of_the_prior():
    """At the optimum s² is the mean of m² + v; frozen they stay."""
    bayesian = of_lines(learned=True, **FULL, **PAIRS)
    q0 = bayesian.start(SLOPES, lines())
    step = elbax.OnlineMStep(bayesian, rate=lambda t: (t + 10.0) ** -0.7)
    state, _ = trained(bayesian, step, SLOPES, lines(), 100)
    _, (normal,) = bayesian.belief._normals(state.params)
    width = jnp.exp(2 * state.params["log_prior_deviations"]["slopes"])
    np.testing.assert_allclose(width, jnp.mean(normal.variance + normal.mean**2))

    free = {name: name != "log_prior_deviations" for name in q0}
    frozen = elbax.GradientMStep(bayesian, optax.adam(1e-2), free=free)
    state, _ = trained(bayesian, frozen, SLOPES, lines(), 3)
    assert state.params["log_prior_deviations"]["slopes"] == 0
    slope = jax.grad(bayesian.log_prior)(q0)["log_prior_deviations"]["slopes"]
    width, (_, (normal,)) = 1.0, bayesian.belief._normals(q0)
    np.testing.assert_allclose(
        slope, jnp.sum((normal.variance + normal.mean**2) / width**2 - 1), rtol=1e-12
    )


def test_local_latents_beside_the_global_ones():
    """Of a mixture, with Bayes' rule at the draw of a pass, the bound is E[log p(x | θ)] − KL."""
    mixture = elbax.GaussianMixture(2, "diagonal", floor=0.0)
    x = elbax.datasets.old_faithful()[:40].astype(float)
    x = (x - x.mean(0)) / x.std(0)
    for samples in (1, 3):
        bayesian = elbax.Bayesian(mixture, GaussianBelief(1.0, num_samples=samples))
        q = bayesian.init(jax.random.key(0), x)
        posterior = elbax.Exact(bayesian, q)
        found = elbax.elbo(bayesian, q, posterior, x, key=jax.random.key(1))
        chosen = bayesian.belief
        thetas = chosen.thetas(chosen.natural(q), chosen.key_of_pass(jax.random.key(1)))
        each = jax.vmap(lambda theta: elbax.evidence(mixture, theta, x))(thetas).mean()
        expected = each + bayesian.log_prior(q) / 40
        np.testing.assert_allclose(found, expected, rtol=1e-10)
    step = elbax.Chain(elbax.ExactEStep(bayesian), elbax.GradientMStep(bayesian, optax.adam(3e-2)))
    _, info = sweeps(step, step.init(q, key=jax.random.key(2)), x, 500)
    assert info.elbo[-20:].mean() > info.elbo[:5].mean() + 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mixture-gamma", "mixture-poisson-regression", "experts", "state-space", "ctc"]
)
def test_models_without_a_conjugate_prior(name):
    """The bound is the evidence at the draw, less the divergence; its gradient is finite."""
    system = next(system for system in SYSTEMS if system.name == name)
    bayesian = elbax.Bayesian(system.model, GaussianBelief(2.0))
    q = bayesian.start(system.params, system.x)
    key = jax.random.key(1)

    @jax.jit
    def both(q):
        def bound(trained):
            now = eqx.combine(trained, rest)
            return elbax.elbo(bayesian, now, elbax.Exact(bayesian, now), system.x, key=key)

        trained, rest = split_coordinates(q)
        chosen = bayesian.belief
        thetas = chosen.thetas(chosen.natural(q), chosen.key_of_pass(key))
        theta = jax.tree.map(lambda leaf: leaf[0], thetas)
        expected = elbax.evidence(system.model, theta, system.x)
        expected += bayesian.log_prior(q) / system.num_data
        return jax.value_and_grad(bound)(trained), expected

    (found, slope), expected = both(q)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(slope["log_deviations"]))


def test_a_decoder_with_a_belief():
    """A joint step of an autoencoder moves q(decoder) and the encoder."""
    norm = jax.scipy.stats.norm

    def likelihood(decoder, x, z):
        return norm.logpdf(x, decoder(z)).sum()

    def prior(decoder, x):
        return jnp.zeros(1), jnp.ones(1)

    vae = elbax.Model(likelihood=likelihood, prior=prior, latent=elbax.DiagonalGaussian(1))
    bayesian = elbax.Bayesian(vae, GaussianBelief(1.0, draws="local"))
    keys = jax.random.split(jax.random.key(0), 3)
    decoder = elbax.Network(eqx.nn.MLP(1, 3, 4, 1, key=keys[0]))
    encoder = elbax.Amortized(eqx.nn.MLP(3, 2, 4, 1, key=keys[1]), vae.latent)
    x = lines()[0]
    step = elbax.JointGradientStep(bayesian, optax.adam(1e-2))
    state = step.init(bayesian.start(decoder, x), encoder, key=keys[2])
    end, info = sweeps(step, state, x, 200)
    assert info.elbo[-20:].mean() > info.elbo[:20].mean() + 0.1
    drawn = bayesian.sample_params(end.params, keys[0])
    assert drawn(jnp.zeros(1)).shape == (3,)


def test_the_predictive_density_is_that_of_the_exact_posterior():
    bayesian = of_lines(**FULL)
    mean, covariance, _ = exact_line()
    deviations = np.sqrt(np.diag(covariance))
    factor = np.linalg.cholesky(covariance)
    q = {
        "mean": {"slopes": jnp.asarray(mean)},
        "log_deviations": {"slopes": jnp.log(jnp.diag(factor))},
        "lower": jnp.tril(jnp.asarray(factor / np.diag(factor)[:, None]), -1),
    }
    model, draws = bayesian.predictive(q, key=jax.random.key(0), num_samples=8000)
    inputs, target = (leaf[:3] for leaf in lines())
    spread = np.sqrt(np.einsum("nd,de,ne->n", inputs, covariance, inputs) + NOISE**2)
    exact = scipy.stats.norm.logpdf(target, inputs @ mean, spread)
    found = [elbax.evidence(model, draws, (inputs[i : i + 1], target[i : i + 1])) for i in range(3)]
    np.testing.assert_allclose(found, exact, atol=0.01)
    described = bayesian.describe(q, 0.9, num_samples=8000)
    np.testing.assert_allclose(described["deviation"]["slopes"], deviations, rtol=0.05)
    with pytest.raises(TypeError, match=r"Use predictive\(q, key=key\)"):
        bayesian.predictive(q)


@pytest.mark.parametrize("kind", [Independent, Joint])
def test_moments_about_another_belief(kind):
    """E[w'] and E[w' w'ᵀ] of a cloud of points, whitened by either belief."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 3))
    make = lambda: kind(
        jnp.asarray(rng.normal(size=3)),
        jnp.asarray(
            rng.uniform(1, 2, 3)
            if kind is Independent
            else np.tril(rng.normal(size=(3, 3)), -1) + 2 * np.eye(3)
        ),
    )
    old, new = make(), make()

    def moments(normal):
        if kind is Independent:
            w = (points - normal.mean) / normal.factor
            return w.mean(0), (w**2).mean(0)
        w = np.linalg.solve(normal.factor, (points - normal.mean).T).T
        return w.mean(0), w.T @ w / len(w)

    found = old.about(*map(jnp.asarray, moments(old)), new)
    for one, other in zip(found, moments(new), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_natural_step_adds_precisions():
    """With the slope and curvature of a normal likelihood it is Bayes' rule, of both kinds."""
    rng = np.random.default_rng(1)
    gram, target, start = (
        jnp.diag(jnp.array([2.0, 5.0, 9.0])),
        *jnp.asarray(rng.normal(size=(2, 3))),
    )
    mean, covariance = np.linalg.solve(gram + np.eye(3), target), np.linalg.inv(gram + np.eye(3))
    root = jnp.asarray(np.tril(rng.normal(size=(3, 3)), -1) + np.eye(3))
    slope, prior = target - gram @ start, jnp.ones(3)
    joint = Joint(start, root)
    found = joint.posterior(prior, root.T @ slope, -0.5 * root.T @ gram @ root)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.factor @ found.factor.T, covariance, atol=1e-12)
    assert np.all(np.triu(found.factor, 1) == 0) and np.all(np.diag(found.factor) > 0)
    scale = jnp.array([1.0, 2.0, 3.0])
    alone = Independent(start, scale)
    found = alone.posterior(prior, scale * slope, -0.5 * scale**2 * jnp.diag(gram))
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.factor**2, np.diag(covariance), atol=1e-12)


def test_a_model_without_a_latent():
    model = elbax.Model(regression)
    params = {"slopes": jnp.array([1.0, -0.5, 0.3])}
    inputs, target = lines()
    expected = scipy.stats.norm.logpdf(target, inputs @ params["slopes"], NOISE).mean()
    np.testing.assert_allclose(elbax.evidence(model, params, lines()), expected, rtol=1e-12)
    step = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    state, _ = step(step.init(params, key=jax.random.key(0)), lines())
    least_squares = np.linalg.lstsq(inputs, target, rcond=None)[0]
    np.testing.assert_allclose(state.params["slopes"], least_squares, rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBelief(-1.0), "prior must be positive and finite, got -1.0"),
        (lambda: GaussianBelief({"slopes": 0.0}), "prior: slopes must be positive"),
        (lambda: GaussianBelief(lambda: 0.0), r"prior must be a function of the params"),
        (lambda: GaussianBelief(1.0, draws="row"), "must be 'pass', 'datum' or 'local'; got 'row'"),
        (lambda: GaussianBelief(1.0, antithetic=True), "antithetic draws are pairs"),
        (lambda: GaussianBelief(1.0, full=True), "full must be a function"),
        (lambda: GaussianBelief(learned=True), "Pass those to start from"),
        (
            lambda: elbax.Bayesian(elbax.Model(regression), GaussianBelief()),
            r"Pass a standard deviation, GaussianBelief\(prior=1.0\)",
        ),
        (
            lambda: elbax.Bayesian(
                elbax.Model(regression, log_prior=lambda params: 0.0), GaussianBelief(1.0)
            ),
            "Pass one of them",
        ),
        (lambda: elbax.Bayesian(elbax.Model(regression), 1.0), "belief must be an elbax.beliefs"),
        (
            lambda: of_lines(draws="local").start(SLOPES, lines()),
            "needs layers that are equinox.nn.Linear",
        ),
        (
            lambda: elbax.Bayesian(elbax.Model(regression), GaussianBelief({"w": 1.0})).start(
                SLOPES, lines()
            ),
            r"prior has the blocks \['w'\], the params have \['slopes'\]",
        ),
        (lambda: of_lines().init(jax.random.key(0), lines()), r"bayesian.start\(params, batch\)"),
        (
            lambda: elbax.em(of_lines()).init(
                of_lines().start(SLOPES, lines()), key=jax.random.key(0)
            ),
            "needs antithetic draws",
        ),
        (
            lambda: elbax.Model(regression, elbax.Categorical(2)),
            "so the model has no latent",
        ),
    ],
)
def test_refusals(make, message, as_users_run):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
