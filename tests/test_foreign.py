"""Distributions of other libraries in an encoder: to be sampled and to know a density is enough."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import assert_close

import elbax


numpyro = pytest.importorskip("numpyro")
flowjax = pytest.importorskip("flowjax.distributions")

KEYS = jax.random.split(jax.random.key(0), 8)
LOADINGS = jnp.array([[1.0, 0.5], [0.3, -0.8], [-0.6, 0.2]])
X = jax.random.normal(KEYS[0], (40, 2)) @ LOADINGS.T + 0.5 * jax.random.normal(KEYS[1], (40, 3))
WEIGHTS = 0.3 * jax.random.normal(KEYS[2], (4, 3))


def log_joint(params, x, z):
    normal = jax.scipy.stats.norm.logpdf
    return normal(z).sum() + normal(x, params @ z, 0.5).sum()


MODEL = elbax.Model(log_joint, elbax.DiagonalGaussian(2))
EXACT = elbax.Model(log_joint, elbax.Gaussian(2), conjugate=True)


def linear(make):
    return elbax.Amortized(elbax.Network(lambda w, x: w @ x, WEIGHTS), make)


def of_numpyro(output):
    return numpyro.distributions.Normal(output[:2], jnp.exp(output[2:])).to_event(1)


def of_flowjax(output):
    return flowjax.Normal(output[:2], jnp.exp(output[2:]))


class Flow(eqx.Module):
    """A posterior of one's own: a normal that an affine flow of flowjax has moved."""

    weights: jax.Array
    scale: jax.Array

    def __call__(self, x, *, key=None):
        return flowjax.Normal(self.weights @ x, jnp.exp(self.scale))


FOREIGN = pytest.mark.parametrize("make", [of_numpyro, of_flowjax], ids=["numpyro", "flowjax"])


def exact_bound(weights, loadings=LOADINGS):
    """The bound of a linear encoder, in closed form."""
    output = X @ weights.T
    mean, scale = output[:, :2], jnp.exp(output[:, 2:])
    noise = ((loadings**2) @ (scale**2).T).sum(0)
    residual = ((X - mean @ loadings.T) ** 2).sum(1) + noise
    likelihood = -0.5 * residual / 0.25 - 3 * jnp.log(0.5 * jnp.sqrt(2 * jnp.pi))
    kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * jnp.log(scale)).sum(1)
    return (likelihood - kl).mean()


def value_and_slope(posterior, model, keys):
    """Mean and standard error over keys of the bound and of its slope in the encoder's weights."""

    def bound(weights, key):
        at = eqx.tree_at(lambda q: q.network.weights, posterior, weights)
        return elbax.elbo(model, LOADINGS, at, X, key=key)

    each = jax.jit(jax.vmap(jax.value_and_grad(bound), (None, 0)))(WEIGHTS, keys)
    mean = jax.tree.map(lambda leaf: leaf.mean(0), each)
    error = jax.tree.map(lambda leaf: leaf.std(0) / len(keys) ** 0.5, each)
    return mean, error


@FOREIGN
@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        elbax.Model(log_joint, MODEL.latent, estimator=elbax.estimators.StickingTheLanding(2)),
        EXACT,
    ],
    ids=["reparameterized", "sticking", "conjugate"],
)
def test_bound_and_slope_are_those_of_the_same_family_of_ours(make, model):
    """Within five standard errors of the closed form."""
    theirs, error = value_and_slope(linear(make), model, jax.random.split(KEYS[3], 400))
    ours = jax.jit(jax.value_and_grad(exact_bound))(WEIGHTS)
    for mine, other, slack in zip(
        jax.tree.leaves(ours), jax.tree.leaves(theirs), jax.tree.leaves(error), strict=True
    ):
        assert np.all(np.abs(mine - other) < 5 * slack + 1e-12)
        assert np.all(slack < 0.1 * (1 + np.abs(mine)))


@pytest.mark.slow
@FOREIGN
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "by turns"])
def test_an_encoder_of_theirs_is_trained_to_the_evidence(make, joint):
    """The true conditional is not diagonal, so a gap is left; ours of the same family ends at the same bound."""
    # Without a decay both ends would be as far from the best weights as their last draws take them.
    rate = optax.adam(optax.cosine_decay_schedule(0.03, 400))
    ends = []
    for q in (linear(make), linear(elbax.DiagonalGaussian(2))):
        step = elbax.GradientEStep(MODEL, rate)
        update = elbax.JointGradientStep(MODEL, rate) if joint else step
        state = update.init(LOADINGS, q, key=KEYS[4])
        state, _ = jax.jit(lambda s, u=update: jax.lax.scan(lambda s, _: u(s, X), s, length=400))(
            state
        )
        ends.append(float(exact_bound(state.posterior.network.weights, state.params)))
    assert abs(ends[0] - ends[1]) < 0.01
    assert ends[0] > float(exact_bound(WEIGHTS)) + 0.1


def test_a_posterior_of_ones_own_and_all_that_is_made_of_it():
    flow = Flow(WEIGHTS[:2], jnp.zeros(2))
    keys = jax.random.split(KEYS[6], 300)
    bound = lambda q, model=MODEL: jax.vmap(lambda key: elbax.elbo(model, LOADINGS, q, X, key=key))(
        keys
    )
    plain = bound(flow)
    several = bound(elbax.posteriors.MonteCarlo(flow, 8))
    assert abs(several.mean() - plain.mean()) < 5 * plain.std() / 300**0.5
    assert several.std() < 0.6 * plain.std()
    target = elbax.Exact(MODEL, LOADINGS)
    tighter = bound(elbax.posteriors.Importance(flow, target, 16)).mean()
    log_evidence = elbax.evidence(EXACT, LOADINGS, X)
    assert plain.mean() < tighter < log_evidence + 0.05
    terms = elbax.elbo_terms(MODEL, LOADINGS, flow, X, key=keys[0])
    assert_close(terms.expected_log_joint + terms.entropy, terms.elbo, 1e-12)


def test_sleep_and_annealed_steps_of_theirs():
    def dream(params, key):
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (2,))
        return params @ z + 0.5 * jax.random.normal(key_x, (3,)), z

    sleep = elbax.SleepEStep(MODEL, optax.adam(0.01), dream, num_samples=5)
    warm = elbax.wrappers.Anneal(elbax.GradientEStep(MODEL, optax.adam(0.01)), lambda step: 0.5)
    for update in (sleep, warm):
        state = update.init(LOADINGS, linear(of_numpyro), key=KEYS[7])
        moved, _ = jax.jit(lambda state, u=update: u(state, X))(state)
        change = moved.posterior.network.weights - WEIGHTS
        assert np.all(np.isfinite(change)) and np.any(change != 0)


def test_an_estimate_is_not_called_a_fall():
    """A closed form under an encoder of theirs: the bound falls by chance, and the fit goes on."""
    analysis = elbax.FactorAnalysis(2)
    params = analysis.init(KEYS[0], X)
    step = elbax.ClosedFormMStep(analysis)
    state = step.init(params, linear(of_numpyro), key=KEYS[1])
    result = elbax.fit(step, state, X, max_steps=30)
    assert np.any(np.diff(result.trace) < -1e-3)
    assert result.code != "decreased"


def test_discrete_ones_have_their_score():
    def mixture(params, x, z):
        return jnp.log(0.5) + jax.scipy.stats.norm.logpdf(x, params[z]).sum()

    model = elbax.Model(mixture, elbax.Categorical(2))
    means, x = jnp.array([[-1.0], [1.5]]), X[:, :1]
    make = lambda out: numpyro.distributions.CategoricalLogits(out)
    weights = jnp.array([[0.7], [-0.4]])
    keys = jax.random.split(KEYS[3], 2000)

    def bound(weights, make, key):
        q = elbax.Amortized(elbax.Network(lambda w, x: w @ x, weights), make)
        return elbax.elbo(model, means, elbax.posteriors.MonteCarlo(q, 2), x, key=key)

    def enumerated(weights):
        q = jax.nn.softmax(x @ weights.T)
        joint = jax.vmap(lambda x: jnp.array([mixture(means, x, z) for z in (0, 1)]))(x)
        return jnp.sum(q * (joint - jnp.log(q)), 1).mean()

    slopes = jax.jit(jax.vmap(jax.grad(lambda w, key: bound(w, make, key)), (None, 0)))(
        weights, keys
    )
    error = slopes.std(0) / len(keys) ** 0.5
    assert np.all(np.abs(slopes.mean(0) - jax.jit(jax.grad(enumerated))(weights)) < 5 * error)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda out: numpyro.distributions.Normal(out[:2], jnp.exp(out[2:])), "to_event"),
        (lambda out: out, "a distribution, an object with sample"),
    ],
    ids=["two densities", "no distribution"],
)
def test_what_is_no_distribution_of_a_datum_is_told(make, words):
    with pytest.raises(TypeError, match=words):
        elbax.elbo(MODEL, LOADINGS, linear(make), X)


def test_what_needs_a_family_says_so(as_users_run):
    exact = elbax.Exact(MODEL, LOADINGS)
    with pytest.raises(TypeError, match="the family of the encoder must be a family"):
        elbax.posteriors.SemiAmortized(linear(of_numpyro), exact, optax.sgd(0.1), 2)
    with pytest.raises(TypeError, match="or a function from the network's output"):
        elbax.Amortized(elbax.Network(lambda w, x: w @ x, WEIGHTS), 3)
    quadrature = elbax.Model(log_joint, MODEL.latent, estimator=elbax.estimators.Quadrature(5))
    with pytest.raises(TypeError, match="no natural parameters"):
        elbax.elbo(quadrature, LOADINGS, linear(of_numpyro), X)
    drawn = elbax.posteriors.MonteCarlo(linear(of_numpyro), 3)(X[0], key=KEYS[0])
    with pytest.raises(TypeError, match="statistics are not known outside"):
        drawn.mean()
