"""Logistic and probit regression beside scikit-learn, SciPy, quadrature and the formulas of the literature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from cases import sweeps
from sklearn.linear_model import LogisticRegression as Peer

import elbax
from elbax import priors
from elbax._reference import split_coordinates
from elbax.beliefs import GaussianBelief
from elbax.beliefs._rows import root_of_covariance


KEY = jax.random.key(0)
LOG_LINK = {"logistic": lambda s: -np.logaddexp(0, -s), "probit": scipy.special.log_ndtr}
MODELS = {"logistic": elbax.LogisticRegression, "probit": elbax.ProbitRegression}
both = pytest.mark.parametrize("name", MODELS)


@functools.cache
def data(num_inputs=3, num_data=40):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(num_data, num_inputs))
    score = u @ np.array([1.0, -1.0, 0.5])[:num_inputs] + 0.3
    return u, (score + rng.logistic(size=num_data) > 0).astype(int)


@functools.cache
def fitted(name):
    """Returns (model under a prior, its params at the fixed point of EM, the bounds)."""
    model = MODELS[name](priors.Normal(1.5))
    em, x = elbax.em(model), data()
    state = em.init(model.init(KEY, x), key=KEY)
    run = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: em(s, x), s, length=300))
    state, info = run(state, x)
    return model, state.params, np.asarray(info.elbo)


@functools.cache
def believed(name):
    """Returns (a Bayesian of two coefficients, its params at the fixed point, the bounds)."""
    model = elbax.Bayesian(MODELS[name](priors.Normal(1.5, 3.0)))
    em, x = elbax.em(model), data(1)
    params = model.model.from_description(coefficients=[0.1, 0.2])
    state = em.init(model.start(params, x), key=KEY)
    run = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: em(s, x), s, length=200))
    state, info = run(state, x)
    return model, state.params, np.asarray(info.elbo)


def moments(q):
    """Returns (m, V) of a belief, by NumPy from its params."""
    point, raw = (np.asarray(q["coefficients"][name]) for name in ("point", "precision"))
    root = np.asarray(root_of_covariance(jnp.asarray(raw), point.size))
    return point, root @ root.T


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_evidence_is_the_logarithm_of_the_link(name, dtype):
    scores = np.array([-1e3, -40, -2, -1e-3, 0, 0.5, 3, 50, 1e3], dtype)
    model = MODELS[name]()
    params = {"coefficients": jnp.asarray([0, 1], dtype)}
    one = lambda s, y: elbax.evidence(model, params, (s[None, None], y[None]))
    found = jax.jit(jax.vmap(one))(scores, np.ones(9, int))
    other = jax.jit(jax.vmap(one))(scores, np.zeros(9, bool))
    tolerance = {"rtol": 1e-6 if dtype == np.float32 else 1e-12, "atol": np.finfo(dtype).eps}
    np.testing.assert_allclose(found, LOG_LINK[name](np.float64(scores)), **tolerance)
    np.testing.assert_allclose(other, LOG_LINK[name](-np.float64(scores)), **tolerance)
    slope = jax.jit(jax.vmap(jax.grad(one), (0, 0)))(scores, np.ones(9, int))
    assert np.isfinite(slope).all()
    odds = scipy.stats.norm.logpdf(np.float64(scores)) - LOG_LINK["probit"](np.float64(scores))
    peer = {"logistic": scipy.special.expit(-np.float64(scores)), "probit": np.exp(odds)}
    np.testing.assert_allclose(slope, peer[name], rtol=2e-5, atol=np.finfo(dtype).eps)


@both
def test_the_fixed_point_is_the_mode_that_scipy_finds(name):
    (u, y), (model, params, bounds) = data(), fitted(name)
    design, center = np.column_stack([np.ones(len(u)), u]), u.mean(0)

    def loss(w):
        at_center = np.r_[w[0] + center @ w[1:], w[1:]]
        prior = scipy.stats.norm(0, [10, 1.5, 1.5, 1.5]).logpdf(at_center).sum()
        return -LOG_LINK[name]((2 * y - 1) * (design @ w)).sum() - prior

    best = scipy.optimize.minimize(loss, np.zeros(4), options={"gtol": 1e-7})
    np.testing.assert_allclose(params["coefficients"], best.x, atol=1e-6)
    # The gradient of the log-posterior is 0.
    objective = lambda w: (
        len(u) * elbax.evidence(model, params | {"coefficients": w}, (u, y))
        + model.log_prior(params | {"coefficients": w})
    )
    value, slope = jax.jit(jax.value_and_grad(objective))(params["coefficients"])
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    np.testing.assert_allclose(value, -loss(np.asarray(params["coefficients"])), rtol=1e-12)
    assert np.diff(bounds).min() > -1e-12
    np.testing.assert_allclose(bounds[-1], value / len(u), rtol=1e-12)


def test_logistic_regression_is_that_of_scikit_learn():
    u, y = data()
    _, params, _ = fitted("logistic")
    peer = Peer(C=1.5**2, tol=1e-12, max_iter=1000)
    # Its intercept has no prior; ours is a millionth of a millionth of a datum.
    model = elbax.LogisticRegression(priors.Normal(1.5, 1e6))
    newton = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    result = elbax.fit(newton, newton.init(params, key=KEY), (u, y), tolerance=1e-14)
    peer.fit(u, y)
    theirs = np.r_[peer.intercept_, peer.coef_[0]]
    np.testing.assert_allclose(result.params["coefficients"], theirs, atol=1e-6)
    predicted = jax.vmap(lambda u: model.predict(result.params, u))(u)
    np.testing.assert_allclose(predicted, peer.predict_proba(u)[:, 1], atol=1e-6)


def test_the_logistic_bound_is_that_of_jaakkola_and_jordan():
    """Written out as in Bishop (2006), section 10.6, and its fixed point by their equations."""
    (u, y), (_, q, bounds) = data(1), believed("logistic")
    design, prior = np.column_stack([np.ones(len(u)), u]), np.diag([1 / 9, 1 / 1.5**2])
    rate = lambda xi: np.tanh(xi / 2) / (4 * xi)
    mean, covariance = np.zeros(2), np.linalg.inv(prior)
    for _ in range(500):
        second = covariance + np.outer(mean, mean)
        xi = np.sqrt(np.einsum("ni,ij,nj->n", design, second, design))
        covariance = np.linalg.inv(prior + 2 * (design.T * rate(xi)) @ design)
        mean = covariance @ design.T @ (y - 0.5)
    ours = moments(q)
    np.testing.assert_allclose(ours[0], mean, atol=1e-9)
    np.testing.assert_allclose(ours[1], covariance, atol=1e-9)
    sign = lambda matrix: np.linalg.slogdet(matrix)[1]
    bound = 0.5 * sign(covariance) + 0.5 * sign(prior)
    bound += 0.5 * mean @ np.linalg.solve(covariance, mean)
    bound += np.sum(LOG_LINK["logistic"](xi) - 0.5 * xi + rate(xi) * xi**2)
    np.testing.assert_allclose(len(u) * bounds[-1], bound, rtol=1e-10)


def log_joint(name, w, deviations):
    """Returns log p(y, w) of every row of w, under normals with these deviations."""
    u, y = data(1)
    score = (w[:, :1] + w[:, 1:] * u[:, 0]) * (2 * y - 1)
    return LOG_LINK[name](score).sum(1) + scipy.stats.norm(0, deviations).logpdf(w).sum(1)


def quadrature(name, deviations):
    """Returns (the evidence in all, the posterior's mean and deviations)."""
    # On a grid of 12 deviations of the belief.
    mean, covariance = moments(believed(name)[1])
    nodes, weights = np.polynomial.legendre.leggauss(120)
    root = np.linalg.cholesky(covariance)
    w = mean + 12 * np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2) @ root.T
    volume = np.log(144 * np.outer(weights, weights).ravel() * np.linalg.det(root))
    joint = log_joint(name, w, deviations) + volume
    evidence = scipy.special.logsumexp(joint)
    posterior = np.exp(joint - evidence)
    return evidence, posterior @ w, np.sqrt(posterior @ (w - posterior @ w) ** 2)


@both
def test_the_bound_ascends_to_below_the_evidence(name):
    _, q, bounds = believed(name)
    assert np.diff(bounds).min() > -1e-12
    evidence, center, deviations = quadrature(name, [3, 1.5])
    # Between them is the information about the coefficients that is in the latents.
    assert evidence - {"logistic": 0.3, "probit": 1.0}[name] < 40 * bounds[-1] < evidence
    mean, covariance = moments(q)
    np.testing.assert_allclose(mean, center, atol=0.2)
    # Known to be too narrow, not too wide.
    assert (np.sqrt(np.diag(covariance)) < deviations).all()


def by_draws(model):
    """Returns this model of two coefficients under N(0, 1.5²) with a Gaussian belief."""
    full = lambda params: params["coefficients"]
    prior = {"coefficients": 1.5}
    return elbax.Bayesian(model, GaussianBelief(prior, full=full, num_samples=10, antithetic=True))


@both
def test_a_gaussian_belief_reaches_the_evidence(name):
    """Without the latents, q(β) misses it by what it differs from a normal: less than 0.1 nats in all."""
    x, model = data(1), MODELS[name]()
    bayesian = by_draws(model)
    update = elbax.Chain(
        elbax.ExactEStep(bayesian), elbax.OnlineMStep(bayesian, lambda t: (t + 10.0) ** -0.7)
    )
    q = bayesian.start(model.from_description(coefficients=[0.1, 0.2]), x)
    state, _ = sweeps(update, update.init(q, key=KEY), x, 300)
    evidence, center, deviations = quadrature(name, 1.5)
    _, (normal,) = bayesian.belief._normals(state.params)
    mean, root = np.asarray(normal.mean), np.asarray(normal.factor)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    w = mean + np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2) @ root.T
    share = np.outer(weights, weights).ravel() / (2 * np.pi)
    bound = share @ log_joint(name, w, 1.5) + 1 + np.log(2 * np.pi * np.linalg.det(root))
    assert evidence - 0.1 < bound < evidence
    np.testing.assert_allclose(mean, center, atol=0.1 * deviations.min())
    np.testing.assert_allclose(np.linalg.norm(root, axis=1), deviations, rtol=0.05)
    # The bound by draws is this one, where each has its own q(z).
    exact = elbax.Exact(bayesian, state.params)
    of_key = jax.jit(lambda key: elbax.elbo(bayesian, state.params, exact, x, key=key))
    found = 40 * jax.lax.map(of_key, jax.random.split(KEY, 1000))
    assert abs(found.mean() - bound) < 4.5 * found.std() / np.sqrt(1000) < 0.1


@both
@pytest.mark.parametrize("natural", [False, True])
def test_steps_at_draws_are_those_of_the_log_density(name, natural):
    """The point that the coordinates are about is drawn too: nothing of the gradient is lost in it."""
    link = {"logistic": jax.nn.log_sigmoid, "probit": jax.scipy.special.log_ndtr}[name]

    def log_density(params, x):
        inputs, label = x
        score = params["coefficients"][0] + inputs @ params["coefficients"][1:]
        return link(jnp.where(label > 0, score, -score))

    x, start = data(1), MODELS[name]().from_description(coefficients=[0.1, 0.2])

    def moved(model, params):
        bayesian = by_draws(model)
        step = (
            elbax.OnlineMStep(bayesian, 0.3)
            if natural
            else elbax.GradientMStep(bayesian, optax.sgd(1.0))
        )
        update = elbax.Chain(elbax.ExactEStep(bayesian), step)
        state, _ = jax.jit(update)(update.init(bayesian.start(params, x), key=KEY), x)
        return jax.tree.leaves(split_coordinates(state.params)[0])

    plain = moved(elbax.Model(log_density), {"coefficients": start["coefficients"]})
    for ours, theirs in zip(moved(MODELS[name](), start), plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_probit_predictive_is_the_average_over_the_belief():
    bayesian, q, _ = believed("probit")
    model, params = bayesian.predictive(q)
    mean, covariance = moments(q)
    inputs = np.array([-3.0, 0.0, 0.7])
    found = [
        jnp.exp(elbax.evidence(model, params, (np.full((1, 1), u), np.ones(1)))) for u in inputs
    ]
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    for one, u in zip(found, inputs, strict=True):
        design = np.array([1, u])
        score = design @ mean + np.sqrt(design @ covariance @ design) * nodes
        expected = weights @ scipy.special.ndtr(score) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(one, expected, rtol=1e-10)
    drawn, draws = bayesian.predictive(q, key=KEY, num_samples=4000)
    given = np.full((1, 1), 0.7), np.ones(1)
    np.testing.assert_allclose(jnp.exp(elbax.evidence(drawn, draws, given)), found[2], atol=0.01)
    with pytest.raises(TypeError, match="coefficients of a LogisticRegression.*predictive.q, key"):
        believed("logistic")[0].predictive(believed("logistic")[1])


def test_minibatches_reach_the_same_belief():
    """Stochastic variational inference, by natural gradients."""
    (u, y), (bayesian, end, _) = data(1), believed("logistic")
    batches = jax.tree.map(lambda leaf: leaf.reshape(4, 10, *leaf.shape[1:]), (u, y))
    exact = elbax.ExactEStep(bayesian)
    state = lambda step: step.init(bayesian.start(bayesian.inside(end), (u, y)), key=KEY)

    online = elbax.Chain(exact, elbax.OnlineMStep(bayesian, lambda t: 1 / (1 + t)))
    scaled = elbax.Batch(batches, weight=np.full((4, 10), 4.0))

    @jax.jit
    def run(state, batches):
        epoch = lambda s, _: (jax.lax.scan(online, s, batches)[0], None)
        return jax.lax.scan(epoch, state, length=100)[0]

    found = run(state(online), scaled).params
    for ours, theirs in zip(moments(found), moments(end), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.02)


@both
def test_memoized_batches_ascend_to_the_same_belief(name):
    (u, y), (bayesian, end, bounds) = data(1), believed(name)
    batches = jax.tree.map(lambda leaf: leaf.reshape(4, 10, *leaf.shape[1:]), (u, y))
    update = elbax.Chain(elbax.ExactEStep(bayesian), elbax.IncrementalMStep(bayesian, 4))
    start = bayesian.start(bayesian.model.from_description(coefficients=[0.1, 0.2]), (u, y))

    @jax.jit
    def run(state, batches):
        def epoch(state, _):
            state = jax.lax.scan(update, state, batches)[0]
            exact = elbax.Exact(bayesian, state.params)
            return state, elbax.elbo(bayesian, state.params, exact, (u, y))

        return jax.lax.scan(epoch, state, length=60)

    state, found = run(update.init(start, key=KEY), batches)
    assert np.diff(found).min() > -1e-12
    np.testing.assert_allclose(found[-1], bounds[-1], rtol=1e-12)
    for ours, theirs in zip(moments(state.params), moments(end), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


@both
def test_annealing_ends_at_the_same_belief(name):
    """At a constant β each step ascends the annealed bound; from β = 1 on it is the bound itself."""
    x, (bayesian, end, bounds) = data(1), believed(name)
    params = bayesian.model.from_description(coefficients=[0.1, 0.2])
    schedule = lambda step: jnp.where(step < 20, 0.5, 1.0)
    update = elbax.wrappers.Anneal(elbax.em(bayesian), schedule)
    state, info = sweeps(update, update.init(bayesian.start(params, x), key=KEY), x, 200)
    assert np.diff(info.elbo[:20]).min() > -1e-12 and np.diff(info.elbo[20:]).min() > -1e-12
    assert abs(info.elbo[19] - bounds[-1]) > 1e-3
    np.testing.assert_allclose(info.elbo[-1], bounds[-1], rtol=1e-12)
    for ours, theirs in zip(moments(state.params), moments(end), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_frozen_coefficients_and_far_inputs():
    (u, y), (model, params, _) = data(), fitted("logistic")
    step = lambda free: elbax.Chain(
        elbax.ExactEStep(model), elbax.ClosedFormMStep(model, free={"coefficients": free})
    )
    mask = np.array([False, True, False, True])
    held = step(mask)
    start = params | {"coefficients": params["coefficients"] + 0.3}
    run = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: held(s, x), s, length=200))
    end, info = run(held.init(start, key=KEY), (u, y))
    np.testing.assert_array_equal(end.params["coefficients"][~mask], start["coefficients"][~mask])
    assert np.diff(info.elbo).min() > -1e-12
    objective = lambda w: (
        len(u) * elbax.evidence(model, start | {"coefficients": w}, (u, y))
        + model.log_prior(start | {"coefficients": w})
    )
    slope = jax.jit(jax.grad(objective))(end.params["coefficients"])
    np.testing.assert_allclose(slope[mask], 0, atol=1e-8)

    # A million deviations from 0 the slopes have lost six digits of sixteen.
    far = (u + 1e6, y)
    em = elbax.em(model)
    run = jax.jit(lambda s, x: jax.lax.scan(lambda s, _: em(s, x), s, length=300))
    end, _ = run(em.init(model.init(KEY, far), key=KEY), far)
    np.testing.assert_allclose(
        end.params["coefficients"][1:], params["coefficients"][1:], rtol=1e-7
    )


def test_standard_errors_and_free_params():
    (u, y), (model, params, _) = data(), fitted("logistic")
    assert model.num_free_params(params) == 4
    errors = elbax.diagnostics.standard_errors(model, params, (u, y))
    design = np.column_stack([np.ones(len(u)), u])
    predicted = jax.vmap(lambda u: model.predict(params, u))(u)
    information = (design.T * np.asarray(predicted * (1 - predicted))) @ design
    shear = np.eye(4)
    shear[0, 1:] = u.mean(0)
    information += shear.T @ np.diag(1 / np.array([10, 1.5, 1.5, 1.5]) ** 2) @ shear
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    np.testing.assert_allclose(errors["coefficients"], expected, rtol=1e-6)


def test_a_start_with_one_label_is_finite():
    u, _ = data()
    for model in (elbax.LogisticRegression(), elbax.ProbitRegression()):
        params = model.init(KEY, (u, np.ones(len(u), bool)))
        assert np.isfinite(params["coefficients"]).all()
        np.testing.assert_array_equal(params["coefficients"][1:], 0)


def test_errors_teach():
    (u, y), model = data(), elbax.LogisticRegression()
    em = elbax.em(model)
    with pytest.raises(ValueError, match="labels: expected zeros and ones; row 0 is -1"):
        model.init(KEY, (u, np.full(len(u), -1)))
    with pytest.raises(ValueError, match="pair .inputs, target. of shapes"):
        elbax.fit(em, u, key=KEY)
    with pytest.raises(ValueError, match="row 3, column 1 is nan"):
        broken = u.copy()
        broken[3, 1] = np.nan
        elbax.fit(em, (broken, y), key=KEY)
    params = model.init(KEY, (u, y))
    with pytest.raises(ValueError, match=r"one datum must have shape \(3,\), got \(2,\)"):
        elbax.Exact(model, params)((u[0, :2], y[0]))
    with pytest.raises(ValueError, match="target of shape"):
        elbax.Exact(model, params)((u[0], y))
    with pytest.raises(TypeError, match="Normal"):
        elbax.ProbitRegression(prior=priors.Beta(1.0, 1.0))
    with pytest.raises(TypeError, match="LogisticRegression has no prior.*priors.Normal"):
        elbax.Bayesian(model)
    with pytest.raises(ValueError, match="Normal: deviation must be"):
        priors.Normal(0.0)
    with pytest.raises(ValueError, match="coefficients"):
        model.from_description(coefficients=[[1.0, 2.0]])
    with pytest.raises(TypeError, match="continuous PolyaGamma latent.*Use ExactEStep"):
        hard = elbax.Chain(elbax.HardEStep(model), elbax.ClosedFormMStep(model))
        hard(hard.init(params, key=KEY), (u, y))
    # Inside of jit a value cannot be refused, and has probability 0.
    assert jax.jit(lambda y: elbax.evidence(model, params, (u[:1], y)))(np.array([2])) == -np.inf
