"""Factor analysis and probabilistic PCA: published fits, closed forms, patterns of zeros, moments alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize
import scipy.stats
from cases import sweeps
from sklearn import decomposition
from sklearn.datasets import load_digits, load_iris

import elbax


# Ability and intelligence tests, R's `ability.cov`: 112 people, 6 tests.
ABILITY = np.array(
    [
        [24.641, 5.991, 33.520, 6.023, 20.755, 29.701],
        [5.991, 6.700, 18.137, 1.782, 4.936, 7.204],
        [33.520, 18.137, 149.831, 19.424, 31.430, 50.753],
        [6.023, 1.782, 19.424, 12.711, 4.757, 9.075],
        [20.755, 4.936, 31.430, 4.757, 52.604, 66.762],
        [29.701, 7.204, 50.753, 9.075, 66.762, 135.292],
    ]
)
NUM_PEOPLE = 112
CORRELATION = ABILITY / np.sqrt(np.outer(np.diag(ABILITY), np.diag(ABILITY)))


def steps_of(model, ecme=False):
    parts = [elbax.ExactEStep(model), elbax.ClosedFormMStep(model)]
    return elbax.Chain(*parts, *([elbax.EvidenceMStep(model)] if ecme else []))


def run(update, model, params, batch, length):
    """(params after so many steps, the ELBO before each)."""
    state = update.init(params, elbax.Exact(model, params), key=jax.random.key(0))
    state, info = sweeps(update, state, batch, length)
    return state.params, None if info.elbo is None else np.asarray(info.elbo)


def log_likelihood(covariance, sample):
    """Of n rows with this sample covariance (n in the denominator), per row, at the sample's mean."""
    dim = len(sample)
    log_determinant = np.linalg.slogdet(covariance)[1]
    trace = np.trace(np.linalg.solve(covariance, sample))
    return -0.5 * (dim * np.log(2 * np.pi) + log_determinant + trace)


@functools.cache
def ability():
    model = elbax.FactorAnalysis(2, floor=0.0)
    batch = elbax.from_moments(jnp.zeros(6), jnp.asarray(CORRELATION), NUM_PEOPLE)
    return model, batch, model.init(jax.random.key(0), batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ecme", "length"), [(True, 240), pytest.param(False, 20_000, marks=pytest.mark.slow)]
)
def test_ability(ecme, length):
    """R's factanal: uniquenesses and Bartlett's chi-squared, from a correlation matrix alone."""
    model, batch, params = ability()
    params, elbo = run(steps_of(model, ecme), model, params, batch, length)
    assert np.all(np.diff(elbo) > -1e-12)
    uniquenesses = model.describe(params)["uniquenesses"]
    golden = [0.45522, 0.58933, 0.21818, 0.76942, 0.05244, 0.33359]
    np.testing.assert_allclose(uniquenesses, golden, atol=2e-5)

    covariance = np.asarray(model.covariance(params))
    np.testing.assert_allclose(np.diag(covariance), 1, atol=1e-6)
    log_ratio = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(CORRELATION)[1]
    distance = log_ratio + np.trace(np.linalg.solve(covariance, CORRELATION)) - 6
    bartlett = NUM_PEOPLE - 1 - (2 * 6 + 5) / 6 - 2 * 2 / 3
    assert bartlett * distance == pytest.approx(6.106617, abs=2e-6)
    # 6 · 7 / 2 covariances less what the model has beside its mean.
    assert 21 - (model.num_free_params(params) - 6) == 4


def test_moments_are_those_given():
    """Mean, covariance and weight, and so the evidence of a normal, by NumPy and SciPy."""
    mean = np.arange(6.0)
    batch = elbax.from_moments(jnp.asarray(mean), jnp.asarray(ABILITY), NUM_PEOPLE)
    x, weight = np.asarray(batch.x), np.asarray(batch.weight)
    assert x.shape == (7, 6)
    np.testing.assert_allclose(weight.sum(), NUM_PEOPLE, rtol=1e-12)
    np.testing.assert_allclose(weight @ x / weight.sum(), mean, atol=1e-11)
    np.testing.assert_allclose(np.cov(x.T, aweights=weight, ddof=0), ABILITY, rtol=1e-11)
    model = elbax.GaussianMixture(1)
    params = model.from_description(weights=[1.0], means=mean[None], covariances=ABILITY[None])
    theirs = log_likelihood(ABILITY, ABILITY)
    np.testing.assert_allclose(elbax.evidence(model, params, batch), theirs, rtol=1e-12)


def test_compress_keeps_the_moments():
    """Also of weighted rows, at an offset, and with columns of very different units."""
    rng = np.random.default_rng(0)
    x = 1e4 + rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)) * np.array([1.0, 1e-3, 1e3])
    weight = np.append(rng.random(49), 0.0)
    spoiled = x.copy()
    spoiled[-1] = np.nan
    batch = elbax.compress(elbax.Batch(spoiled, weight=weight), chunk_size=7)
    points, share = np.asarray(batch.x), np.asarray(batch.weight)
    np.testing.assert_allclose(share.sum(), weight.sum(), rtol=1e-12)
    np.testing.assert_allclose(share @ points / share.sum(), weight @ x / weight.sum(), rtol=1e-12)
    ours = np.cov(points.T, aweights=share, ddof=0)
    theirs = np.cov(x.T, aweights=weight, ddof=0)
    scale = np.sqrt(np.diag(theirs))
    np.testing.assert_allclose(
        ours / np.outer(scale, scale), theirs / np.outer(scale, scale), atol=1e-10
    )


@pytest.mark.slow
def test_compress_keeps_the_precision():
    """float32 in, float32 out; whole numbers are numbers."""
    x = np.random.default_rng(0).normal(size=(30, 3))
    assert elbax.compress(jnp.asarray(x, jnp.float32)).x.dtype == jnp.float32
    whole = elbax.compress(jnp.arange(12).reshape(6, 2) ** 2)
    np.testing.assert_allclose(
        np.cov(whole.x.T, ddof=0), np.cov((np.arange(12).reshape(6, 2) ** 2).T, ddof=0), rtol=1e-12
    )


def test_moment_errors(as_users_run):
    with pytest.raises(ValueError, match="not symmetric"):
        elbax.from_moments(np.zeros(2), np.array([[1.0, 0.5], [0.1, 1.0]]), 10)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        elbax.from_moments(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), 10)
    with pytest.raises(ValueError, match=r"covariance must have shape \(3, 3\)"):
        elbax.from_moments(np.zeros(3), np.eye(2), 10)
    with pytest.raises(ValueError, match="compress: row 1, column 0 is nan"):
        elbax.compress(np.array([[1.0, 2.0], [np.nan, 1.0]]))


@pytest.mark.slow
@pytest.mark.parametrize("ecme", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compressed_and_full_data_fit_alike(ecme):
    """300 sweeps."""
    x = jnp.asarray(load_iris().data)
    model = elbax.FactorAnalysis(1, floor=1e-3)
    params = model.init(jax.random.key(0), x)
    ends = [run(steps_of(model, ecme), model, params, b, 300) for b in (x, elbax.compress(x))]
    for ours, theirs in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


# --- probabilistic PCA ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_factors", "golden"),
    [
        (5, -168.5380),
        pytest.param(10, -159.9937, marks=pytest.mark.slow),
        pytest.param(20, -150.1684, marks=pytest.mark.slow),
    ],
)
def test_digits(num_factors, golden):
    """One EvidenceMStep is at the optimum from any start; scikit-learn's noise divides by n − 1."""
    x = jnp.asarray(load_digits().data)
    batch = elbax.compress(x)
    model = elbax.ProbabilisticPCA(num_factors, floor=0.0)
    start = model.from_description(mean=np.ones(64), loadings=np.ones((64, num_factors)), noise=3.0)
    chain = elbax.Chain(elbax.ExactEStep(model), elbax.EvidenceMStep(model))
    params, _ = run(chain, model, start, batch, 1)
    ours = float(elbax.evidence(model, params, batch))
    assert golden - 5e-5 <= ours <= golden + 1e-3
    np.testing.assert_allclose(ours, oracles.ppca_optimum(x, num_factors), rtol=1e-12)
    theirs = decomposition.PCA(num_factors).fit(np.asarray(x)).score(np.asarray(x))
    assert theirs <= ours <= theirs + 1e-3
    again, _ = run(chain, model, params, batch, 1)
    np.testing.assert_allclose(model.covariance(again), model.covariance(params), atol=1e-9)


@pytest.mark.slow
def test_em_reaches_the_principal_components():
    x = jnp.asarray(load_iris().data)
    model = elbax.ProbabilisticPCA(2, floor=0.0)
    params = model.init(jax.random.key(1), x)
    params, elbo = run(steps_of(model), model, params, elbax.compress(x), 2000)
    assert np.all(np.diff(elbo) > -1e-12)
    theirs = oracles.ppca_optimum(x, 2)
    np.testing.assert_allclose(elbax.evidence(model, params, x), theirs, rtol=1e-10)


@pytest.mark.parametrize("floor", [0.0, 5.0])
def test_the_floor_of_principal_components(floor):
    """The penalized evidence of one step, against a search over σ² for the best W of each."""
    x = load_iris().data
    n = len(x)
    values = np.linalg.eigvalsh(np.cov(x.T, ddof=0))[::-1]

    def penalized(log_noise):
        noise = np.exp(log_noise)
        top = np.maximum(values[:2], noise[:, None])
        log_determinant = np.log(top).sum(1) + 2 * np.log(noise)
        trace = (values[:2] / top).sum(1) + values[2:].sum() / noise
        evidence = -0.5 * (4 * np.log(2 * np.pi) + log_determinant + trace)
        return evidence - 0.5 * floor * x.var(0).sum() / noise / n

    best = penalized(np.linspace(-6, 2, 200_001)).max()
    model = elbax.ProbabilisticPCA(2, floor=floor)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    chain = elbax.Chain(elbax.ExactEStep(model), elbax.EvidenceMStep(model))
    params, _ = run(chain, model, params, jnp.asarray(x), 1)
    ours = elbax.evidence(model, params, jnp.asarray(x)) + model.log_prior(params) / n
    np.testing.assert_allclose(ours, best, atol=1e-8)


def test_factor_scores_are_the_textbooks():
    """E[z | x] = Wᵀ Σ⁻¹ (x − μ), Cov = I − Wᵀ Σ⁻¹ W."""
    model, batch, params = ability()
    x = np.asarray(batch.x[0])
    q = elbax.Exact(model, params)(jnp.asarray(x))
    loadings, sigma = np.asarray(params["loadings"]), np.asarray(model.covariance(params))
    back = loadings.T @ np.linalg.inv(sigma)
    np.testing.assert_allclose(q.mode(), back @ (x - np.asarray(params["mean"])), rtol=1e-9)
    mean, second = q.mean()
    np.testing.assert_allclose(
        -2 * second - np.outer(mean, mean), np.eye(2) - back @ loadings, atol=1e-12
    )


@pytest.mark.slow
def test_draws():
    model, _, params = ability()
    x, z = jax.jit(lambda key: model.sample(params, key, 20_000))(jax.random.key(5))
    np.testing.assert_allclose(np.cov(x.T), model.covariance(params), atol=0.06)
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.04)
    # The regression of x on its factors has the loadings as slopes.
    slopes = np.linalg.lstsq(np.asarray(z), np.asarray(x), rcond=None)[0].T
    np.testing.assert_allclose(slopes, params["loadings"], atol=0.05)


# --- stationarity: the complete-data log-joint as oracle -----------------------------------------------


def gaussian_moments(described, x):
    """E[z], E[z zᵀ] of the factors of each row, by NumPy."""
    loadings, noise = (np.asarray(described[name], float) for name in ("loadings", "noise"))
    sigma = loadings @ loadings.T + np.diag(noise)
    back = loadings.T @ np.linalg.inv(sigma)
    mean = (np.asarray(x) - np.asarray(described["mean"])) @ back.T
    spread = np.eye(loadings.shape[1]) - back @ loadings
    return mean, spread + mean[:, :, None] * mean[:, None, :]


PATTERN = np.array([[True, False], [True, True], [False, True], [True, False]])


@pytest.mark.parametrize("noise", ["diagonal", pytest.param("isotropic", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pattern", [None, PATTERN], ids=["free", "pattern"])
def test_an_m_step_is_at_the_optimum_of_the_expected_log_joint(noise, pattern):
    """One step from anywhere: the slope of E[log p(x, z; θ)] + log p(θ) is 0 in every free param."""
    from cases import moved, table

    x = table(dim=4)
    model = elbax.FactorAnalysis(2, noise, floor=0.05, pattern=pattern)
    params = moved(model.init(jax.random.key(0), x))
    mean_z, square_z = map(jnp.asarray, gaussian_moments(model.describe(params), x))
    best, _ = run(steps_of(model), model, params, x, 1)
    free = jnp.ones((4, 2)) if pattern is None else jnp.asarray(pattern, float)

    def objective(theta):
        loadings = theta["loadings"] * free
        variance = jnp.broadcast_to(jnp.exp(2 * theta["log_noise"]), (4,))
        residual = x - theta["mean"]
        square = residual**2 - 2 * residual * (mean_z @ loadings.T)
        square += jnp.einsum("jd,nde,je->nj", loadings, square_z, loadings)
        total = -0.5 * jnp.sum(square / variance + jnp.log(variance))
        return total - 0.5 * 0.05 * jnp.sum(jnp.var(x, 0) / variance)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(objective))(best)):
        np.testing.assert_allclose(leaf, 0, atol=1e-9)
    if pattern is not None:
        np.testing.assert_array_equal(np.asarray(best["loadings"])[~pattern], 0.0)


# --- patterns, floors, Heywood cases -------------------------------------------------------------------


@functools.cache
def confirmatory():
    rng = np.random.default_rng(3)
    loadings = np.array([[1.0, 0], [0.8, 0], [-0.7, 0], [0, 1.2], [0, 0.6], [0.5, 0.5]])
    x = rng.normal(size=(200, 2)) @ loadings.T + rng.normal(size=(200, 6)) * 0.7 + 2
    return jnp.asarray(x), loadings != 0


def masked_optimum(x, pattern):
    """The highest evidence, by a quasi-Newton search over mean, free loadings and noise."""
    sample = np.cov(np.asarray(x).T, ddof=0)
    dim = len(sample)

    @jax.jit
    @jax.value_and_grad
    def negative(theta):
        loadings = jnp.zeros(pattern.shape).at[np.nonzero(pattern)].set(theta[dim:])
        covariance = loadings @ loadings.T + jnp.diag(jnp.exp(theta[:dim]))
        log_determinant = jnp.linalg.slogdet(covariance)[1]
        trace = jnp.trace(jnp.linalg.solve(covariance, sample))
        return 0.5 * (dim * jnp.log(2 * jnp.pi) + log_determinant + trace)

    start = np.append(np.log(np.diag(sample) / 2), 0.5 * np.ones(pattern.sum()))
    found = scipy.optimize.minimize(negative, start, jac=True, options={"gtol": 1e-9})
    return -found.fun


@pytest.mark.parametrize("ecme", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_pattern_of_zeros(ecme):
    """Zeros stay exact zeros, and the answer is that of a search among the free loadings."""
    x, pattern = confirmatory()
    model = elbax.FactorAnalysis(2, floor=0.0, pattern=pattern)
    batch = elbax.compress(x)
    params = model.init(jax.random.key(0), batch)
    params, elbo = run(steps_of(model, ecme), model, params, batch, 3000)
    assert np.all(np.diff(elbo) > -1e-12)
    np.testing.assert_array_equal(np.asarray(params["loadings"])[~pattern], 0.0)
    np.testing.assert_array_equal(np.asarray(model.describe(params)["loadings"])[~pattern], 0.0)
    np.testing.assert_allclose(
        elbax.evidence(model, params, x), masked_optimum(x, pattern), rtol=1e-9
    )
    assert model.num_free_params(params) == 6 + 6 + 7


@pytest.mark.slow
def test_a_pattern_under_gradient_steps():
    """Zeros have no gradient, so an optimizer does not move them either."""
    import optax

    x, pattern = confirmatory()
    model = elbax.FactorAnalysis(2, pattern=pattern)
    batch = elbax.compress(x)
    params = model.init(jax.random.key(0), batch)
    update = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.adam(1e-2)))
    params, elbo = run(update, model, params, batch, 20)
    np.testing.assert_array_equal(np.asarray(params["loadings"])[~pattern], 0.0)
    assert elbo[-1] > elbo[0]


def test_pattern_errors(as_users_run):
    with pytest.raises(ValueError, match=r"boolean array of shape \(dim, 2\)"):
        elbax.FactorAnalysis(2, pattern=np.ones((3, 1), bool))
    with pytest.raises(ValueError, match="boolean array"):
        elbax.FactorAnalysis(2, pattern=np.ones((3, 2)))
    model = elbax.FactorAnalysis(2, pattern=np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="the pattern has 3 rows, but the data have 4 columns"):
        model.init(jax.random.key(0), jnp.asarray(load_iris().data))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@pytest.mark.parametrize(("num_factors", "golden"), [(1, -2.815876), (2, -2.599206)])
def test_iris_from_another_programs_fit(num_factors, golden):
    """A Heywood case: from where 20 000 sweeps of scikit-learn end, EM goes up and never ends lower."""
    x = load_iris().data
    # LAPACK's singular values are five times as fast as random ones, and the fit the same to 1e-12.
    peer = decomposition.FactorAnalysis(
        num_factors, tol=1e-12, max_iter=20_000, svd_method="lapack"
    )
    theirs = peer.fit(x)
    model = elbax.FactorAnalysis(num_factors, floor=0.0)
    params = model.from_description(
        mean=theirs.mean_, loadings=theirs.components_.T, noise=theirs.noise_variance_
    )
    start = float(elbax.evidence(model, params, jnp.asarray(x)))
    np.testing.assert_allclose(start, theirs.score(x), rtol=1e-9)
    assert start == pytest.approx(golden, abs=1e-6)
    params, elbo = run(steps_of(model), model, params, elbax.compress(x), 2000)
    assert np.all(np.diff(elbo) > -1e-11)
    end = float(elbax.evidence(model, params, jnp.asarray(x)))
    assert end >= start


@pytest.mark.slow
@pytest.mark.parametrize("ecme", [False, True])
def test_a_floor_keeps_noise_from_vanishing(ecme):
    """λ₀² would be 0.8² / 0.5 > 1: ψ₀ goes to 0 without a floor, to the penalty's optimum with one."""
    correlation = np.array([[1.0, 0.8, 0.8], [0.8, 1.0, 0.5], [0.8, 0.5, 1.0]])
    batch = elbax.from_moments(jnp.zeros(3), jnp.asarray(correlation), 100)
    ends = {}
    for floor in (0.0, 0.1):
        model = elbax.FactorAnalysis(1, floor=floor)
        params = model.init(jax.random.key(0), batch)
        params, elbo = run(steps_of(model, ecme), model, params, batch, 3000)
        assert np.all(np.isfinite(elbo))
        assert np.all(np.diff(elbo) > -1e-10)
        ends[floor] = model.describe(params)["noise"], model.heywood(params)
        if floor:
            evidence = lambda p, model=model: (
                elbax.evidence(model, p, batch) + model.log_prior(p) / 100
            )
            for leaf in jax.tree.leaves(jax.jit(jax.grad(evidence))(params)):
                np.testing.assert_allclose(leaf, 0, atol=1e-6)
    assert ends[0.0][0][0] < 1e-2 * ends[0.1][0].max()
    assert ends[0.1][0].min() >= 0.1 / 100 * (1 - 1e-9)
    assert not bool(ends[0.1][1].any())


# --- little noise, or none -----------------------------------------------------------------------------


def analyzers(floor=0.0):
    return {
        "diagonal": elbax.FactorAnalysis(2, floor=floor),
        "isotropic": elbax.ProbabilisticPCA(2, floor=floor),
        "pattern": elbax.FactorAnalysis(
            2, floor=floor, pattern=np.array([[True, i != 0] for i in range(6)])
        ),
        "mixture": elbax.Mixture(elbax.components.FactorAnalyzer(2, floor=floor), 2),
    }


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)


SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("pattern", "mixture")]


@pytest.mark.parametrize("name", ["diagonal", "isotropic", *SLOWLY])
def test_float32_goes_where_float64_does(name):
    """From one start, however little noise there is: no fall beyond rounding, and the same evidence."""
    model, rng = analyzers()[name], np.random.default_rng(0)
    signal = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))
    for noise in (0.1, 0.01, 1e-3, 1e-4):
        x = np.asarray(signal + noise * rng.normal(size=signal.shape), np.float32)
        wide = x.astype(float)
        start = model.init(jax.random.key(0), wide)
        theirs, _ = run(steps_of(model), model, start, wide, 100)
        ours, elbo = run(steps_of(model), model, cast(start, np.float32), x, 100)
        # An element's rounding is that of the signal in units of the noise.
        rounding = 10 * np.finfo(np.float32).eps * (1 + 1 / noise)
        assert np.all(np.diff(np.asarray(elbo, float)) > -rounding)
        ends = [elbax.evidence(model, cast(end, float), wide) for end in (ours, theirs)]
        # Noise of a column is told down to 3.5e-4 of it.
        if noise >= 1e-3:
            np.testing.assert_allclose(ends[0], ends[1], atol=1e-4)
        else:
            assert ends[1] - 6 * np.log(3.5e-4 / noise) - 6 < ends[0] < ends[1]
        seen = elbax.evidence(model, ours, x)
        np.testing.assert_allclose(seen, ends[0], atol=1e-5 + rounding)


@pytest.mark.parametrize(
    ("name", "ecme"),
    [
        ("diagonal", False),
        ("isotropic", False),
        pytest.param("diagonal", True, marks=pytest.mark.slow),
        pytest.param("mixture", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_data_of_low_rank(name, ecme, dtype):
    """No noise at all, factors too many or too few, at any scale and offset: it ascends and stays finite."""
    model = analyzers()[name]
    eps = jnp.finfo(dtype).eps
    # What `fit` takes for rounding.
    allowed = max(1e-10, 64 * eps)
    for seed, (rank, scale, offset) in enumerate(
        itertools.product((1, 2, 4), (1e-3, 1.0, 1e3), (0.0, 100.0))
    ):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 6))
        x[:, -1] = x[:, 0] if seed % 2 else x[:, -1]
        x = np.asarray(scale * (x + offset), dtype)
        start = cast(model.init(jax.random.key(0), x), dtype)
        _, elbo = run(steps_of(model, ecme), model, start, x, 100)
        elbo = np.asarray(elbo, float)
        assert np.all(np.isfinite(elbo)), (rank, scale, offset)
        fall = np.min(np.diff(elbo) / (1 + np.abs(elbo[1:])))
        assert fall > -allowed, (rank, scale, offset, fall)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_heywood_case_costs_nothing(dtype):
    """The evidence where one noise variance vanishes is that of a search that may go as near as it likes."""
    correlation = np.array([[1.0, 0.8, 0.8], [0.8, 1.0, 0.5], [0.8, 0.5, 1.0]])
    batch = elbax.from_moments(jnp.zeros(3), jnp.asarray(correlation), 100)
    model = elbax.FactorAnalysis(1, floor=0.0)
    params = model.init(jax.random.key(0), batch)
    params, _ = run(steps_of(model, True), model, cast(params, dtype), cast(batch, dtype), 500)
    ours = float(elbax.evidence(model, cast(params, float), batch))
    theirs = masked_optimum(np.asarray(batch.x), np.ones((3, 1), bool))
    assert bool(model.heywood(params)[0])
    assert ours > theirs - (1e-7 if dtype == jnp.float64 else 1e-4)


def test_compress_keeps_what_a_covariance_rounds_away():
    """In float32, columns that differ by 1e-4 of their size."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 1)) + 1e-4 * rng.normal(size=(100, 3))
    x = jnp.asarray(x, jnp.float32)
    batch = elbax.compress(x)
    points = np.asarray(batch.x, float)
    ours = np.cov(points.T, aweights=np.asarray(batch.weight), ddof=0)
    contrast = np.array([[1, -1, 0], [0, 1, -1]])
    theirs = np.cov(np.asarray(x, float).T, ddof=0)
    np.testing.assert_allclose(
        contrast @ ours @ contrast.T, contrast @ theirs @ contrast.T, rtol=0.02, atol=1e-10
    )


def test_evidence_step_errors(as_users_run):
    mixture = elbax.GaussianMixture(2)
    params = mixture.init(jax.random.key(0), elbax.datasets.old_faithful())
    with pytest.raises(TypeError, match="closed-form maximum"):
        step = elbax.EvidenceMStep(mixture)
        step.init(params, elbax.Exact(mixture, params), key=jax.random.key(0))
    x, pattern = confirmatory()
    for noise, free, given in [
        ("diagonal", {"mean": False, "loadings": True, "log_noise": True}, None),
        ("isotropic", {"mean": True, "loadings": False, "log_noise": True}, None),
        ("isotropic", True, pattern),
    ]:
        model = elbax.FactorAnalysis(2, noise, pattern=given)
        params = model.init(jax.random.key(0), x)
        step = elbax.EvidenceMStep(model, free=free)
        with pytest.raises(TypeError, match="free"):
            state = step.init(params, elbax.Exact(model, params), key=jax.random.key(0))
            step(state, x)


@pytest.mark.slow
def test_more_factors_than_columns():
    """Still a density, still ascends."""
    x = jnp.asarray(load_iris().data[:, :2])
    model = elbax.FactorAnalysis(3, floor=1e-3)
    params, elbo = run(steps_of(model), model, model.init(jax.random.key(0), x), x, 50)
    assert np.all(np.diff(elbo) > -1e-12)
    np.testing.assert_allclose(
        elbax.evidence(model, params, x),
        scipy.stats.multivariate_normal(
            np.asarray(params["mean"]), np.asarray(model.covariance(params))
        )
        .logpdf(np.asarray(x))
        .mean(),
        rtol=1e-10,
    )
