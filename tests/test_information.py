"""Standard errors beside other programs' and numerical Hessians of log-likelihoods that are written here anew."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import statsmodels.api as sm
from cases import sweeps
from jax.flatten_util import ravel_pytree
from statsmodels.tools.numdiff import approx_fprime, approx_hess
from test_factor_models import ABILITY

import elbax


def numerical_errors(log_likelihood, vector, *functions):
    """√diag(∂f H⁻¹ ∂fᵀ) of each function by differences, in params without a redundant one."""
    vector = np.asarray(vector, float)
    covariance = np.linalg.inv(-approx_hess(vector, log_likelihood))
    slopes = [np.atleast_2d(approx_fprime(vector, f, centered=True)) for f in functions]
    return [np.sqrt(np.diag(slope @ covariance @ slope.T)) for slope in slopes]


@eqx.filter_jit
def slope_and_curvature(model, params, batch):
    """Of the evidence of all data and the prior, in one program."""
    start, unflatten = ravel_pytree(params)

    def objective(vector):
        params = unflatten(vector)
        total = jnp.sum(elbax.data._batch.effective_weight(elbax.data._batch.as_batch(batch)))
        return total * elbax.evidence(model, params, batch) + model.log_prior(params)

    def slope(vector):
        found = jax.grad(objective)(vector)
        return found, found

    curvature, found = jax.jacfwd(slope, has_aux=True)(start)
    return found, curvature


def sharpened(model, params, batch, free=True, steps=8):
    """Newton's steps to the maximum, in what is free."""
    moving = elbax._invariance.free_entries(free, params)
    for _ in range(steps):
        slope, curvature = map(np.asarray, slope_and_curvature(model, params, batch))
        invariant = model.invariances(params).dense()
        invariant = elbax._invariance.directions_within(invariant, moving)[:, moving]
        rest = np.linalg.qr(invariant.T, mode="complete")[0][:, len(invariant) :]
        inside = rest.T @ curvature[np.ix_(moving, moving)] @ rest
        change = np.zeros(len(moving))
        change[moving] = -rest @ np.linalg.solve(inside, rest.T @ slope[moving])
        vector, unflatten = ravel_pytree(params)
        params = unflatten(vector + change)
        if np.abs(change).max() < 1e-11:
            break
    return params


def fitted(model, batch, *, steps=300, update=None, params=None):
    update = elbax.em(model) if update is None else update
    params = model.init(jax.random.key(0), batch) if params is None else params
    state = update.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    return sweeps(update, state, batch, steps)[0].params


# --- factor analysis ------------------------------------------------------------------------------


# Covariances (dividing by n) of the nine tests of Holzinger and Swineford (1939), n = 301, lower triangle.
# fmt: off
HOLZINGER = (
    1.3583698455,
    0.4073713302, 1.3817838655,
    0.5798993223, 0.4510639369, 1.2748648608,
    0.5048349962, 0.2089233703, 0.2081696129, 1.3506645079,
    0.4406155374, 0.2110910752, 0.1122962909, 1.0977527816, 1.6597857640,
    0.4548081306, 0.2475445713, 0.2441089815, 0.8955157094, 1.0145240421, 1.1963583780,
    0.0847654345, -0.0967510176, 0.0883418380, 0.2197425898, 0.1429995481, 0.1440783892, 1.1831394643,
    0.2638376844, 0.1096593857, 0.2123226427, 0.1255933500, 0.1806052086, 0.1654310049, 0.5352452212,
    1.0219828148,
    0.4583385471, 0.2440094509, 0.3738525709, 0.2433627372, 0.2952413297, 0.2359969494, 0.3732972192,
    0.4573165598, 1.0150038700,
)
# fmt: on


def symmetric(lower, dim):
    matrix = np.zeros((dim, dim))
    matrix[np.tril_indices(dim)] = lower
    return matrix + matrix.T - np.diag(np.diag(matrix))


@functools.cache
def three_factors():
    batch = elbax.from_moments(jnp.zeros(9), jnp.asarray(symmetric(HOLZINGER, 9)), num_data=301)
    model = elbax.FactorAnalysis(3, floor=0.0)
    params = model.init(jax.random.key(0), batch)
    return model, sharpened(model, fitted(model, batch, params=params), batch), batch


@pytest.mark.slow
def test_holzingers_three_factors():
    """lavaan with observed information: the uniquenesses' errors whatever the rotation, and those of the
    loadings in the echelon form that fixes it."""
    model, params, batch = three_factors()
    errors = elbax.diagnostics.standard_errors(model, params, batch)
    uniqueness = [0.088, 0.103, 0.100, 0.049, 0.062, 0.042, 0.118, 0.086, 0.061]
    np.testing.assert_allclose(errors["noise"], uniqueness, atol=6e-4)
    # As they would be if every replicate were turned to these loadings: of the size that 301 rows give.
    assert 0.04 < errors["loadings"].min() and errors["loadings"].max() < 0.13

    # The loadings turned to a lower triangle, by QR.
    loadings = np.asarray(params["loadings"])
    turn = np.linalg.qr(loadings[:3].T)[0]
    lower = loadings @ turn
    lower = lower * np.sign(np.diag(lower[:3]))
    echelon = elbax.FactorAnalysis(3, pattern=np.tril(np.ones((9, 3), bool)), floor=0.0)
    turned = params | {"loadings": jnp.asarray(np.tril(lower))}
    first = [0.814, 0.555, 0.714, 0.577, 0.565, 0.576, 0.133, 0.322, 0.532]
    np.testing.assert_allclose(np.abs(turned["loadings"][:, 0]), first, atol=6e-4)
    fixed = elbax.diagnostics.standard_errors(echelon, turned, batch)
    np.testing.assert_allclose(fixed["noise"], errors["noise"], rtol=1e-6)
    lavaan = [
        [0.072, 0.076, 0.074, 0.086, 0.101, 0.080, 0.088, 0.077, 0.068],
        [0.000, 0.090, 0.124, 0.261, 0.313, 0.238, 0.170, 0.181, 0.136],
        [0.000, 0.000, 0.083, 0.218, 0.263, 0.192, 0.271, 0.224, 0.151],
    ]
    np.testing.assert_allclose(fixed["loadings"].T, lavaan, atol=6e-4)

    found = elbax.diagnostics.information_criteria(model, params, batch)
    assert (
        found.num_free_params
        == elbax.diagnostics.information_criteria(echelon, turned, batch).num_free_params
        == 42
    )
    assert found.log_likelihood == pytest.approx(-3706.541, abs=1e-3)
    assert found.bic == pytest.approx(7652.780, abs=1e-3)


@pytest.mark.slow
def test_errors_of_loadings_do_not_depend_on_the_tolerance_or_the_units():
    model, params, batch = three_factors()
    errors = elbax.diagnostics.standard_errors(model, params, batch)["loadings"]
    # One EM sweep away from the maximum: the rotations are as free as there.
    near = jax.tree.map(
        lambda leaf: leaf + 1e-7 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params
    )
    np.testing.assert_allclose(
        elbax.diagnostics.standard_errors(model, near, batch)["loadings"], errors, rtol=1e-5
    )
    unit = 10.0 ** jnp.arange(-4.0, 5.0)
    scaled = {
        "mean": params["mean"],
        "loadings": params["loadings"] * unit[:, None],
        "log_noise": params["log_noise"] + jnp.log(unit),
    }
    metres = elbax.from_moments(
        jnp.zeros(9), jnp.asarray(symmetric(HOLZINGER, 9)) * jnp.outer(unit, unit), num_data=301
    )
    again = elbax.diagnostics.standard_errors(model, scaled, metres)["loadings"]
    np.testing.assert_allclose(again / unit[:, None], errors, rtol=1e-5)


@pytest.mark.slow
def test_correlated_factors_by_tied_params_have_the_published_errors():
    """lavaan's introductory example, expected information: what is observed at the covariances implied."""
    model = elbax.FactorAnalysis(3, floor=0.0)
    which = np.repeat(np.arange(3), 3)

    def expand(params):
        free = jnp.array([0, 1, 2, 0, 3, 4, 0, 5, 6])
        lambdas = jnp.where(np.arange(9) % 3 == 0, 1.0, params["lambda"][free - 1])
        root = jnp.zeros((3, 3)).at[np.tril_indices(3)].set(params["root"])
        return {
            "mean": params["mean"],
            "loadings": lambdas[:, None] * root[which],
            "log_noise": params["log_noise"],
        }

    def describe(params):
        root = jnp.zeros((3, 3)).at[np.tril_indices(3)].set(params["root"])
        covariance = root @ root.T
        return {
            "lambda": params["lambda"],
            "factors": covariance[np.tril_indices(3)],
            "noise": jnp.exp(2 * params["log_noise"]),
        }

    tied = elbax.Tied(model, expand)
    covariance = symmetric([0.809, 0.408, 0.979, 0.262, 0.173, 0.384], 3)
    noise = jnp.array([0.549, 1.134, 0.844, 0.371, 0.446, 0.356, 0.799, 0.488, 0.566])
    params = {
        "mean": jnp.zeros(9),
        "lambda": jnp.array([0.554, 0.729, 1.113, 0.926, 1.180, 1.082]),
        "root": jnp.asarray(np.linalg.cholesky(covariance)[np.tril_indices(3)]),
        "log_noise": 0.5 * jnp.log(noise),
    }
    batch = elbax.from_moments(jnp.zeros(9), jnp.asarray(symmetric(HOLZINGER, 9)), num_data=301)
    params = sharpened(tied, params, batch)
    found = elbax.diagnostics.information_criteria(tied, params, batch)
    assert found.num_free_params == 30
    assert found.log_likelihood == pytest.approx(-3737.745, abs=1e-3)
    implied = elbax.from_moments(jnp.zeros(9), model.covariance(expand(params)), num_data=301)
    errors = elbax.diagnostics.standard_errors(tied, params, implied, describe=describe)
    np.testing.assert_allclose(
        errors["lambda"], [0.100, 0.109, 0.065, 0.055, 0.165, 0.151], atol=6e-4
    )
    np.testing.assert_allclose(
        errors["factors"], [0.145, 0.074, 0.112, 0.056, 0.049, 0.086], atol=6e-4
    )
    published = [0.114, 0.102, 0.091, 0.048, 0.058, 0.043, 0.081, 0.074, 0.071]
    np.testing.assert_allclose(errors["noise"], published, atol=6e-4)


@pytest.mark.slow
def test_two_factors_of_ability_beside_a_numerical_hessian():
    batch = elbax.from_moments(jnp.zeros(6), jnp.asarray(ABILITY), num_data=112)
    model = elbax.FactorAnalysis(2, floor=0.0)
    start = fitted(model, batch, steps=2000)
    params = sharpened(model, start, batch)
    unique = [0.455, 0.589, 0.218, 0.769, 0.052, 0.334]
    np.testing.assert_allclose(model.describe(params)["uniquenesses"], unique, atol=6e-4)
    errors = elbax.diagnostics.standard_errors(model, params, batch)

    # One loading of the second factor at 0: the rest is identified.
    loadings = np.asarray(params["loadings"])
    angle = np.arctan2(loadings[0, 1], loadings[0, 0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fixed = loadings @ turn
    vector = np.concatenate([fixed[:, 0], fixed[1:, 1], np.asarray(params["log_noise"])])

    def parts(vector):
        second = np.concatenate([[0.0], vector[6:11]])
        return np.stack([vector[:6], second], 1), np.exp(2 * vector[11:])

    def log_likelihood(vector):
        loadings, noise = parts(vector)
        sigma = loadings @ loadings.T + np.diag(noise)
        trace = np.trace(np.linalg.solve(sigma, ABILITY))
        return -56 * (6 * np.log(2 * np.pi) + np.linalg.slogdet(sigma)[1] + trace)

    def uniquenesses(vector):
        loadings, noise = parts(vector)
        return noise / (noise + (loadings**2).sum(1))

    noise = lambda vector: parts(vector)[1]
    unique, noise = numerical_errors(log_likelihood, vector, uniquenesses, noise)
    np.testing.assert_allclose(errors["uniquenesses"], unique, rtol=1e-3)
    np.testing.assert_allclose(errors["noise"], noise, rtol=1e-3)


@pytest.mark.slow
def test_principal_components_have_the_textbooks_errors():
    """√(2 σ⁴ / n (dim − factors)) for the noise, whatever the rotation."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(
        rng.normal(size=(60, 5)) + 2 * rng.normal(size=(60, 2)) @ rng.normal(size=(2, 5))
    )
    model = elbax.ProbabilisticPCA(2, floor=0.0)
    step = elbax.Chain(elbax.ExactEStep(model), elbax.EvidenceMStep(model))
    params = fitted(model, x, update=step, steps=2)
    errors = elbax.diagnostics.standard_errors(model, params, x)
    noise = float(model.describe(params)["noise"][0])
    np.testing.assert_allclose(errors["noise"], noise * np.sqrt(2 / (60 * 3)), rtol=1e-6)
    np.testing.assert_allclose(errors["mean"], np.std(x, 0) / np.sqrt(60), rtol=0.2)


# --- chains ---------------------------------------------------------------------------------------


def poisson_chain(initial, transition, rates, x):
    first, *rest = scipy.stats.poisson.pmf(x[:, None], rates)
    alpha = initial * first
    total = np.log(alpha.sum())
    for density in rest:
        alpha = (alpha / alpha.sum()) @ transition * density
        total += np.log(alpha.sum())
    return total


@functools.cache
def earthquakes():
    """The three-state model of Zucchini, MacDonald and Langrock (2016), by EM."""
    x = elbax.datasets.earthquakes()[None]
    model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 3)
    params = model.from_description(
        initial=[0.98, 0.01, 0.01],
        transition=[[0.9393, 0.0321, 0.0286], [0.0404, 0.9064, 0.0532], [0.01, 0.1803, 0.8097]],
        rates=[[13.134], [19.713], [29.711]],
    )
    return model, fitted(model, x, params=params, steps=1500), x


@pytest.mark.slow
def test_a_hidden_markov_model_of_one_sequence_holds_what_is_at_the_boundary():
    model, params, x = earthquakes()
    found = elbax.diagnostics.information_criteria(model, params, x)
    assert -found.log_likelihood == pytest.approx(328.5275, abs=1e-4)
    assert found.num_data == 107
    with pytest.warns(UserWarning, match="at the boundary") as caught:
        errors = elbax.diagnostics.standard_errors(model, params, x)
    message = str(caught[0].message)
    for name in ("['initial'][1]", "['initial'][2]", "['transition'][2, 0]"):
        assert f"params{name}" in message
    assert np.isnan(errors["transition"][2, 0]) and np.isnan(errors["initial"][1:]).all()
    assert np.isnan(errors["transition"]).sum() == 1

    said = model.describe(params)
    rows, counts = np.asarray(said["transition"]), np.asarray(x[0, :, 0])

    def parts(vector):
        logits = np.concatenate([vector[:4].reshape(2, 2), np.zeros((2, 1))], 1)
        free = scipy.special.softmax(logits, 1)
        last = scipy.special.expit(vector[4])
        return np.concatenate([free, [[0.0, last, 1 - last]]]), np.exp(vector[5:])

    def log_likelihood(vector):
        return poisson_chain(np.array([1.0, 0.0, 0.0]), *parts(vector), counts)

    logits = np.log(rows[:2, :2] / rows[:2, 2:])
    last = scipy.special.logit(rows[2, 1])
    vector = np.concatenate([logits.ravel(), [last], np.log(said["rates"][:, 0])])
    functions = lambda v: parts(v)[0].ravel(), lambda v: parts(v)[1]
    transition, rates = numerical_errors(log_likelihood, vector, *functions)
    kept = ~np.isnan(errors["transition"])
    expected = transition.reshape(3, 3)[kept]
    np.testing.assert_allclose(errors["transition"][kept], expected, rtol=2e-3)
    np.testing.assert_allclose(errors["rates"][:, 0], rates, rtol=2e-3)


def test_what_of_a_sequence_is_observed_counts():
    model = elbax.HiddenMarkovModel(elbax.components.Poisson(), 2)
    ragged = elbax.sequences([np.arange(5.0), np.array([1.0, np.nan, 2.0])])
    assert model.num_observations(ragged) == 7
    assert model.num_observations(elbax.Batch(ragged, weight=jnp.array([2.0, 1.0]))) == 12
    chain = elbax.LinearGaussianStateSpace(1)
    partly = elbax.sequences([np.array([[1.0, np.nan], [np.nan, np.nan], [0.0, 1.0]])])
    assert chain.num_observations(partly) == 2
    grammar = elbax.ContextFreeGrammar(2, 2, 3)
    words = elbax.sequences([np.array([0, 1, 2]), np.array([1, 1])])
    assert grammar.num_observations(words) == 5
    assert elbax.GaussianMixture(2).num_observations(jnp.ones((4, 2))) == 4


LOCAL_LEVEL = {
    "initial": False,
    "transition": {"matrix": False, "scale": True},
    "emission": {"matrix": False, "scale": True},
}


@pytest.mark.slow
def test_the_local_level_of_the_nile():
    """Durbin and Koopman's variances, and errors beside statsmodels' log-likelihood."""
    x = elbax.datasets.nile().astype(float)[None]
    model = elbax.LinearGaussianStateSpace(1, floor=0.0)
    params = model.from_description(
        initial_mean=[0.0],
        initial_covariance=[[1e7]],
        transition=[[1.0]],
        transition_covariance=[[1469.0]],
        emission=[[1.0]],
        emission_covariance=[[15099.0]],
    )
    assert model.num_free_params(params, LOCAL_LEVEL) == 2
    # Of all six numbers one is the state's unit.
    assert model.num_free_params(params) == 5
    params = sharpened(model, params, x, free=LOCAL_LEVEL)
    said = model.describe(params)
    assert said["emission_covariance"][0, 0] == pytest.approx(15099, rel=1e-3)
    assert said["transition_covariance"][0, 0] == pytest.approx(1469, rel=1e-3)
    peer = sm.tsa.UnobservedComponents(np.asarray(x[0, :, 0]), "llevel")
    peer.ssm.initialize_known(np.zeros(1), np.full((1, 1), 1e7))
    peer.loglikelihood_burn = 0
    vector = np.array([said["emission_covariance"][0, 0], said["transition_covariance"][0, 0]])

    def log_likelihood(logs):
        return peer.loglike(np.exp(logs))

    found = elbax.diagnostics.information_criteria(model, params, x, free=LOCAL_LEVEL)
    assert found.num_free_params == 2 and found.num_data == 100
    assert found.log_likelihood == pytest.approx(log_likelihood(np.log(vector)), abs=1e-6)
    errors = elbax.diagnostics.standard_errors(model, params, x, free=LOCAL_LEVEL)
    (expected,) = numerical_errors(log_likelihood, np.log(vector), np.exp)
    assert errors["emission_covariance"][0, 0] == pytest.approx(expected[0], rel=1e-3)
    assert errors["transition_covariance"][0, 0] == pytest.approx(expected[1], rel=1e-3)
    assert errors["transition"][0, 0] == errors["initial_mean"][0] == 0


# --- heavy tails and regressions --------------------------------------------------------------------


@pytest.mark.slow
def test_student_t_beside_a_numerical_hessian():
    rng = np.random.default_rng(4)
    x = rng.standard_t(3.0, size=(150, 2)) @ np.array([[1.0, 0.4], [0.0, 2.0]])
    model = elbax.Mixture(elbax.components.StudentT("full", floor=0.0), 1)
    batch = jnp.asarray(x)
    params = sharpened(model, fitted(model, batch, steps=200), batch)
    errors = elbax.diagnostics.standard_errors(model, params, batch)
    said = jax.tree.map(np.asarray, model.describe(params))
    root = np.linalg.cholesky(said["scales"][0])
    vector = np.concatenate([said["means"][0], root[np.tril_indices(2)], [np.log(said["dofs"][0])]])

    def scale(vector):
        root = np.array([[vector[2], 0.0], [vector[3], vector[4]]])
        return root @ root.T

    def log_likelihood(vector):
        density = scipy.stats.multivariate_t(vector[:2], scale(vector), df=np.exp(vector[5]))
        return density.logpdf(x).sum()

    functions = {
        "means": lambda v: v[:2],
        "scales": lambda v: scale(v).ravel(),
        "dofs": lambda v: np.exp(v[5:]),
    }
    found = numerical_errors(log_likelihood, vector, *functions.values())
    for name, expected in zip(functions, found):
        np.testing.assert_allclose(np.ravel(errors[name]), expected, rtol=2e-3)


@pytest.mark.slow
def test_degrees_of_freedom_at_their_largest_are_held():
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(60, 1)))
    model = elbax.Mixture(elbax.components.StudentT("full", floor=0.0), 1)
    start = dict(weights=[1.0], means=[[0.5]], scales=[[[0.08]]], dofs=[200.0])
    params = fitted(model, x, params=model.from_description(**start), steps=100)
    with pytest.warns(UserWarning, match=r"params\['components'\]\['log_dof'\]\[0\]"):
        errors = elbax.diagnostics.standard_errors(model, params, x)
    assert np.isnan(errors["dofs"][0])
    assert errors["means"][0, 0] == pytest.approx(float(np.std(x)) / np.sqrt(60), rel=0.05)


@pytest.mark.slow
def test_one_regression_has_the_textbooks_errors_and_two_those_of_a_numerical_hessian():
    rng = np.random.default_rng(2)
    u = rng.normal(size=(120, 1))
    which = rng.random(120) < 1 / (1 + np.exp(-1.5 * u[:, 0]))
    y = np.where(which, 3 + 2 * u[:, 0], -2 - u[:, 0]) + 0.7 * rng.normal(size=120)
    batch = (jnp.asarray(u), jnp.asarray(y))

    one = elbax.Mixture(elbax.components.LinearRegression(floor=0.0), 1)
    params = fitted(one, batch, steps=3)
    errors = elbax.diagnostics.standard_errors(one, params, batch)
    peer = sm.OLS(y, sm.add_constant(u)).fit()
    np.testing.assert_allclose(errors["coefficients"][0], peer.bse * np.sqrt(118 / 120), rtol=1e-6)

    model = elbax.MixtureOfExperts(elbax.components.LinearRegression(floor=0.0), 2)
    start = model.from_description(
        gate=[[0.0, 1.5], [0.0, 0.0]],
        coefficients=[[3.0, 2.0], [-2.0, -1.0]],
        deviations=[0.7, 0.7],
    )
    params = sharpened(model, start, batch)
    assert model.num_free_params(params) == 2 + 2 * 3
    errors = elbax.diagnostics.standard_errors(model, params, batch)
    said = jax.tree.map(np.asarray, model.describe(params))
    vector = np.concatenate(
        [said["gate"][0], said["coefficients"].ravel(), np.log(said["deviations"])]
    )

    def log_likelihood(vector):
        log_odds = vector[0] + vector[1] * u[:, 0]
        means = vector[2:6].reshape(2, 2) @ np.stack([np.ones(120), u[:, 0]])
        densities = scipy.stats.norm.logpdf(y, means, np.exp(vector[6:])[:, None])
        gate = np.stack([-np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)])
        return np.logaddexp(*(gate + densities)).sum()

    (expected,) = numerical_errors(log_likelihood, vector, lambda v: v)
    np.testing.assert_allclose(errors["gate"][0], expected[:2], rtol=2e-3)
    np.testing.assert_allclose(errors["coefficients"].ravel(), expected[2:6], rtol=2e-3)
    assert (errors["gate"][1] == 0).all()


@pytest.mark.slow
def test_a_poisson_regression_has_statsmodels_errors():
    rng = np.random.default_rng(3)
    u = rng.normal(size=(80, 2))
    y = rng.poisson(np.exp(0.5 + u @ [0.4, -0.3])).astype(float)
    model = elbax.Mixture(elbax.components.GeneralizedLinear("poisson"), 1)
    batch = (jnp.asarray(u), jnp.asarray(y))
    newton = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    params = fitted(model, batch, update=newton, steps=10)
    errors = elbax.diagnostics.standard_errors(model, params, batch)
    peer = sm.GLM(y, sm.add_constant(u), family=sm.families.Poisson()).fit()
    np.testing.assert_allclose(errors["coefficients"][0], peer.bse, rtol=1e-5)


# --- what a user says ---------------------------------------------------------------------------------


def two_means(params, x, z):
    weights = jax.nn.log_softmax(params["logits"])
    return weights[z] + jax.scipy.stats.norm.logpdf(x, params["means"][z])


def one_shift(params):
    return {"logits": jnp.ones((1, 2)), "means": jnp.zeros((1, 2))}


@pytest.mark.slow
def test_a_plain_model_may_say_its_invariances():
    x = jnp.concatenate([jnp.linspace(-3, -1, 9), jnp.linspace(2, 3, 7)])
    silent = elbax.Model(two_means, elbax.Categorical(2))
    model = elbax.Model(two_means, elbax.Categorical(2), invariances=one_shift)
    params = {"logits": jnp.zeros(2), "means": jnp.array([-2.0, 2.5])}
    newton = elbax.Chain(elbax.ExactEStep(silent), elbax.NewtonMStep(silent))
    params = fitted(silent, x, update=newton, params=params, steps=30)
    assert model.num_free_params(params) == 3
    means = {"logits": False, "means": True}
    assert model.num_free_params(params, means) == 2
    information = elbax.diagnostics.observed_information
    found, whole = (information(model, params, x, free=free) for free in (means, True))
    np.testing.assert_allclose(found.observed, whole.observed[2:, 2:], rtol=1e-10)
    np.testing.assert_allclose(found.complete, whole.complete[2:, 2:], rtol=1e-10, atol=1e-12)
    assert model.num_free_params(params, {"logits": jnp.array([True, False]), "means": False}) == 1
    errors = elbax.diagnostics.standard_errors(model, params, x)
    assert np.isfinite(errors["logits"]).all()
    # Undeclared, a logit alone is what no data tell; a weight is as well known.
    undeclared = elbax.diagnostics.standard_errors(silent, params, x)
    assert np.isinf(undeclared["logits"]).all()
    np.testing.assert_allclose(undeclared["means"], errors["means"], rtol=1e-8)
    share = lambda params: jax.nn.softmax(params["logits"])
    np.testing.assert_allclose(
        elbax.diagnostics.standard_errors(silent, params, x, describe=share),
        elbax.diagnostics.standard_errors(model, params, x, describe=share),
        rtol=1e-8,
    )


def test_invariances_of_other_shapes_are_refused():
    params = {"logits": jnp.zeros(2), "means": jnp.zeros(2)}
    flat = lambda params: {"logits": jnp.ones(2), "means": jnp.zeros(2)}
    model = elbax.Model(two_means, elbax.Categorical(2), invariances=flat)
    with pytest.raises(ValueError, match="one additional leading axis.*got.*2"):
        model.num_free_params(params)
    other = elbax.Model(
        two_means, elbax.Categorical(2), invariances=lambda params: jnp.ones((1, 2))
    )
    with pytest.raises(ValueError, match="same tree structure as the params"):
        other.num_free_params(params)


# --- the law: what a model counts is what data can tell --------------------------------------------------


def counted():
    rng = np.random.default_rng(5)
    rows = jnp.asarray(rng.normal(size=(120, 6)))
    steps = jnp.asarray(rng.normal(size=(40, 7, 3)))
    # A value that nobody shows has a share that data cannot tell from the class'.
    counts = jnp.asarray(rng.integers(0, [3, 4, 3], size=(120, 3)))
    tokens = jnp.asarray(rng.integers(0, 2, size=(40, 6, 1)))
    inputs = jnp.asarray(rng.normal(size=(120, 2)))
    allowed = np.triu(np.ones((3, 3), bool))
    component = elbax.components
    yield "normal", elbax.GaussianMixture(2), rows
    yield "tied normal", elbax.GaussianMixture(2, "tied"), rows
    yield "student t", elbax.Mixture(component.StudentT("diagonal"), 2), rows
    yield "categorical", elbax.Mixture(component.Categorical((3, 4, 3)), 2), counts
    yield "multinomial", elbax.Mixture(component.Multinomial(), 1), counts + 1
    yield "analyzers", elbax.Mixture(component.FactorAnalyzer(2), 2), rows
    yield "isotropic", elbax.ProbabilisticPCA(2), rows
    yield "factors", elbax.FactorAnalysis(2), rows
    pattern = np.array([[1, 0], [1, 1], [1, 1], [0, 1], [1, 1], [1, 1]], bool)
    yield "pattern", elbax.FactorAnalysis(2, pattern=pattern), rows
    model = elbax.HiddenMarkovModel(component.Categorical(2), 2)
    yield "chain", model, tokens
    model = elbax.HiddenMarkovModel(component.Normal("spherical"), 3, allowed=allowed)
    yield "left to right", model, steps
    model = elbax.HiddenMarkovModel(component.Normal("diagonal"), 2, transition="input-driven")
    yield "driven", model, (steps[..., :1], steps[..., 1:])
    for noise in ("full", "diagonal", "isotropic"):
        model = elbax.LinearGaussianStateSpace(2, transition_noise=noise, offsets=True)
        yield f"state space, {noise}", model, steps
    model = elbax.MixtureOfExperts(component.LinearRegression(), 2)
    yield "experts", model, (inputs, rows[:, 0])
    cases = jnp.stack([tokens[:, 0, 0], jnp.arange(40) % 3], 1)
    yield "network", elbax.BayesianNetwork((2, 3), ((), (0,))), cases


COUNTED = list(counted())


@eqx.filter_jit
def scores(model, params, x):
    """∂ log p(xᵢ) / ∂θ, (num_data, P)."""
    start, unflatten = ravel_pytree(params)

    def each(vector):
        one = lambda row: elbax.evidence(
            model, unflatten(vector), jax.tree.map(lambda a: a[None], row)
        )
        return jax.vmap(one)(x)

    return jax.jacfwd(each)(start)


@pytest.mark.slow
@pytest.mark.parametrize("model, x", [r[1:] for r in COUNTED], ids=[r[0] for r in COUNTED])
def test_the_count_of_params_is_the_rank_of_the_scores(model, x):
    params = model.init(jax.random.key(0), x)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    params = jax.tree.unflatten(structure, moved)
    found = np.asarray(scores(model, params, x))
    directions = model.invariances(params).dense()
    assert np.abs(found @ directions.T).max(initial=0) < 1e-9 * np.abs(found).max()
    size = np.linalg.norm(found, axis=0)
    values = np.linalg.svd(found / np.where(size > 0, size, 1), compute_uv=False)
    rank = int(np.sum(values > 1e-9 * values[0]))
    assert model.num_free_params(params) == rank
    # What is special about the params of a fit does not change the count.
    assert model.num_free_params(jax.tree.map(jnp.zeros_like, params)) == rank
