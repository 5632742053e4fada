"""Information, standard errors and EM's rate against closed forms; criteria against other programs' numbers."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

import elbax
from elbax._reference import split_coordinates


def em(model):
    return elbax.em(model)


def fitted(model, x, *, update=None, params=None, max_steps=3000):
    step = em(model) if update is None else update
    params = model.init(jax.random.key(0), x) if params is None else params
    state = step.init(params, elbax.Exact(model, params), key=jax.random.key(1))
    return step, elbax.fit(step, state, x, tolerance=1e-15, max_steps=max_steps)


def linkage(params, cell, z):
    """Rao's linkage: cell 0 is the sum of one of probability 1/2 and one of θ/4; 1, 2, 3 are seen as they are."""
    t = jax.nn.sigmoid(params)
    cells = jnp.log(jnp.array([t / 4, (1 - t) / 4, (1 - t) / 4, t / 4]))
    first = jnp.where(z == 0, jnp.log(0.5), jnp.log(t / 4))
    return jnp.where(cell == 0, first, jnp.where(z == 0, cells[cell], -jnp.inf))


@functools.cache
def rao():
    model = elbax.Model(linkage, latent=elbax.Categorical(2))
    counts = elbax.Batch(jnp.arange(4), weight=jnp.array([125.0, 18.0, 20.0, 34.0]))
    newton = elbax.Chain(elbax.ExactEStep(model), elbax.NewtonMStep(model))
    _, result = fitted(model, counts, update=newton, params=jnp.array(0.0))
    # A converged gain leaves half the digits to go: some sweeps more.
    state, _ = jax.lax.scan(lambda s, _: newton(s, counts), result.state, length=10)
    return model, counts, newton, state


def test_rao_linkage():
    """Dempster, Laird and Rubin 1977: all that EM says about one parameter, in its own coordinate."""
    model, counts, newton, state = rao()
    theta = jax.nn.sigmoid(state.params)
    assert float(theta) == pytest.approx(0.6268214978709824, abs=1e-12)
    found = elbax.diagnostics.observed_information(model, state.params, counts)
    per_theta = float((theta * (1 - theta)) ** 2)
    assert found.observed[0, 0] / per_theta == pytest.approx(377.5169, abs=1e-4)
    assert found.complete[0, 0] / per_theta == pytest.approx(435.3179, abs=1e-4)
    assert found.missing[0, 0] / per_theta == pytest.approx(57.8010, abs=1e-4)
    assert found.rate == pytest.approx(0.132779, abs=1e-6)
    assert elbax.diagnostics.convergence_rate(newton, state, counts) == pytest.approx(
        0.132779, abs=1e-6
    )
    error = elbax.diagnostics.standard_errors(model, state.params, counts, describe=jax.nn.sigmoid)
    assert error == pytest.approx(0.0514673, abs=1e-7)


def systems():
    x = elbax.datasets.old_faithful().astype(float)
    yield "normal", elbax.GaussianMixture(2, "diagonal"), x
    days = jnp.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    hasselblad = elbax.Batch(jnp.arange(10)[:, None], weight=days)
    yield "poisson", elbax.Mixture(elbax.components.Poisson(), 2), hasselblad
    prior = elbax.priors.Beta(3.0, 2.0)
    yield "map", elbax.Mixture(elbax.components.Bernoulli(prior), 2), (x > x.mean(0)).astype(float)


SYSTEMS = list(systems())


@eqx.filter_jit
def covariance_of_scores(model, params, batch):
    """Σ w Cov_q(∂ log p(x, z)), by enumeration."""
    rows, weight = elbax.data._batch.rows(batch)
    coordinates, rest = split_coordinates(params)
    start, unflatten = ravel_pytree(coordinates)

    def one(x):
        theta = lambda vector: eqx.combine(unflatten(vector), rest)
        log_joint = lambda vector, z: model.log_joint(theta(vector), x, z)
        scores = jax.vmap(jax.grad(log_joint), (None, 0))(start, jnp.arange(2))
        share = elbax.Exact(model, params)(x).mean()
        apart = scores - share @ scores
        return jnp.einsum("k,ki,kj->ij", share, apart, apart)

    return jnp.tensordot(weight, jax.vmap(one)(rows), 1)


@pytest.mark.slow
@pytest.mark.parametrize("model, x", [row[1:] for row in SYSTEMS], ids=[row[0] for row in SYSTEMS])
def test_louis_is_the_hessian_and_the_missing_fraction_is_the_rate(model, x):
    step, result = fitted(model, x, max_steps=20000)
    state, _ = jax.lax.scan(lambda s, _: step(s, x), result.state, length=200)
    found = elbax.diagnostics.observed_information(model, state.params, x, chunk_size=50)
    size = float(jnp.max(jnp.abs(found.observed)))
    missing = covariance_of_scores(model, state.params, x)
    np.testing.assert_allclose(found.missing, missing, atol=1e-9 * size)
    rate = float(elbax.diagnostics.convergence_rate(step, state, x))
    assert float(found.rate) == pytest.approx(rate, abs=1e-5)
    assert 0 < rate < 1
    # The rate is that of the trace's own last gains.
    gains = np.diff(result.trace)
    gains = gains[(gains > 1e-12) & (gains < 1e-6)]
    assert np.median(gains[1:] / gains[:-1]) == pytest.approx(rate**2, abs=0.02)


@pytest.mark.slow
def test_missing_information_of_a_state_space():
    """Beside the covariance of scores over drawn paths: links of a Gaussian chain do not add up linearly."""
    model = elbax.LinearGaussianStateSpace(1)
    params = model.from_description(
        initial_mean=[0.3],
        initial_covariance=[[1.0]],
        transition=[[0.8]],
        transition_covariance=[[0.3]],
        emission=[[1.0]],
        emission_covariance=[[0.5]],
    )
    x = jnp.array([[1.0], [1.2], [0.4], [-0.3], [0.8]])
    found = elbax.diagnostics.observed_information(model, params, x[None])
    coordinates, rest = split_coordinates(params)
    start, unflatten = ravel_pytree(coordinates)
    theta = lambda vector: eqx.combine(unflatten(vector), rest)
    draw = jax.jit(lambda keys: jax.vmap(elbax.Exact(model, params)(x).sample)(keys))
    draws = draw(jax.random.split(jax.random.key(0), 40000))
    score = jax.grad(lambda vector, z: model.log_joint(theta(vector), x, z))
    scores = jax.jit(jax.vmap(score, (None, 0)))(start, draws)
    size = float(jnp.max(jnp.abs(found.missing)))
    np.testing.assert_allclose(found.missing, np.cov(scores.T), atol=0.03 * size)


@pytest.mark.slow
def test_standard_errors_of_one_component_are_the_textbooks():
    """sd/√n of a mean, √(2/n) σ² of a variance, √(p(1 − p)/n) of a proportion, √(λ/n) of a rate."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)) * [1.0, 3.0])
    model = elbax.GaussianMixture(1, "diagonal", floor=0.0)
    _, result = fitted(model, x)
    errors = elbax.diagnostics.standard_errors(model, result.state.params, x)
    sd = np.std(np.asarray(x), 0)
    np.testing.assert_allclose(errors["means"][0], sd / np.sqrt(40), rtol=1e-8)
    variances = np.diagonal(errors["covariances"][0])
    np.testing.assert_allclose(variances, np.sqrt(2 / 40) * sd**2, rtol=1e-8)
    assert errors["weights"][0] == pytest.approx(0, abs=1e-12)

    ones = (x > 0).astype(float)
    model = elbax.Mixture(elbax.components.Bernoulli(), 1)
    _, result = fitted(model, ones)
    p = np.asarray(ones).mean(0)
    errors = elbax.diagnostics.standard_errors(model, result.state.params, ones)
    np.testing.assert_allclose(errors["probabilities"][0], np.sqrt(p * (1 - p) / 40), rtol=1e-8)


def test_standard_errors_where_there_is_no_maximum():
    x = elbax.datasets.old_faithful().astype(float)
    model = elbax.GaussianMixture(2, "spherical")
    params = model.from_description(
        weights=[0.5, 0.5],
        means=[[3.5, 70.0], [3.5, 70.01]],
        covariances=jnp.stack([80.0 * jnp.eye(2)] * 2),
    )
    with pytest.raises(ValueError, match="not a maximum of the evidence.*Fit to convergence"):
        elbax.diagnostics.standard_errors(model, params, x)


def test_criteria_are_scikit_learns():
    x = load_iris().data
    peer = GaussianMixture(3, reg_covar=0, tol=1e-10, max_iter=1000, random_state=0).fit(x)
    model = elbax.GaussianMixture(3, floor=0.0)
    params = model.from_description(
        weights=peer.weights_, means=peer.means_, covariances=peer.covariances_
    )
    found = elbax.diagnostics.information_criteria(model, params, jnp.asarray(x), chunk_size=37)
    assert found.bic == pytest.approx(peer.bic(x), rel=1e-10)
    assert found.aic == pytest.approx(peer.aic(x), rel=1e-10)
    assert found.log_likelihood == pytest.approx(peer.score(x) * 150, rel=1e-10)
    certain = np.log(peer.predict_proba(x).max(1)).sum()
    assert found.icl == pytest.approx(peer.bic(x) - 2 * certain, rel=1e-10)


@pytest.mark.slow
def test_iris_icl_from_the_k_means_start():
    """mclust's VVV with 3 components: ICL −584.0522 in its sign."""
    x = load_iris().data
    which = KMeans(3, n_init=10, random_state=0).fit_predict(x)
    parts = [x[which == k] for k in range(3)]
    model = elbax.GaussianMixture(3, floor=0.0)
    params = model.from_description(
        weights=[len(part) / 150 for part in parts],
        means=np.stack([part.mean(0) for part in parts]),
        covariances=np.stack([np.cov(part.T, bias=True) for part in parts]),
    )
    # mclust stops once a sweep gains less than 1e-5 of the log-likelihood; the limit lies 3e-4 higher.
    step = em(model)
    state = step.init(params, elbax.Exact(model, params), key=jax.random.key(0))
    _, trace = jax.lax.scan(lambda s, _: step(s, jnp.asarray(x)), state, length=400)
    total = 150 * np.asarray(trace.elbo)
    stop = int(np.argmax(np.diff(total) < 1e-5 * (1 + np.abs(total[1:])))) + 1
    assert total[stop] == pytest.approx(-180.1858, abs=5e-4)
    state, _ = jax.lax.scan(lambda s, _: step(s, jnp.asarray(x)), state, length=stop)
    found = elbax.diagnostics.information_criteria(model, state.params, jnp.asarray(x))
    assert found.icl == pytest.approx(584.0522, abs=5e-3)


def test_criteria_of_a_plain_model_want_the_number_of_params():
    model, counts, _, state = rao()
    with pytest.raises(TypeError, match="Model does not define.*Pass num_free_params"):
        elbax.diagnostics.information_criteria(model, state.params, counts)
    found = elbax.diagnostics.information_criteria(model, state.params, counts, num_free_params=1)
    theta = 0.6268214978709824
    cells = [0.5 + theta / 4, (1 - theta) / 4, (1 - theta) / 4, theta / 4]
    expected = float(np.sum(np.array([125, 18, 20, 34]) * np.log(cells)))
    assert found.log_likelihood == pytest.approx(expected, rel=1e-10)
    assert found.num_data == 197
    assert found.aicc == pytest.approx(found.aic + 2 * 1 * 2 / (197 - 2), rel=1e-12)
    one = elbax.diagnostics.information_criteria(
        model, state.params, counts, num_free_params=1, num_data=2
    )
    assert one.aicc == np.inf
    assert one.bic == pytest.approx(np.log(2) - 2 * expected, rel=1e-10)
    assert str(round(expected, 3)) in repr(found) and "n = 197" in repr(found)
    with pytest.raises(ValueError, match="num_data must be positive, got 0"):
        elbax.diagnostics.information_criteria(
            model, state.params, counts, num_free_params=1, num_data=0
        )


@pytest.mark.slow
def test_select_finds_the_number_of_components_and_prints_a_table(capsys):
    rng = np.random.default_rng(1)
    x = jnp.asarray(
        np.concatenate([rng.poisson(rate, (80, 2)) for rate in (1.0, 9.0)]).astype(float)
    )
    models = {f"K = {k}": elbax.Mixture(elbax.components.Poisson(), k) for k in (1, 2, 3)}
    table = elbax.diagnostics.select(
        models, x, key=jax.random.key(0), num_restarts=3, held_out=x[::3], by="aicc", progress=True
    )
    assert "3/3" in capsys.readouterr().err
    assert table.best == "K = 2"
    assert "→ K = 2" in str(table) and "held out" in str(table)
    header = str(table).splitlines()[0].split()
    assert header[:5] == ["model", "K", "log-lik", "params", "AIC"]
    assert header[-3:] == ["result", "rejected", "ends"]
    assert "n = 160" in str(table) and "best by AICc" in repr(table)
    fit = table.fits["K = 1"]
    assert f"{fit.message} ELBO -" in repr(fit)
    assert f"ELBO {float(fit.best.elbo):.6f} nats per datum" in repr(fit.best)
    row = table.rows["K = 1"]
    expected = scipy.stats.poisson(np.asarray(x).mean(0)).logpmf(np.asarray(x)).sum()
    assert row.log_likelihood == pytest.approx(expected, rel=1e-10)
    assert row.num_free_params == 2
    with pytest.raises(ValueError, match="held_out"):
        elbax.diagnostics.select(models, x, key=jax.random.key(0), by="held_out")


def ended(log_likelihood, elbo, num_distinct, num_free_params=5, num_data=100.0):
    """A row of a table and the restarts behind it."""
    result = elbax.Result((), elbo[0], np.zeros(1), 1, "converged", "Converged after 1 steps.")
    rejected = np.array([False] * (len(elbo) - 1) + [True])
    codes = ("converged",) * len(elbo)
    counts, traces = np.ones(len(elbo), int), np.array(elbo)[:, None]
    restarts = elbax.Restarts(
        result, np.array(elbo), counts, codes, rejected, num_distinct, 1, "So it was.", traces
    )
    numbers = (log_likelihood, num_free_params, num_data, 1.0, 2.0, 3.0, None)
    return elbax.diagnostics.Criteria(*numbers), restarts


def test_a_table_says_where_more_components_end_lower_than_fewer(as_users_run):
    models = {
        "2": elbax.GaussianMixture(2),
        "3": elbax.GaussianMixture(3),
        "3 tied": elbax.GaussianMixture(3, "tied"),
    }
    found = {
        "2": ended(-400.0, [-4.0, -4.0000001, -4.2, -3.0], 2),
        "3": ended(-401.0, [-4.01, -4.5], 1),
        "3 tied": ended(-420.0, [-4.2, -4.2], 1),
    }
    rows = {name: pair[0] for name, pair in found.items()}
    fits = {name: pair[1] for name, pair in found.items()}
    table = elbax.diagnostics.Selection("2", "bic", rows, fits, {}, models)
    said = str(table)
    assert "3 ended at a log-likelihood of -401.000, lower than that of 2, -400.000" in said
    assert "3 tied ended" not in said
    lines = said.splitlines()
    assert lines[0].split()[:3] == ["model", "K", "structure"]
    assert lines[1].split() == ("→ 2 2 full -400.000 5 1.000 2.000 3.000 converged 1/4 2".split())
    assert lines[3].split()[:5] == ["3", "tied", "3", "tied", "-420.000"]


def test_select_warns_where_more_components_end_lower_than_fewer():
    """One sweep from halves of a normal sample is not yet as good as the normal itself."""
    x = scipy.stats.norm.ppf((np.arange(64) + 0.5) / 64)[:, None]
    models = {"1": elbax.GaussianMixture(1), "2": elbax.GaussianMixture(2)}
    options = {"init": "quantiles", "num_restarts": 1, "max_steps": 1}
    with pytest.warns(
        UserWarning, match="select: 2 ended at a log-likelihood of .* lower than that of 1"
    ):
        table = elbax.diagnostics.select(models, x, key=jax.random.key(0), **options)
    assert "Raise num_restarts" in str(table)


def test_select_names_its_criteria(as_users_run):
    with pytest.raises(ValueError, match="'icl', 'held_out' or 'elbo'; got 'dic'"):
        elbax.diagnostics.select({}, jnp.zeros((3, 1)), key=jax.random.key(0), by="dic")


@pytest.mark.slow
def test_a_model_that_only_collapses_has_no_row():
    x = jnp.asarray(np.repeat(np.random.default_rng(2).normal(size=(3, 1)), [1, 8, 8], 0))
    x = x + jnp.where(jnp.arange(17) < 1, 0, jnp.linspace(0, 1e-9, 17))[:, None]
    models = {
        "1": elbax.GaussianMixture(1, floor=0.0),
        "3": elbax.GaussianMixture(3, floor=0.0),
    }
    with pytest.warns(UserWarning, match="select, 3: None of 2 restarts ended at a usable result"):
        table = elbax.diagnostics.select(models, x, key=jax.random.key(0), num_restarts=2)
    assert table.best == "1" and table.rows["3"] is None
    assert "every restart collapsed" in str(table)


@pytest.mark.parametrize(
    "model",
    [
        elbax.GaussianMixture(3),
        elbax.Mixture(elbax.components.Bernoulli(), 3),
        elbax.Mixture(elbax.components.StudentT(), 3),
        elbax.FactorAnalysis(1),
    ],
    ids=lambda model: type(getattr(model, "component", model)).__name__,
)
def test_two_restarts_differ(model):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(30, 3)))
    if isinstance(getattr(model, "component", None), elbax.components.Bernoulli):
        x = (x > 0).astype(float)
    keys = jax.random.split(jax.random.key(0), 2)
    starts = jax.vmap(lambda key: ravel_pytree(model.init(key, x))[0])(keys)
    assert float(jnp.max(jnp.abs(starts[0] - starts[1]))) > 1e-2
