"""Beliefs over params: exact evidences, enumeration, quadrature and scikit-learn as oracles."""

import functools
import itertools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from cases import sweeps
from scipy.special import digamma, gammaln, multigammaln
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

import elbax
from elbax import components, priors


MEAN, SHRINKAGE, DOF = np.array([0.5, -0.5]), 0.7, 4.0
SCALE = np.array([[1.0, 0.2], [0.2, 0.5]])
PRIOR = priors.NormalInverseWishart(MEAN, SHRINKAGE, DOF, SCALE)


def points(num_data=30, seed=0):
    return np.random.default_rng(seed).normal([1.0, 2.0], [1.0, 2.0], (num_data, 2))


def counts(num_data=30):
    return np.random.default_rng(1).poisson([2.0, 4.0], (num_data, 2)).astype(float)


def one(component):
    return elbax.Bayesian(elbax.Mixture(component, 1, prior=priors.Dirichlet(1.0)))


@eqx.filter_jit
def believed(bayesian, params, x):
    """q after one exact step, and its bound."""
    em = elbax.em(bayesian)
    state = em.init(bayesian.start(params, x), key=jax.random.key(0))
    state, _ = em(state, x)
    bound = elbax.elbo(bayesian, state.params, elbax.Exact(bayesian, state.params), x)
    return state.params, len(x) * bound


def fitted_one(component, x):
    """The belief of a single component, which one step finds, and its bound in all."""
    bayesian = one(component)
    params = bayesian.model.init(jax.random.key(0), x)
    return bayesian, *believed(bayesian, params, jnp.asarray(x))


# --- one component: the bound is the evidence ------------------------------------------------------


def updated(x):
    """κ, ν and Ψ of the posterior of a mean and a full covariance."""
    number, gap = len(x), x.mean(0) - MEAN
    shrinkage = SHRINKAGE + number
    pull = SHRINKAGE * number / shrinkage * np.outer(gap, gap)
    return shrinkage, DOF + number, SCALE + (x - x.mean(0)).T @ (x - x.mean(0)) + pull


def evidence_of_full(x):
    """Murphy (2007), "Conjugate Bayesian analysis of the Gaussian distribution", equation 266."""
    shrinkage, dof, scale = updated(x)
    dim = x.shape[1]
    found = multigammaln(dof / 2, dim) - multigammaln(DOF / 2, dim) - x.size / 2 * np.log(np.pi)
    found += DOF / 2 * np.linalg.slogdet(SCALE)[1] - dof / 2 * np.linalg.slogdet(scale)[1]
    return found + dim / 2 * np.log(SHRINKAGE / shrinkage)


def evidence_of_gammas(x, shape, before, after, number):
    """The evidence of normals whose precisions have gamma priors, with `number` data each."""
    shrinkage = SHRINKAGE + len(x)
    new = shape + number / 2
    each = gammaln(new) - gammaln(shape) + shape * np.log(before) - new * np.log(after)
    constants = x.shape[1] / 2 * np.log(SHRINKAGE / shrinkage) - x.size / 2 * np.log(2 * np.pi)
    return np.sum(each) + constants


def evidence_of_diagonal(x):
    after = np.diag(updated(x)[2]) / 2
    return evidence_of_gammas(x, (DOF + 1) / 2, np.diag(SCALE) / 2, after, len(x))


def evidence_of_spherical(x):
    after = np.trace(updated(x)[2]) / 2
    return evidence_of_gammas(x, DOF + 2, np.trace(SCALE) / 2, after, x.size)


def evidence_of_poisson(x):
    shape, rate = 2.0 + x.sum(0), 0.5 + len(x)
    each = gammaln(shape) - gammaln(2.0) + 2.0 * np.log(0.5) - shape * np.log(rate)
    return np.sum(each) - np.sum(gammaln(x + 1))


def evidence_of_bernoulli(x):
    on = x.sum(0)
    return np.sum(scipy.special.betaln(1.5 + on, 2.0 + len(x) - on) - scipy.special.betaln(1.5, 2))


def evidence_of_counts(counts, concentration):
    """Dirichlet and categorical draws, for the rows of a table of counts."""
    alpha = np.full(counts.shape, concentration)
    found = gammaln(alpha.sum(-1)) - gammaln((alpha + counts).sum(-1))
    return np.sum(found + np.sum(gammaln(alpha + counts) - gammaln(alpha), -1))


def evidence_of_categorical(x):
    tables = [np.bincount(column.astype(int), minlength=n) for column, n in zip(x.T, (3, 5))]
    return sum(evidence_of_counts(table[None], 0.7) for table in tables)


def evidence_of_multinomial(x):
    coefficient = gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1)
    return np.sum(coefficient) + evidence_of_counts(x.sum(0)[None], 0.7)


CONJUGATE = {
    "full": (components.Normal(prior=PRIOR), points, evidence_of_full),
    "diagonal": (components.Normal("diagonal", prior=PRIOR), points, evidence_of_diagonal),
    "spherical": (components.Normal("spherical", prior=PRIOR), points, evidence_of_spherical),
    "tied": (components.Normal("tied", prior=PRIOR), points, evidence_of_full),
    "poisson": (components.Poisson(prior=priors.Gamma(2.0, 0.5)), counts, evidence_of_poisson),
    "bernoulli": (
        components.Bernoulli(prior=priors.Beta(1.5, 2.0)),
        lambda: (counts() > 2).astype(float),
        evidence_of_bernoulli,
    ),
    "categorical": (
        components.Categorical((3, 5), prior=priors.Dirichlet(0.7)),
        lambda: np.minimum(counts(), [2, 4]),
        evidence_of_categorical,
    ),
    "multinomial": (
        components.Multinomial(prior=priors.Dirichlet(0.7)),
        counts,
        evidence_of_multinomial,
    ),
}


@pytest.mark.parametrize("name", CONJUGATE)
def test_the_bound_of_one_component_is_the_evidence(name):
    component, data, evidence = CONJUGATE[name]
    x = data()
    _, _, bound = fitted_one(component, x)
    np.testing.assert_allclose(bound, evidence(x), rtol=1e-12)


@pytest.mark.parametrize("name", ["full", "spherical", "bernoulli", "categorical"])
def test_the_predictive_density_is_a_ratio_of_evidences(name):
    component, data, evidence = CONJUGATE[name]
    x = data()
    bayesian, q, _ = fitted_one(component, x)
    model, params = bayesian.predictive(q)
    found = elbax.log_densities(model, params, x[:3])
    ratios = [evidence(np.concatenate([x, row[None]])) - evidence(x) for row in x[:3]]
    np.testing.assert_allclose(found, ratios, rtol=1e-9)


def test_the_predictive_density_by_draws():
    x = points()
    bayesian, q, _ = fitted_one(components.Normal(prior=PRIOR), x)
    model, params = bayesian.predictive(q)
    drawn = bayesian.predictive(q, key=jax.random.key(0), num_samples=4000)
    found = elbax.log_densities(*drawn, x[:4])
    np.testing.assert_allclose(found, elbax.log_densities(model, params, x[:4]), atol=0.02)


# --- latents: enumeration and quadrature -----------------------------------------------------------


SEQUENCE = np.array([0, 0, 1, 2, 2, 2, 1])


def hidden():
    flat = priors.Dirichlet(0.8)
    emission = components.Categorical(3, prior=flat)
    return elbax.HiddenMarkovModel(emission, 2, prior=flat, transition_prior=flat)


def evidence_by_enumeration():
    """log Σ_z p(x, z) with all probabilities integrated out."""
    found = []
    for z in itertools.product(range(2), repeat=len(SEQUENCE)):
        initial, transition, emission = np.zeros((1, 2)), np.zeros((2, 2)), np.zeros((2, 3))
        initial[0, z[0]] += 1
        np.add.at(transition, (np.array(z[:-1]), np.array(z[1:])), 1)
        np.add.at(emission, (np.array(z), SEQUENCE), 1)
        found.append(sum(evidence_of_counts(t, 0.8) for t in (initial, transition, emission)))
    return scipy.special.logsumexp(found)


def test_a_chain_by_enumeration():
    """The bound is its own definition, summed over all paths, and lower than the evidence."""
    bayesian = elbax.Bayesian(hidden())
    x = jnp.asarray(SEQUENCE, float)[None, :, None]
    em = elbax.em(bayesian)
    state = em.init(bayesian.init(jax.random.key(0), x), key=jax.random.key(1))
    state, info = sweeps(em, state, x, 20)
    q = state.params
    bound = elbax.elbo(bayesian, q, elbax.Exact(bayesian, q), x)
    assert np.diff(info.elbo).min() > -1e-12
    assert bound < evidence_by_enumeration()
    tables = [np.exp(t) for t in (q["initial"], q["transition"], q["components"]["logits"][:, 0])]
    expected = [digamma(t) - digamma(t.sum(-1, keepdims=True)) for t in tables]
    initial, transition, emission = expected
    paths = []
    for z in itertools.product(range(2), repeat=len(SEQUENCE)):
        z = np.array(z)
        steps = transition[z[:-1], z[1:]].sum()
        paths.append(initial[z[0]] + steps + emission[z, SEQUENCE].sum())
    divergence = sum(
        dirichlet_divergence(row, np.full(row.shape, 0.8))
        for t in tables
        for row in np.atleast_2d(t)
    )
    np.testing.assert_allclose(bound, scipy.special.logsumexp(paths) - divergence, rtol=1e-11)


def dirichlet_divergence(alpha, before):
    """As in textbooks."""
    gap = gammaln(alpha.sum()) - gammaln(before.sum()) - np.sum(gammaln(alpha) - gammaln(before))
    return gap + np.sum((alpha - before) * (digamma(alpha) - digamma(alpha.sum())))


def test_the_scale_of_a_student_by_quadrature():
    """Of one column: log ∫ exp E_q[log p(x, u | θ)] du of each datum."""
    prior = priors.NormalInverseWishart(0.5, 0.7, 4.0, 1.5)
    x = points()[:6, :1]
    bayesian = one(components.StudentT("full", dof=3.0, prior=prior))
    q = bayesian.start(bayesian.model.init(jax.random.key(0), x), jnp.asarray(x))
    block = jax.tree.map(np.asarray, q["components"])
    shrinkage, dof = (np.exp(block[name]["log_count"]).item() for name in ("mean", "scale"))
    mean, variance = block["mean"]["point"].item(), np.exp(2 * block["scale"]["point"].item())
    # E log Λ of a gamma of shape ν/2 and rate ν Σ̄ / 2.
    log_precision = digamma(dof / 2) - np.log(dof * variance / 2)

    def one_datum(x):
        def integrand(u):
            distance = (x - mean) ** 2 / variance + 1 / shrinkage
            normal = 0.5 * (log_precision + np.log(u) - np.log(2 * np.pi) - u * distance)
            return np.exp(normal + scipy.stats.gamma.logpdf(u, 1.5, scale=1 / 1.5))

        return np.log(scipy.integrate.quad(integrand, 0, np.inf, epsabs=1e-13)[0])

    terms = elbax.elbo_terms(bayesian, q, elbax.Exact(bayesian, q), x)
    ours = terms.expected_log_joint + terms.entropy
    np.testing.assert_allclose(ours, np.mean([one_datum(row.item()) for row in x]), rtol=1e-8)


# --- regressions and factors ------------------------------------------------------------------------


ROWS = priors.NormalInverseGamma(0.5, 2.0, 1.0, intercept_precision=0.1)


def lines(num_data=40):
    generator = np.random.default_rng(2)
    inputs = generator.normal(3.0, 2.0, (num_data, 2))
    target = inputs @ [1.0, -0.5] + 2.0 + 0.3 * generator.normal(size=num_data)
    return jnp.asarray(inputs), jnp.asarray(target)


def columns(num_data=40):
    generator = np.random.default_rng(3)
    factors = generator.normal(size=(num_data, 2)) @ generator.normal(size=(2, 5))
    return jnp.asarray(factors + 0.4 * generator.normal(size=factors.shape) + 3.0)


def test_the_bound_of_a_regression_is_its_evidence():
    """Bishop (2006), equation 3.118, with the intercept at the inputs' mean."""
    inputs, target = x = lines()
    bayesian = one(components.LinearRegression(prior=ROWS))
    params = bayesian.model.init(jax.random.key(0), x)
    q, bound = believed(bayesian, params, x)
    bound = bound * len(target) / len(x)
    design = np.concatenate([np.ones((len(target), 1)), inputs - inputs.mean(0)], 1)
    before = np.diag([0.1, 0.5, 0.5])
    after = before + design.T @ design
    mean = np.linalg.solve(after, design.T @ target)
    shape, rate = 2.0 + len(target) / 2, 1.0 + 0.5 * (target @ target - mean @ after @ mean)
    found = gammaln(shape) - gammaln(2.0) - shape * np.log(rate)
    found += 0.5 * (np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1])
    found -= len(target) / 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(bound, found, rtol=1e-11)
    # E[β] and its variance of a Student t, against draws.
    described = bayesian.describe(q, 0.9, num_samples=4000)
    slopes = np.asarray(described["mean"]["coefficients"][0])
    np.testing.assert_allclose(slopes[1:], mean[1:], rtol=1e-10)
    np.testing.assert_allclose(slopes[0], mean[0] - mean[1:] @ inputs.mean(0), rtol=1e-10)
    spread = np.sqrt(np.diag(np.linalg.inv(after)) * rate / (shape - 1))
    np.testing.assert_allclose(described["deviation"]["coefficients"][0, 1:], spread[1:], rtol=0.06)


def sequences():
    return columns().reshape(5, 8, 5)[..., :3]


def dynamics(noise, **arguments):
    return elbax.LinearGaussianStateSpace(
        2,
        transition_noise=noise,
        emission_noise=noise,
        floor=0.0,
        initial_prior=PRIOR,
        transition_prior=ROWS,
        emission_prior=ROWS,
        **arguments,
    )


RELEVANT = priors.NormalInverseGamma(priors.Gamma(0.1, 0.1), 2.0, 1.0, intercept_precision=0.1)
STATIONARY = {
    "MAP regression": (elbax.Mixture(components.LinearRegression(0.0, ROWS), 2), lines),
    "MAP factors": (elbax.FactorAnalysis(2, floor=0.0, prior=ROWS), columns),
    "MAP principal components": (elbax.ProbabilisticPCA(2, floor=0.0, prior=ROWS), columns),
    "factors": (elbax.Bayesian(elbax.FactorAnalysis(2, prior=ROWS)), columns),
    "principal components": (elbax.Bayesian(elbax.ProbabilisticPCA(2, prior=ROWS)), columns),
    "MAP state space": (dynamics("diagonal"), sequences),
    "MAP isotropic state space": (dynamics("isotropic", offsets=True), sequences),
    "state space": (elbax.Bayesian(dynamics("diagonal", offsets=True)), sequences),
    "isotropic state space": (elbax.Bayesian(dynamics("isotropic")), sequences),
}


@pytest.mark.parametrize("name", STATIONARY)
def test_closed_forms_under_priors_are_stationary(name):
    """The slope of the objective in all params is 0 at one closed form, for any posterior."""
    model, data = STATIONARY[name]
    x = data()
    start = model.init(jax.random.key(0), x)

    @jax.jit
    def slope(start, x):
        posterior = elbax.Exact(model, start)
        step = elbax.ClosedFormMStep(model)
        state, info = step(step.init(start, posterior, key=jax.random.key(0)), x)
        coordinates, rest = eqx.partition(state.params, eqx.is_inexact_array)

        def objective(coordinates):
            return elbax.elbo(model, eqx.combine(coordinates, rest), posterior, x)

        after, gradient = jax.value_and_grad(objective)(coordinates)
        return info.elbo, after, gradient

    before, after, gradient = slope(start, x)
    assert after > before
    for path, leaf in jax.tree.leaves_with_path(gradient):
        if "center" not in jax.tree_util.keystr(path):
            np.testing.assert_allclose(leaf, 0, atol=1e-8)


def test_relevance_finds_the_number_of_factors():
    """Of four factors two are left, and the bound with their precisions ascends."""
    bayesian = elbax.Bayesian(elbax.FactorAnalysis(4, prior=RELEVANT))
    x = columns(100)
    em = elbax.em(bayesian)
    state, info = sweeps(
        em, em.init(bayesian.init(jax.random.key(0), x), key=jax.random.key(1)), x, 400
    )
    assert np.diff(info.elbo).min() > -1e-10
    size = np.linalg.norm(bayesian.describe(state.params)["loadings"], axis=0)
    assert np.sum(size > 0.1 * size.max()) == 2


# --- stick breaking ---------------------------------------------------------------------------------


def test_two_sticks_are_a_dirichlet():
    """Beta(1, 1) is the flat distribution of two weights; of three sticks the moments are those of draws."""
    x = jnp.asarray(counts())
    component = components.Poisson(prior=priors.Gamma(2.0, 0.5))
    ends = []
    for prior in (priors.Dirichlet(1.0), priors.StickBreaking(1.0)):
        bayesian = elbax.Bayesian(elbax.Mixture(component, 2, prior=prior))
        em = elbax.em(bayesian)
        start = bayesian.init(jax.random.key(0), x)
        _, info = sweeps(em, em.init(start, key=jax.random.key(1)), x, 10)
        ends.append(info.elbo[-1])
    np.testing.assert_allclose(*ends, rtol=1e-12)
    bayesian = elbax.Bayesian(elbax.Mixture(component, 4, prior=priors.StickBreaking(2.0)))
    q = bayesian.init(jax.random.key(0), x)
    draws = jax.vmap(bayesian.sample_params, (None, 0))(
        q, jax.random.split(jax.random.key(1), 8000)
    )
    weights = jax.nn.softmax(draws["logits"])
    np.testing.assert_allclose(weights.mean(0), bayesian.describe(q)["weights"], atol=4e-3)
    np.testing.assert_allclose(
        jnp.log(weights).mean(0), bayesian.natural(q)["logits"], rtol=0.02, atol=0.02
    )


# --- merges -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eight():
    """Eight components for a table with two clusters."""
    x = elbax.datasets.old_faithful().astype(float)
    prior = priors.NormalInverseWishart.from_data(x, 8)
    model = elbax.GaussianMixture(8, prior=prior, weights_prior=priors.Dirichlet(0.1))
    return elbax.Bayesian(model), x


@pytest.mark.slow
def test_merges_leave_the_plateaus(eight):
    """From each of ten starts, where sweeps alone end at many optima."""
    bayesian, x = eight
    merge = elbax.wrappers.Every(elbax.MergeStep(bayesian), 5)
    update = elbax.Chain(elbax.ExactEStep(bayesian), elbax.ClosedFormMStep(bayesian), merge)
    states = elbax.initial_states(update, x, key=jax.random.key(0), num_restarts=10)
    restarts = elbax.fit_restarts(update, states, x, max_steps=2000)
    assert np.sum(restarts.elbo * len(x) > -1189) >= 9
    for trace in restarts.traces:
        assert np.nanmin(np.diff(trace)) > -1e-10
    weights = bayesian.describe(restarts.best.state.params)["weights"]
    assert np.sum(weights > 0.01) == 2


def test_a_merge_gives_all_rows(eight):
    bayesian, x = eight
    q = bayesian.init(jax.random.key(0), x)
    exact = elbax.Exact(bayesian, q)

    @jax.jit
    def means(source, target):
        moved = elbax.posteriors.Reassigned(exact, source, target)
        return jax.vmap(lambda row: moved(row).mean())(x[:20])

    shares = jax.vmap(lambda row: exact(row).mean())(x[:20])
    merged, deleted = means(jnp.array(2), jnp.array(5)), means(jnp.array(2), jnp.array(2))
    expected = np.array(shares)
    expected[:, 5] += expected[:, 2]
    expected[:, 2] = 0
    np.testing.assert_allclose(merged, expected, atol=1e-12)
    left = np.array(shares)
    left[:, 2] = 0
    np.testing.assert_allclose(deleted, left / left.sum(1, keepdims=True), atol=1e-9)


def test_only_components_merge():
    model = elbax.FactorAnalysis(1)
    params = model.init(jax.random.key(0), columns())
    with pytest.raises(TypeError, match="no components to merge: its latent is a Gaussian"):
        elbax.MergeStep(model).init(params, key=jax.random.key(0))


# --- scikit-learn ----------------------------------------------------------------------------------


def test_the_mixture_of_scikit_learn():
    """The same hyperparameters after the same sweeps, from the clusters with which it starts."""
    x = np.concatenate([points(60), points(60, 1) + np.array([4.0, -3.0])])
    parts = KMeans(3, n_init=1, random_state=0).fit(x).labels_
    model = elbax.GaussianMixture(3, prior=PRIOR, weights_prior=priors.Dirichlet(0.3), floor=0.0)
    bayesian = elbax.Bayesian(model)
    em = elbax.em(bayesian)
    # A first M-step from given responsibilities.
    table = elbax.posteriors.Local(jnp.log(np.eye(3)[parts]), model.latent)
    q = bayesian.init(jax.random.key(0), x)
    state = elbax.ClosedFormMStep(bayesian).init(q, table, key=jax.random.key(1))
    state, _ = elbax.ClosedFormMStep(bayesian)(state, jnp.asarray(x))
    state, _ = sweeps(em, em.init(state.params, key=jax.random.key(1)), jnp.asarray(x), 40)

    peer = BayesianGaussianMixture(
        n_components=3,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.3,
        mean_precision_prior=SHRINKAGE,
        mean_prior=MEAN,
        degrees_of_freedom_prior=DOF,
        covariance_prior=SCALE,
        reg_covar=0.0,
        max_iter=40,
        tol=0.0,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit(x)
    q = state.params["components"]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10)
    close(np.exp(state.params["logits"]), peer.weight_concentration_)
    close(q["mean"]["point"], peer.means_)
    close(np.exp(q["mean"]["log_count"][:, 0]), peer.mean_precision_)
    close(np.exp(q["scale"]["log_count"][:, 0]), peer.degrees_of_freedom_)
    close(bayesian.describe(state.params)["covariances"], peer.covariances_)
    close(elbax.probabilities(bayesian, state.params, x), peer.predict_proba(x))


def tables_of_rules():
    """Models of tables in which some entries are impossible, and their data."""
    flat = priors.Dirichlet(0.8)
    grammar = elbax.ContextFreeGrammar(
        2, 2, 3, emits=np.array([[True, True, False], [False, True, True]]), prior=flat
    )
    sentences = jnp.asarray(np.random.default_rng(0).integers(0, 3, (6, 4)))
    network = elbax.BayesianNetwork((2, 2, 2), ((), (0,), (0,)), prior=flat)
    rows = np.random.default_rng(1).integers(0, 2, (12, 3)).astype(float)
    rows[::3, 0] = np.nan
    params = network.from_description(
        tables=([0.4, 0.6], [[0.3, 0.7], [0.8, 0.2]], [[1.0, 0.0], [0.4, 0.6]])
    )
    rows[rows[:, 0] == 0, 2] = 0
    return {
        "grammar": (grammar, grammar.init(jax.random.key(0)), sentences),
        "network": (network, params, elbax.incomplete(rows)),
    }


@pytest.mark.parametrize("name", ["grammar", "network"])
def test_tables_with_impossible_entries(name):
    """Each row's divergence and E[log π] are those of a Dirichlet over its possible entries; the bound ascends."""
    model, params, x = tables_of_rules()[name]
    bayesian = elbax.Bayesian(model)
    em = elbax.em(bayesian)
    state = em.init(bayesian.start(params, x), key=jax.random.key(1))
    state, info = sweeps(em, state, x, 15)
    assert np.diff(info.elbo).min() > -1e-12
    q, natural = state.params, bayesian.natural(state.params)
    if name == "grammar":
        pairs = [(q[key], natural[key], mask) for key, mask in model.possible().items()]
    else:
        pairs = [(table, natural[i], np.isfinite(table)) for i, table in enumerate(q)]
    total = 0.0
    for table, expected, possible in pairs:
        shape = (-1, possible.shape[-1])
        for row, mean, there in zip(*(np.reshape(t, shape) for t in (table, expected, possible))):
            alpha = np.exp(row[there])
            np.testing.assert_allclose(
                mean[there], digamma(alpha) - digamma(alpha.sum()), rtol=1e-9
            )
            total += dirichlet_divergence(alpha, np.full(alpha.shape, 0.8))
    np.testing.assert_allclose(bayesian.log_prior(q), -total, rtol=1e-9)


# --- what comes of a belief ------------------------------------------------------------------------


def test_intervals_and_draws():
    """Quantiles of draws against those of the marginals: Student t of a mean, beta of a weight."""
    x = points()
    bayesian, q, _ = fitted_one(components.Normal(prior=PRIOR), x)
    shrinkage, dof, scale = updated(x)
    described = bayesian.describe(q, 0.9, num_samples=4000)
    center = (SHRINKAGE * MEAN + len(x) * x.mean(0)) / shrinkage
    spread = np.sqrt(np.diag(scale) / (shrinkage * (dof - 1)))
    marginal = scipy.stats.t(dof - 1, center, spread)
    for name, p in (("lower", 0.05), ("upper", 0.95)):
        found = described[name]["means"][0]
        assert np.all(np.abs(found - marginal.ppf(p)) < 0.1 * marginal.std())
    np.testing.assert_allclose(described["deviation"]["means"][0], marginal.std(), rtol=0.06)
    # E Σ⁻¹ = ν Ψ⁻¹, by draws.
    draws = jax.vmap(bayesian.sample_params, (None, 0))(
        q, jax.random.split(jax.random.key(2), 4000)
    )
    covariances = jax.vmap(bayesian.model.describe)(draws)["covariances"][:, 0]
    found = np.linalg.inv(covariances).mean(0)
    np.testing.assert_allclose(found, dof * np.linalg.inv(scale), rtol=0.03)


def test_components_empty_and_say_so():
    x = elbax.datasets.old_faithful().astype(float)
    prior = priors.NormalInverseWishart.from_data(x, 6)
    model = elbax.GaussianMixture(6, prior=prior, weights_prior=priors.Dirichlet(1e-2))
    bayesian = elbax.Bayesian(model)
    em = elbax.em(bayesian)
    result = elbax.fit(em, x, key=jax.random.key(0), restarts=4)
    empty = bayesian.emptied(result.params)
    assert 2 <= int((~empty).sum()) < 6
    # An empty component is the prior.
    blocks = result.params["components"]
    counts = np.exp(blocks["scale"]["log_count"][:, 0])[empty]
    np.testing.assert_allclose(counts, prior.dof, atol=1e-2)


def test_the_bound_selects_the_number_of_components():
    x = elbax.datasets.old_faithful().astype(float)
    prior = priors.NormalInverseWishart.from_data(x, 2)
    models = {
        str(k): elbax.Bayesian(
            elbax.GaussianMixture(k, "tied", prior=prior, weights_prior=priors.Dirichlet(1.0))
        )
        for k in (1, 2)
    }
    select = functools.partial(elbax.diagnostics.select, models, x, key=jax.random.key(0))
    found = select(by="elbo", num_restarts=1, held_out=x[:20])
    assert found.best == "2"
    assert found.bounds["2"] == max(found.bounds.values())
    assert "→ is the best by ELBO" in str(found) and f"{found.bounds['2']:.3f}" in str(found)
    assert found.held_out["2"] > found.held_out["1"]
    with pytest.raises(TypeError, match='by="bic" instead of by="elbo"'):
        select(by="bic")


# --- other updates, one bound ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisson():
    """A mixture of two rates, and the optimum of its bound."""
    x = np.concatenate([counts(40), 3 * counts(40) + 2])
    component = components.Poisson(prior=priors.Gamma(2.0, 0.5))
    bayesian = elbax.Bayesian(elbax.Mixture(component, 2, prior=priors.Dirichlet(2.0)))
    x = jnp.asarray(np.random.default_rng(0).permutation(x))
    start = bayesian.init(jax.random.key(0), x)
    em = elbax.em(bayesian)
    _, info = sweeps(em, em.init(start, key=jax.random.key(1)), x, 400)
    return bayesian, x, start, float(info.elbo[-1])


def of_parts(bayesian):
    bayes = elbax.ExactEStep(bayesian)
    return {
        "newton": (elbax.Chain(bayes, elbax.NewtonMStep(bayesian)), 60),
        "l-bfgs": (elbax.Chain(bayes, elbax.NumericalMStep(bayesian)), 60),
        "accelerated": (elbax.wrappers.Accelerate(elbax.em(bayesian)), 60),
    }


@pytest.mark.parametrize(
    "name",
    ["accelerated", *(pytest.param(n, marks=pytest.mark.slow) for n in ("newton", "l-bfgs"))],
)
def test_all_m_steps_meet(poisson, name):
    bayesian, x, start, best = poisson
    update, length = of_parts(bayesian)[name]
    _, info = sweeps(update, update.init(start, key=jax.random.key(1)), x, length)
    np.testing.assert_allclose(info.elbo[-1], best, atol=1e-9)


def test_memoized_variational_bayes(poisson):
    """Each step ascends the bound of all data, to where batch sweeps end (Hughes and Sudderth 2013)."""
    bayesian, x, start, best = poisson
    m_step = elbax.IncrementalMStep(bayesian, num_batches=4)
    update = elbax.Chain(elbax.ExactEStep(bayesian), m_step)
    batches = jnp.tile(x.reshape(4, 20, 2), (60, 1, 1))
    state = update.init(start, key=jax.random.key(1))
    state, _ = jax.jit(lambda state, batches: jax.lax.scan(update, state, batches))(state, batches)
    q = state.params
    np.testing.assert_allclose(
        elbax.elbo(bayesian, q, elbax.Exact(bayesian, q), x), best, atol=1e-9
    )


def test_stochastic_variational_inference(poisson):
    """Minibatches of 8 of 80 with falling rates end near the optimum; a rate of 1 on all data is a batch sweep."""
    bayesian, x, start, best = poisson
    m_step = elbax.OnlineMStep(bayesian, rate=lambda t: (t + 4.0) ** -0.7)
    update = elbax.Chain(elbax.ExactEStep(bayesian), m_step)
    rows = jax.vmap(lambda key: jax.random.permutation(key, 80))(
        jax.random.split(jax.random.key(5), 40)
    )
    batches = elbax.Batch(x[rows.reshape(400, 8)], weight=jnp.full((400, 8), 10.0))
    state = update.init(start, key=jax.random.key(1))
    state, _ = jax.jit(lambda state, batches: jax.lax.scan(update, state, batches))(state, batches)
    q = state.params
    assert elbax.elbo(bayesian, q, elbax.Exact(bayesian, q), x) > best - 1e-3
    # The counts are those of all 80 data.
    np.testing.assert_allclose(jnp.sum(jnp.exp(q["logits"])), 80 + 2 * 2.0, rtol=1e-9)


def test_float32_at_a_large_offset():
    """A bound per datum of 1e5 rows, 1e4 deviations from 0, against float64."""
    x = np.random.default_rng(0).normal(1e4, 1.0, (100_000, 2))
    prior = priors.NormalInverseWishart([1e4, 1e4], 0.7, 4.0, SCALE)
    model = elbax.GaussianMixture(1, prior=prior, weights_prior=priors.Dirichlet(1.0))
    bayesian = elbax.Bayesian(model)
    params = model.from_description(
        weights=[1.0], means=x[:1], covariances=np.eye(2)[None], unit=[1.0, 1.0]
    )

    def bound(dtype):
        narrow = lambda leaf: jnp.asarray(leaf, dtype)
        q = bayesian.start(jax.tree.map(narrow, params), narrow(x))
        em = elbax.em(bayesian)
        _, info = sweeps(em, em.init(q, key=jax.random.key(0)), narrow(x), 3)
        return info.elbo[-1]

    np.testing.assert_allclose(bound(jnp.float32), bound(jnp.float64), atol=1e-5)


# --- errors ----------------------------------------------------------------------------------------


def test_sticks_have_no_mode():
    model = elbax.Mixture(components.Poisson(), 3, prior=priors.StickBreaking(1.0))
    params = model.init(jax.random.key(0), counts())
    with pytest.raises(TypeError, match="no mode. Use Bayesian"):
        elbax.em(model).init(params, key=jax.random.key(0))


def test_a_relevance_is_not_a_point():
    model = elbax.FactorAnalysis(1, prior=RELEVANT)
    params = model.init(jax.random.key(0), columns())
    with pytest.raises(TypeError, match="a prior of its own.*Use Bayesian"):
        elbax.em(model).init(params, key=jax.random.key(0))


def message(function):
    with pytest.raises((TypeError, ValueError)) as caught:
        function()
    return str(caught.value)


FLAT = priors.Dirichlet(1.0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            elbax.GaussianMixture(2, weights_prior=FLAT),
            "has no prior.*NormalInverseWishart.from_data",
        ),
        (elbax.GaussianMixture(2, prior=PRIOR), "no weights_prior.*Pass weights_prior=.*Dirichlet"),
        (elbax.Mixture(components.Gamma(), 2, prior=FLAT), "a Gamma has no conjugate prior"),
        (
            elbax.GaussianMixture(
                2, prior=priors.NormalInverseWishart(0.0, 0.0, 4.0, 1.0), weights_prior=FLAT
            ),
            "must be proper.*shrinkage 0",
        ),
        (elbax.Model(lambda p, x, z: 0.0, elbax.Categorical(2)), "a Model has no conjugate prior"),
        (
            elbax.HiddenMarkovModel(
                components.Poisson(prior=priors.Gamma(1.0, 1.0)), 2, prior=FLAT
            ),
            "has no transition_prior",
        ),
    ],
)
def test_what_has_no_belief_says_why(model, words):
    with pytest.raises((TypeError, ValueError), match=words):
        elbax.Bayesian(model)


def test_a_covariance_needs_enough_degrees_of_freedom():
    prior = priors.NormalInverseWishart(0.0, 1.0, 1.0, 1.0)
    bayesian = one(components.Normal(prior=prior))
    with pytest.raises(ValueError, match="dof 1. Pass more than 1, such as 4"):
        bayesian.init(jax.random.key(0), points())


@pytest.fixture(scope="module")
def belief():
    bayesian, q, _ = fitted_one(components.Normal("diagonal", prior=PRIOR), points())
    return bayesian, q


def test_there_is_no_evidence_of_a_belief(belief):
    bayesian, q = belief
    for function in (elbax.evidence, elbax.log_densities, elbax.diagnostics.information_criteria):
        told = message(lambda function=function: function(bayesian, q, points()))
        assert "those of q(θ)" in told and "model.predictive(params)" in told


def test_params_of_the_model_are_not_those_of_a_belief(belief):
    bayesian, _ = belief
    params = bayesian.model.init(jax.random.key(0), points())
    start = functools.partial(elbax.em(bayesian).init, key=jax.random.key(0))
    for function in (start, bayesian.describe, bayesian.predictive):
        assert "start(params, batch)" in message(lambda function=function: function(params))


def test_no_predictive_density_of_diagonal_covariances(belief):
    bayesian, q = belief
    assert "predictive(q, key=key)" in message(lambda: bayesian.predictive(q))


def test_a_level_is_a_probability(belief):
    bayesian, q = belief
    assert "(0, 1), got 90" in message(lambda: bayesian.describe(q, 90))


@pytest.mark.parametrize("kind", [np.array, jnp.array])
def test_a_row_of_probabilities_moves_as_one(kind):
    component = components.Categorical(2, prior=FLAT)
    bayesian = elbax.Bayesian(elbax.Mixture(component, 3, prior=FLAT))
    x = (counts() > 2).astype(float)
    q = bayesian.init(jax.random.key(0), x)
    start = functools.partial(elbax.ExactEStep(bayesian).init, q, key=jax.random.key(0))

    def moved(free):
        return elbax.ClosedFormMStep(bayesian, free=free)(start(), jnp.asarray(x))[0].params

    part = {"logits": kind([True, False, True]), "components": True}
    with pytest.raises(ValueError, match="Free or freeze whole rows"):
        elbax.em(bayesian, free=part).init(q, key=jax.random.key(0))
    rows = {"logits": False, "components": {"logits": kind([True, False, True])[:, None, None]}}
    found, before = moved(rows)["components"]["logits"], q["components"]["logits"]
    assert np.any(np.asarray(found != before), (1, 2)).tolist() == [True, False, True]


def test_rows_of_a_table_of_rules_move_as_one():
    """A symbol's binary rules are one row, over both of its axes."""
    model = elbax.ContextFreeGrammar(2, 2, 3, prior=FLAT)
    bayesian = elbax.Bayesian(model)
    q = bayesian.outside(model.init(jax.random.key(0)), 5.0)
    statistics = jax.tree.map(jnp.ones_like, q)
    free = dict.fromkeys(q, False)
    half = free | {"binary": np.arange(4)[:, None] < 2}
    with pytest.raises(ValueError, match="Free or freeze whole rows"):
        bayesian.maximize(statistics, q, half)
    moved = bayesian.maximize(
        statistics, q, free | {"binary": np.array([True, False])[:, None, None]}
    )
    assert np.all(moved["binary"][1] == q["binary"][1])
    assert np.all(moved["binary"][0] != q["binary"][0])


def test_a_column_of_factors_moves_as_one():
    bayesian = elbax.Bayesian(elbax.FactorAnalysis(1, prior=ROWS))
    x = columns()
    q = bayesian.init(jax.random.key(0), x)
    state = elbax.ExactEStep(bayesian).init(q, key=jax.random.key(0))

    def moved(**free):
        step = elbax.ClosedFormMStep(bayesian, free={"log_noise": True} | free)
        return step(state, x)[0].params

    with pytest.raises(ValueError, match="one belief. Free or freeze both"):
        moved(mean=True, loadings=False)
    some = np.array([True, False, True, True, False])
    found = moved(mean=some, loadings=some[:, None])
    assert np.all((found["mean"] != q["mean"]) == some)
    for name in ("point", "precision"):
        assert np.all(np.any(found["loadings"][name] != q["loadings"][name], -1) == some)
    bound = lambda q: elbax.elbo(bayesian, q, state.posterior, x)
    assert bound(found) > bound(q)


def test_a_single_stick_is_refused():
    component = components.Poisson(prior=priors.Gamma(1.0, 1.0))
    with pytest.raises(ValueError, match="at least 2 components"):
        elbax.Bayesian(elbax.Mixture(component, 1, prior=priors.StickBreaking(1.0)))


def test_draws_are_counted():
    model = elbax.Mixture(components.Poisson(), 1)
    params = {"logits": jnp.zeros((2, 1)), "components": {"log_rates": jnp.zeros((2, 1, 1))}}
    with pytest.raises(ValueError, match="num_samples 4, but the params have an array of shape"):
        elbax.evidence(elbax.beliefs.Drawn(model, 4), params, jnp.zeros((3, 1)))


def test_points_and_beliefs_are_not_compared():
    model = elbax.GaussianMixture(1, "tied", prior=PRIOR, weights_prior=FLAT)
    with pytest.raises(ValueError, match="plain have params at a point"):
        models = {"plain": model, "bayesian": elbax.Bayesian(model)}
        elbax.diagnostics.select(models, points(), key=jax.random.key(0), by="elbo")
