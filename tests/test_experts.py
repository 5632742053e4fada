"""Mixtures of regressions and of experts: a published fit, Newton steps, gates, networks."""

import functools
import itertools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.optimize
import scipy.special

import elbax


components = elbax.components


def run(update, model, params, x, length):
    """(state after so many steps, the ELBO before each)."""
    state = update.init(params, elbax.Exact(model, params), key=jax.random.key(0))

    @jax.jit
    def scan(state):
        return jax.lax.scan(lambda s, _: update(s, x), state, length=length)

    state, info = scan(state)
    return state, np.asarray(info.elbo)


# --- flexmix's NPreg ---------------------------------------------------------------------------------


@functools.cache
def npreg():
    file = pathlib.Path(__file__).parent / "data" / "npreg.csv"
    u, y = np.loadtxt(file, delimiter=",", skiprows=1).T
    x = (jnp.asarray(np.column_stack([u, u**2])), jnp.asarray(y))
    model = elbax.Mixture(components.LinearRegression(floor=0.0), 2)
    params = model.from_description(
        weights=[0.5, 0.5], coefficients=[[0.0, 5.0, 0.0], [15.0, 10.0, -1.0]], deviations=[3.0] * 2
    )
    return model, params, x


class Unbiased(elbax.AbstractUpdate):
    """Turns variances that divide by n into ones that divide by n − 3, n being all 200 rows."""

    @property
    def ascends(self):
        return False

    def __call__(self, state, batch):
        grown = dict(state.params["components"])
        grown["log_noise"] = grown["log_noise"] + 0.5 * np.log(200 / 197)
        return state.replace(params=state.params | {"components": grown}), elbax.Info()


def log_likelihood(model, params, x):
    """By SciPy."""
    described = model.describe(params)
    densities = oracles.normal_regression(described, x)
    return oracles.log_sum(oracles.with_weights(described, densities)).sum()


def test_the_maximum_of_npreg():
    model, params, x = npreg()
    em = elbax.em(model)
    state, elbo = run(em, model, params, x, 300)
    assert np.all(np.diff(elbo) > -1e-11)
    ours = log_likelihood(model, state.params, x)
    assert ours == pytest.approx(-642.5320, abs=5e-5)
    np.testing.assert_allclose(200 * elbax.evidence(model, state.params, x), ours, rtol=1e-12)
    assert model.num_free_params(state.params) == 9


def test_flexmixs_fit_of_npreg_by_an_update_of_ones_own():
    """flexmix: log-likelihood −642.5451, BIC 1332.775."""
    model, params, x = npreg()
    parts = elbax.ExactEStep(model), elbax.ClosedFormMStep(model), Unbiased()
    state, _ = run(elbax.Chain(*parts), model, params, x, 300)
    ours = log_likelihood(model, state.params, x)
    assert ours == pytest.approx(-642.5451, abs=1e-3)
    bic = -2 * ours + model.num_free_params(state.params) * np.log(200)
    assert bic == pytest.approx(1332.775, abs=2e-3)


def test_one_regression_is_least_squares():
    """One step, from anywhere, with collinear inputs or not."""
    _, _, (u, y) = npreg()
    design = np.column_stack([np.ones(200), u])
    theirs, rss, *_ = np.linalg.lstsq(design, y, rcond=None)
    for floor in (0.0, 30.0):
        model = elbax.Mixture(components.LinearRegression(floor=floor), 1)
        params = model.from_description(
            weights=[1.0], coefficients=[[3.0, -2.0, 1.0]], deviations=[7.0], unit=2.0
        )
        em = elbax.em(model)
        described = model.describe(run(em, model, params, (u, y), 1)[0].params)
        np.testing.assert_allclose(described["coefficients"][0], theirs, rtol=1e-9)
        deviation = np.sqrt((rss[0] + 2.0**2 * floor) / 200)
        np.testing.assert_allclose(described["deviations"][0], deviation, rtol=1e-10)


# --- lines without noise -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float64, pytest.param(jnp.float32, marks=pytest.mark.slow)])
def test_lines_without_noise(dtype):
    """Two lines, exact or nearly so, at any scale and offset: it ascends, to deviations that rounding can tell."""
    model = elbax.Mixture(components.LinearRegression(floor=0.0), 2)
    em = elbax.em(model)

    @jax.jit
    def fit(params, x):
        state = em.init(params, key=jax.random.key(0))
        state, info = jax.lax.scan(lambda s, _: em(s, x), state, length=60)
        return model.describe(state.params)["deviations"], info.elbo

    eps = float(jnp.finfo(dtype).eps)
    # A residual's rounding in units of the smallest deviation that is told from 0.
    allowed = 1e-8 if dtype == jnp.float64 else 100 * eps / 1e-5 / np.sqrt(60)
    # The smallest deviation that is told from 0, of the target's, and one that is well above it.
    told, small = (1e-4, 1e-4) if dtype == jnp.float64 else (5e-4, 1e-3)
    for noise, scale, offset in itertools.product((0.0, 1e-9, small), (1e-3, 1e6), (0.0, 100.0)):
        rng = np.random.default_rng(0)
        u, first = rng.normal(size=(60, 1)), np.arange(60) % 2 == 0
        line = np.where(first, u[:, 0], 0.5 - u[:, 0]) + offset + noise * rng.normal(size=60)
        x = jnp.asarray(u, dtype), jnp.asarray(scale * line, dtype)
        start = model.init(jax.random.key(1), x)
        start = jax.tree.map(lambda leaf: leaf.astype(dtype), start)
        deviations, elbo = fit(start, x)
        elbo = np.asarray(elbo, float)
        assert np.all(np.isfinite(elbo)), (noise, scale, offset)
        assert np.min(np.diff(elbo) / (1 + np.abs(elbo[1:]))) > -allowed, (noise, scale, offset)
        if noise == small and offset == 0:
            np.testing.assert_allclose(deviations, noise * scale, rtol=0.3)
        assert np.all(deviations < scale * max(3 * noise, told * (1 + offset)))


# --- Newton steps --------------------------------------------------------------------------------------


def one_regression(response):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(60, 2))
    line = 0.4 + u @ np.array([0.8, -0.5])
    y = (
        rng.poisson(np.exp(line))
        if response == "poisson"
        else rng.random(60) < scipy.special.expit(line)
    )
    weight = rng.random(60) + 0.5
    return u, y.astype(float), weight


@pytest.mark.parametrize("response", ["poisson", "bernoulli"])
@pytest.mark.parametrize("start", [0.0, -4.0])
def test_one_generalized_regression_is_its_maximum(response, start):
    """Weighted, against a quasi-Newton search of SciPy's likelihood; a bad start needs halved steps."""
    u, y, weight = one_regression(response)
    oracle = oracles.poisson_regression if response == "poisson" else oracles.bernoulli_regression

    def negative(coefficients):
        return -weight @ oracle({"coefficients": coefficients[None]}, (u, y))[:, 0]

    theirs = scipy.optimize.minimize(negative, np.zeros(3), options={"gtol": 1e-6})
    model = elbax.Mixture(components.GeneralizedLinear(response), 1)
    params = model.from_description(weights=[1.0], coefficients=[[start, 0.0, start]])
    em = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    batch = elbax.Batch((jnp.asarray(u), jnp.asarray(y)), weight=jnp.asarray(weight))
    state, elbo = run(em, model, params, batch, 30)
    assert np.all(np.diff(elbo) >= 0) or np.diff(elbo).min() > -1e-13
    ours = model.describe(state.params)["coefficients"]
    np.testing.assert_allclose(ours[0], theirs.x, atol=2e-6)
    np.testing.assert_allclose(elbo[-1] * weight.sum(), -theirs.fun, rtol=1e-9)


@pytest.mark.slow
def test_newton_counts_the_prior():
    """Its fixed point on a penalized regression: least squares, and (rss + floor) / n."""
    _, _, (u, y) = npreg()
    design = np.column_stack([np.ones(200), u])
    theirs, rss, *_ = np.linalg.lstsq(design, y, rcond=None)
    model = elbax.Mixture(components.LinearRegression(floor=500.0), 1)
    params = model.from_description(
        weights=[1.0], coefficients=[[10.0, 1.0, 0.0]], deviations=[10.0], unit=1.0
    )
    em = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    described = model.describe(run(em, model, params, (u, y), 40)[0].params)
    np.testing.assert_allclose(described["coefficients"][0], theirs, rtol=1e-6)
    deviation = np.sqrt((rss[0] + 500.0) / 200)
    np.testing.assert_allclose(described["deviations"][0], deviation, rtol=1e-8)


@pytest.mark.slow
def test_newton_ascends_for_a_mixture():
    """Two Poisson regressions, from the start that `init` makes; the end is flat."""
    rng = np.random.default_rng(1)
    u = rng.uniform(-1, 1, (150, 1))
    z = rng.random(150) < 0.4
    y = rng.poisson(np.exp(np.where(z, 0.5 + u[:, 0], 2.0 - u[:, 0])))
    x = (jnp.asarray(u), jnp.asarray(y, float))
    model = elbax.Mixture(components.GeneralizedLinear("poisson"), 2)
    em = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    state, elbo = run(em, model, model.init(jax.random.key(0), x), x, 200)
    assert np.all(np.diff(elbo) > -1e-12)
    described = model.describe(state.params)
    theirs = oracles.with_weights(described, oracles.poisson_regression(described, x))
    np.testing.assert_allclose(elbo[-1], oracles.log_sum(theirs).mean(), rtol=1e-9)
    slope = jax.jit(jax.grad(lambda p: elbax.evidence(model, p, x)))(state.params)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)


def test_no_closed_form_is_said(as_users_run):
    _, _, x = npreg()
    model = elbax.Mixture(components.GeneralizedLinear("normal"), 2)
    params = model.init(jax.random.key(0), x)
    exact = elbax.Exact(model, params)
    with pytest.raises(TypeError, match=r"GeneralizedLinear has no closed-form .*NewtonMStep"):
        elbax.ClosedFormMStep(model).init(params, exact, key=jax.random.key(0))
    # The weights alone have one.
    step = elbax.ClosedFormMStep(model, free={"logits": True, "components": False})
    step.init(params, exact, key=jax.random.key(0))
    model = elbax.MixtureOfExperts(components.LinearRegression(), 2)
    params = model.init(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"the gate .* has no closed-form .*\"experts\": True"):
        elbax.ClosedFormMStep(model).init(params, elbax.Exact(model, params), key=jax.random.key(0))


# --- experts -------------------------------------------------------------------------------------------

GATE = np.array([[0.5, 2.0], [0.0, 0.0]])
DESCRIBED = {
    "coefficients": np.array([[0.0, 1.0], [0.5, -1.0]]),
    "deviations": np.array([0.3, 0.5]),
}


@functools.cache
def kink():
    """|u| with noise: one line left of 0, another right of it."""
    rng = np.random.default_rng(2)
    u = rng.uniform(-2, 2, 120)
    y = np.abs(u) + 0.2 * rng.normal(size=120)
    return jnp.asarray(u[:, None]), jnp.asarray(y)


def experts():
    model = elbax.MixtureOfExperts(components.LinearRegression(floor=0.0), 2)
    return model, model.from_description(gate=GATE, **DESCRIBED)


def experts_log_joint(log_gate, densities):
    return densities + log_gate - oracles.log_sum(log_gate)[:, None]


def test_experts_evidence_and_predictions():
    """By SciPy: a softmax gate times normal regressions."""
    model, params = experts()
    x = kink()
    gate = oracles.predictors({"coefficients": GATE}, x[0])
    theirs = experts_log_joint(gate, oracles.normal_regression(DESCRIBED, x))
    ours = elbax.evidence(model, params, x)
    np.testing.assert_allclose(ours, oracles.log_sum(theirs).mean(), rtol=1e-12)
    mean = (scipy.special.softmax(gate, -1) * oracles.predictors(DESCRIBED, x[0])).sum(-1)
    predicted = jax.jit(jax.vmap(lambda u: model.predict(params, u)))(x[0])
    np.testing.assert_allclose(predicted, mean, rtol=1e-12, atol=1e-13)
    q = elbax.Exact(model, params)(jax.tree.map(lambda leaf: leaf[7], x))
    np.testing.assert_allclose(q.mean(), scipy.special.softmax(theirs[7]), rtol=1e-10)


def test_experts_description():
    model, params = experts()
    shifted = params | {"gate": jax.tree.map(lambda leaf: leaf + 3.0, params["gate"])}
    for theta in (params, shifted):
        described = model.describe(theta)
        np.testing.assert_allclose(described["gate"], GATE, atol=1e-15)
        for name, value in DESCRIBED.items():
            np.testing.assert_allclose(described[name], value, rtol=1e-12)
    again = model.from_description(**model.describe(params))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert model.num_free_params(params) == 2 + 2 * 3


@pytest.mark.slow
def test_draws_of_experts():
    model, params = experts()
    u = jnp.full((20_000, 1), 0.4)
    y, z = jax.jit(model.sample)(params, jax.random.key(0), u)
    share = scipy.special.softmax(GATE @ [1.0, 0.4])
    np.testing.assert_allclose(np.bincount(z) / len(z), share, atol=0.02)
    line = DESCRIBED["coefficients"] @ [1.0, 0.4]
    for k in range(2):
        rows = np.asarray(y)[np.asarray(z) == k]
        assert abs(rows.mean() - line[k]) < 5 * DESCRIBED["deviations"][k] / np.sqrt(len(rows))
        np.testing.assert_allclose(rows.std(), DESCRIBED["deviations"][k], rtol=0.1)


def em_of_experts(model):
    return elbax.Chain(
        elbax.ExactEStep(model),
        elbax.ClosedFormMStep(model, free={"gate": False, "experts": True}),
        elbax.NewtonMStep(model, free={"gate": True, "experts": False}),
    )


def test_experts_end_where_the_evidence_is_flat():
    model, _ = experts()
    x = kink()
    params = model.init(jax.random.key(0), x)
    em = em_of_experts(model)
    assert em.ascends
    state, elbo = run(em, model, params, x, 400)
    assert np.all(np.diff(elbo) > -1e-12)
    described = model.describe(state.params)
    gate = oracles.predictors({"coefficients": described["gate"]}, x[0])
    theirs = experts_log_joint(gate, oracles.normal_regression(described, x))
    np.testing.assert_allclose(elbo[-1], oracles.log_sum(theirs).mean(), rtol=1e-10)
    slope = jax.jit(jax.grad(lambda p: elbax.evidence(model, p, x)))(state.params)
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0, atol=1e-7)
    # One line left of 0, the other right of it.
    np.testing.assert_allclose(np.sort(described["coefficients"][:, 1]), [-1, 1], atol=0.15)


def test_the_gate_and_the_experts_stay_where_they_are_frozen():
    """To the bit, and what is free moves."""
    model, params = experts()
    x = kink()
    for step, frozen, moving in [
        (elbax.ClosedFormMStep(model, free={"gate": False, "experts": True}), "gate", "experts"),
        (elbax.NewtonMStep(model, free={"gate": True, "experts": False}), "experts", "gate"),
        (
            elbax.GradientMStep(model, optax.adamw(0.1), free={"gate": True, "experts": False}),
            "experts",
            "gate",
        ),
    ]:
        em = elbax.Chain(elbax.ExactEStep(model), step)
        end = run(em, model, params, x, 3)[0].params
        for new, old in zip(*map(jax.tree.leaves, (end[frozen], params[frozen])), strict=True):
            np.testing.assert_array_equal(new, old)
        assert any(
            bool(jnp.any(new != old))
            for new, old in zip(*map(jax.tree.leaves, (end[moving], params[moving])))
        )


def network(key, num_outputs=2):
    return elbax.Network(
        eqx.nn.MLP(1, num_outputs, 5, 1, activation=jnp.tanh, key=jax.random.key(key), dtype=float)
    )


@pytest.mark.slow
def test_a_gate_and_experts_that_are_networks():
    """Gradient steps ascend; the evidence is that of the networks' outputs, by SciPy."""
    x = kink()
    model = elbax.MixtureOfExperts(components.GeneralizedLinear("normal"), 2)
    params = {
        "gate": network(0),
        "experts": {
            "predictor": network(1),
            "log_noise": jnp.zeros(2),
            "unit": elbax.Reference(jnp.ones(())),
        },
    }
    em = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(0.02)))
    state, elbo = run(em, model, params, x, 300)
    assert elbo[-1] > elbo[0] + 0.5
    gate = np.asarray(jax.vmap(state.params["gate"])(x[0]))
    mean = np.asarray(jax.vmap(state.params["experts"]["predictor"])(x[0]))
    deviation = np.exp(np.asarray(state.params["experts"]["log_noise"]))
    densities = scipy.stats.norm(mean, deviation).logpdf(np.asarray(x[1])[:, None])
    theirs = oracles.log_sum(experts_log_joint(gate, densities)).mean()
    np.testing.assert_allclose(elbax.evidence(model, state.params, x), theirs, rtol=1e-10)
    assert model.num_free_params(params) == 2 * (5 + 5 + 10 + 2) + 2
    model.describe(params)


def test_a_network_gate_over_linear_experts():
    """Closed form for the experts, a gradient for the gate: it ascends, for a small rate."""
    model, params = experts()
    params = params | {"gate": network(0)}
    em = elbax.Chain(
        elbax.ExactEStep(model),
        elbax.ClosedFormMStep(model, free={"gate": False, "experts": True}),
        elbax.GradientMStep(model, optax.sgd(0.1), free={"gate": True, "experts": False}),
    )
    _, elbo = run(em, model, params, kink(), 100)
    assert np.all(np.diff(elbo) > -1e-10)
    assert elbo[-1] > elbo[0] + 0.1
