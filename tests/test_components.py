"""Components: against SciPy, what they refuse, what they draw, and what they do with nothing."""

import decimal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.special
import scipy.stats
from cases import find

import elbax
from elbax._math.special import excess, half_deviance, softplus, stirling_error
from elbax._reference import split_coordinates
from elbax.data._batch import as_batch, over_rows


pytestmark = pytest.mark.usefixtures("both_forms")


components, priors = elbax.components, elbax.priors
WEIGHTS = np.array([0.3, 0.7])
RNG = np.random.default_rng(0)

MEANS = np.array([[0.0, 1.0, -1.0], [2.0, -1.0, 0.5]])
ROOTS = np.array(
    [[[1, 0, 0], [0.5, 0.8, 0], [-0.3, 0.2, 1.5]], [[2, 0, 0], [-1, 1, 0], [0.4, 0, 0.6]]]
)
FULL = ROOTS @ ROOTS.transpose(0, 2, 1)
LOADINGS = RNG.normal(size=(2, 3, 2))
NOISE = np.array([[0.5, 1.0, 2.0], [0.3, 0.7, 1.1]])
SHARES = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
UNEQUAL = np.array([[[0.3, 0.7, 0.0], [0.2, 0.5, 0.3]], [[0.9, 0.1, 0.0], [0.1, 0.1, 0.8]]])
LINES = np.array([[0.5, 1.0, -0.7], [-1.0, 0.3, 0.4]])
INPUTS = RNG.normal(size=(12, 2))
NORMAL = RNG.normal(size=(12, 3)) + 1
BINARY = (RNG.random((12, 3)) > 0.4).astype(float)
COUNTS = RNG.poisson(3.0, (12, 3)).astype(float)
POSITIVE = RNG.gamma(2.0, 1.0, (12, 3))
CODES = np.column_stack([RNG.integers(0, 2, 12), RNG.integers(0, 3, 12)])
ISOTROPIC = np.array([[0.5] * 3, [1.5] * 3])

# name: (component, what describes it, rows, SciPy's densities, number of free params)
TABLE = {
    "bernoulli": (components.Bernoulli(), {"probabilities": SHARES}, BINARY, oracles.bernoulli, 6),
    "poisson": (components.Poisson(), {"rates": 10 * SHARES}, COUNTS, oracles.poisson, 6),
    "categorical": (
        components.Categorical((2, 3)),
        {"probabilities": UNEQUAL},
        CODES,
        oracles.categorical,
        2 * (1 + 2),
    ),
    "gamma": (
        components.Gamma(),
        {"shapes": 10 * SHARES, "rates": 5 * SHARES[::-1]},
        POSITIVE,
        oracles.gamma,
        12,
    ),
    "multinomial": (
        components.Multinomial(),
        {"probabilities": SHARES},
        COUNTS,
        oracles.multinomial,
        4,
    ),
    "student": (
        components.StudentT(),
        {"means": MEANS, "scales": FULL, "dofs": np.array([2.5, 40.0])},
        NORMAL,
        oracles.student_t,
        2 * (3 + 6 + 1),
    ),
    "student-known-dof": (
        components.StudentT("full", 4.0),
        {"means": MEANS, "scales": FULL, "dofs": np.array([4.0, 4.0])},
        NORMAL,
        oracles.student_t,
        2 * (3 + 6),
    ),
    "factors": (
        components.FactorAnalyzer(2),
        {
            "means": MEANS,
            "loadings": LOADINGS,
            "noise": NOISE,
            "covariances": LOADINGS @ LOADINGS.transpose(0, 2, 1) + NOISE[:, :, None] * np.eye(3),
        },
        NORMAL,
        oracles.normal,
        2 * (3 + 6 - 1 + 3),
    ),
    "factors-isotropic": (
        components.FactorAnalyzer(2, "isotropic"),
        {
            "means": MEANS,
            "loadings": LOADINGS,
            "noise": ISOTROPIC,
            "covariances": LOADINGS @ LOADINGS.transpose(0, 2, 1)
            + ISOTROPIC[:, :, None] * np.eye(3),
        },
        NORMAL,
        oracles.normal,
        2 * (3 + 6 - 1 + 1),
    ),
    "regression": (
        components.LinearRegression(),
        {"coefficients": LINES, "deviations": np.array([0.5, 2.0])},
        (INPUTS, NORMAL[:, 0]),
        oracles.normal_regression,
        2 * (3 + 1),
    ),
    "generalized-normal": (
        components.GeneralizedLinear("normal"),
        {"coefficients": LINES, "deviations": np.array([0.5, 2.0])},
        (INPUTS, NORMAL[:, 0]),
        oracles.normal_regression,
        2 * (3 + 1),
    ),
    "generalized-poisson": (
        components.GeneralizedLinear("poisson"),
        {"coefficients": LINES},
        (INPUTS, COUNTS[:, 0]),
        oracles.poisson_regression,
        6,
    ),
    "generalized-bernoulli": (
        components.GeneralizedLinear("bernoulli"),
        {"coefficients": LINES},
        (INPUTS, BINARY[:, 0]),
        oracles.bernoulli_regression,
        6,
    ),
}
NAMES = sorted(TABLE)


def model_of(name):
    component, described, x, *_ = TABLE[name]
    model = elbax.Mixture(component, 2)
    params = model.from_description(weights=WEIGHTS, **described)
    return model, params, jax.tree.map(jnp.asarray, x)


def log_joint(model, params, x):
    over_z = jax.vmap(model.log_joint, (None, None, 0))
    return jax.jit(jax.vmap(over_z, (None, 0, None)))(params, x, jnp.arange(2))


@pytest.mark.parametrize("name", NAMES)
def test_densities_are_scipys(name):
    _, described, x, oracle, _ = TABLE[name]
    theirs = oracles.with_weights({"weights": WEIGHTS}, oracle(described, x))
    np.testing.assert_allclose(log_joint(*model_of(name)), theirs, rtol=1e-12, atol=1e-12)


def test_a_product_multiplies():
    """Its log-density is the sum of SciPy's; it describes and counts group by group."""
    names = ["student", "categorical", "gamma"]
    component = components.Product(**{name: TABLE[name][0] for name in names})
    model = elbax.Mixture(component, 2)
    described = {name: TABLE[name][1] for name in names}
    params = model.from_description(weights=WEIGHTS, **described)
    x = {name: jnp.asarray(TABLE[name][2]) for name in names}
    theirs = sum(TABLE[name][3](TABLE[name][1], TABLE[name][2]) for name in names)
    theirs = oracles.with_weights({"weights": WEIGHTS}, theirs)
    np.testing.assert_allclose(log_joint(model, params, x), theirs, rtol=1e-12, atol=1e-12)
    assert model.num_free_params(params) == 1 + sum(TABLE[name][4] for name in names)
    back = model.describe(params)
    for name in names:
        for key, value in described[name].items():
            np.testing.assert_allclose(back[name][key], value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_description_round_trip(name):
    """`describe` says what `from_description` was told, and the way back gives the same densities."""
    described = TABLE[name][1]
    model, params, x = model_of(name)
    back = model.describe(params)
    assert set(back) - {"weights"} == set(described)
    for key, value in described.items():
        np.testing.assert_allclose(back[key], value, rtol=1e-12, atol=1e-15)
    again = model.from_description(**back)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    np.testing.assert_allclose(
        log_joint(model, again, x), log_joint(model, params, x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_number_of_free_params(name):
    model, params, _ = model_of(name)
    assert model.num_free_params(params) == 1 + TABLE[name][4]


# --- draws ---------------------------------------------------------------------------------------


def draws(name, num_data=20_000, **arguments):
    model, params, _ = model_of(name)
    x, z = jax.jit(lambda key: model.sample(params, key, num_data, **arguments))(jax.random.key(3))
    x, z = jax.tree.map(np.asarray, (x, z))
    assert abs((z == 0).mean() - WEIGHTS[0]) < 0.02
    return [x[z == k] for k in range(2)]


def assert_mean(rows, mean, variance):
    """Five standard errors."""
    error = (rows.mean(0) - mean) / np.sqrt(variance / len(rows))
    assert np.abs(error).max() < 5


def moments(name):
    """Mean and variance of each column, by SciPy's formulas."""
    described = TABLE[name][1]
    if name == "bernoulli":
        return SHARES, SHARES * (1 - SHARES)
    if name == "poisson":
        return 10 * SHARES, 10 * SHARES
    if name == "gamma":
        return scipy.stats.gamma(described["shapes"], scale=1 / described["rates"]).stats()
    if name == "multinomial":
        return 100 * SHARES, 100 * SHARES * (1 - SHARES)
    if name == "student-known-dof":
        return MEANS, 2 * np.diagonal(FULL, axis1=1, axis2=2)
    return MEANS, np.diagonal(described["covariances"], axis1=1, axis2=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bernoulli", "poisson", "gamma", "multinomial", "student-known-dof", "factors"]
)
def test_draws_have_the_moments(name):
    mean, variance = moments(name)
    for k, rows in enumerate(draws(name)):
        assert_mean(rows, mean[k], variance[k])
        if name != "student-known-dof":
            np.testing.assert_allclose(rows.var(0), variance[k], rtol=0.1)
        if name == "factors":
            scale = np.sqrt(variance[k])
            theirs = TABLE[name][1]["covariances"][k] / np.outer(scale, scale)
            np.testing.assert_allclose(np.corrcoef(rows.T), theirs, atol=0.06)


@pytest.mark.slow
def test_draws_of_a_t_have_its_quartiles():
    for k, rows in enumerate(draws("student-known-dof")):
        deviation = np.sqrt(np.diagonal(FULL[k]))
        below = (rows < MEANS[k] + deviation * scipy.stats.t(4.0).ppf(0.9)).mean(0)
        np.testing.assert_allclose(below, 0.9, atol=0.02)


@pytest.mark.slow
def test_draws_of_values_have_their_frequencies():
    for k, rows in enumerate(draws("categorical")):
        for j in range(2):
            seen = np.bincount(rows[:, j], minlength=3) / len(rows)
            np.testing.assert_allclose(seen, UNEQUAL[k, j], atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["regression", "generalized-normal", "generalized-poisson", "generalized-bernoulli"]
)
def test_draws_of_a_regression(name):
    """At given inputs; `predict` is their mean."""
    model, params, _ = model_of(name)
    u = np.array([0.4, -1.2])
    x, z = model.sample(params, jax.random.key(4), inputs=jnp.tile(u, (20_000, 1)))
    x, z = np.asarray(x), np.asarray(z)
    line = LINES[:, 0] + LINES[:, 1:] @ u
    mean = {
        "generalized-poisson": np.exp(line),
        "generalized-bernoulli": 1 / (1 + np.exp(-line)),
    }.get(name, line)
    variance = {
        "generalized-poisson": mean,
        "generalized-bernoulli": mean * (1 - mean),
    }.get(name, np.array([0.25, 4.0]))
    for k in range(2):
        assert_mean(x[z == k][:, None], mean[k], variance[k])
        np.testing.assert_allclose(x[z == k].var(), variance[k], rtol=0.1)
    ours = model.component.predict(params["components"], jnp.asarray(u))
    np.testing.assert_allclose(ours, mean, rtol=1e-12)


def test_a_regression_draws_no_inputs(as_users_run):
    model, params, _ = model_of("regression")
    with pytest.raises(TypeError, match=r"sample\(..., inputs=...\)"):
        model.sample(params, jax.random.key(0), 3)
    with pytest.raises(TypeError, match="pass either num_data or, for a regression, inputs"):
        model.sample(params, jax.random.key(0))


# --- priors --------------------------------------------------------------------------------------


def test_priors_are_scipys():
    """log p(θ), in the coordinates that people read, every constant kept."""
    beta = elbax.Mixture(components.Bernoulli(priors.Beta(1.5, 2.5)), 2)
    params = beta.from_description(weights=WEIGHTS, probabilities=SHARES)
    theirs = scipy.stats.beta(1.5, 2.5).logpdf(SHARES).sum()
    np.testing.assert_allclose(beta.log_prior(params), theirs, rtol=1e-12)

    gamma = elbax.Mixture(components.Poisson(priors.Gamma(2.5, 0.7)), 2)
    params = gamma.from_description(weights=WEIGHTS, rates=10 * SHARES)
    theirs = scipy.stats.gamma(2.5, scale=1 / 0.7).logpdf(10 * SHARES).sum()
    np.testing.assert_allclose(gamma.log_prior(params), theirs, rtol=1e-12)

    dirichlet = priors.Dirichlet(1.7)
    words = elbax.Mixture(components.Multinomial(dirichlet), 2, prior=priors.Dirichlet(3.0))
    params = words.from_description(weights=WEIGHTS, probabilities=SHARES)
    theirs = sum(scipy.stats.dirichlet([1.7] * 3).logpdf(row) for row in SHARES)
    theirs += scipy.stats.dirichlet([3.0] * 2).logpdf(WEIGHTS)
    np.testing.assert_allclose(words.log_prior(params), theirs, rtol=1e-12)

    values = elbax.Mixture(components.Categorical((2, 3), dirichlet), 2)
    params = values.from_description(weights=WEIGHTS, probabilities=UNEQUAL)
    theirs = sum(
        scipy.stats.dirichlet([1.7] * n).logpdf(UNEQUAL[k, j, :n])
        for k in range(2)
        for j, n in enumerate((2, 3))
    )
    np.testing.assert_allclose(values.log_prior(params), theirs, rtol=1e-12)


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.7])
def test_normal_inverse_wishart_is_scipys(covariance, shrinkage):
    scale = np.array([[1.0, 0.2, 0.1], [0.2, 0.5, 0.0], [0.1, 0.0, 2.0]])
    m = np.array([0.5, -0.5, 1.0])
    prior = priors.NormalInverseWishart(m, shrinkage, 4.5, scale)
    model = elbax.GaussianMixture(2, covariance, floor=0.3, prior=prior)
    matrices = {
        "full": FULL,
        "tied": np.broadcast_to(FULL.mean(0), FULL.shape),
        "diagonal": FULL * np.eye(3),
        "spherical": np.array([0.7, 1.9])[:, None, None] * np.eye(3),
    }[covariance]
    unit = np.array([1.0, 0.5, 3.0])
    params = model.from_description(weights=WEIGHTS, means=MEANS, covariances=matrices, unit=unit)
    each = matrices[:1] if covariance == "tied" else matrices
    theirs = sum(
        scipy.stats.invwishart(4.5, scale).logpdf(matrix)
        - 0.5 * 0.3 * np.trace(np.linalg.inv(matrix) * unit**2)
        for matrix in each
    )
    if shrinkage:
        theirs += sum(
            scipy.stats.multivariate_normal(m, matrix / shrinkage).logpdf(mean)
            for mean, matrix in zip(MEANS, matrices)
        )
    np.testing.assert_allclose(model.log_prior(params), theirs, rtol=1e-12)


def test_normal_inverse_wishart_from_data():
    """Fraley and Raftery's (2007) default."""
    prior = priors.NormalInverseWishart.from_data(jnp.asarray(NORMAL), num_components=4)
    np.testing.assert_allclose(prior.mean, NORMAL.mean(0), rtol=1e-12)
    np.testing.assert_allclose(prior.scale, np.cov(NORMAL.T) / 4 ** (2 / 3), rtol=1e-12)
    assert (prior.shrinkage, prior.dof) == (0.01, 5.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: priors.Beta(0.0, 1.0), ValueError, "Beta: a must be positive"),
        (lambda: priors.Dirichlet(-1.0), ValueError, "concentration must be positive"),
        (lambda: priors.Gamma(1.0, float("inf")), ValueError, "rate must be positive and finite"),
        (
            lambda: priors.NormalInverseWishart(0.0, 1.0, 4.0, [[1.0, 2.0], [2.0, 1.0]]),
            ValueError,
            "smallest eigenvalue is -1",
        ),
        (lambda: priors.NormalInverseWishart(0.0, -1.0, 4.0, 1.0), ValueError, "shrinkage"),
        (lambda: components.Bernoulli(priors.Gamma(1.0, 1.0)), TypeError, "elbax.priors.Beta"),
        (lambda: components.Poisson(priors.Beta(1.0, 1.0)), TypeError, "elbax.priors.Gamma"),
        (lambda: components.Categorical(0), ValueError, "num_values"),
        (lambda: components.Categorical((2, 0)), ValueError, "num_values"),
        (lambda: components.Gamma(largest_shape=0.0), ValueError, "largest_shape"),
        (lambda: components.StudentT(dof=-1.0), ValueError, "dof must be positive"),
        (lambda: components.FactorAnalyzer(0), ValueError, "num_factors must be at least 1"),
        (lambda: components.FactorAnalyzer(1, "full"), ValueError, "'diagonal' or 'isotropic'"),
        (lambda: components.LinearRegression(floor=-1.0), ValueError, "floor"),
        (lambda: components.GeneralizedLinear("gamma"), ValueError, "'normal', 'poisson'"),
        (lambda: components.Product(), ValueError, "got no components. Pass at least one"),
        (lambda: components.Product(size=3), TypeError, "size must be a component"),
        (
            lambda: elbax.Mixture(components.Poisson(), 2, prior=priors.Beta(1.0, 1.0)),
            TypeError,
            "Dirichlet",
        ),
    ],
)
def test_bad_arguments(as_users_run, make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- what they refuse ----------------------------------------------------------------------------


def spoiled(x, value, row=4, column=1):
    x = np.array(x, float)
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("bernoulli", spoiled(BINARY, 0.5), "expected zeros and ones; row 4, column 1 is 0.5"),
        ("bernoulli", spoiled(BINARY, np.nan), "row 4, column 1 is nan.*elbax.incomplete"),
        ("poisson", spoiled(COUNTS, -1), "expected counts .*; row 4, column 1 is -1"),
        ("poisson", spoiled(COUNTS, 2.5), "expected counts .*; row 4, column 1 is 2.5"),
        ("multinomial", spoiled(COUNTS, -2), "expected counts .*; row 4, column 1 is -2"),
        (
            "categorical",
            spoiled(CODES, 2, column=0),
            r"below num_values = \(2, 3\); row 4, column 0 is 2",
        ),
        ("categorical", spoiled(CODES, -1), "row 4, column 1 is -1"),
        ("categorical", spoiled(CODES, 1.5), "row 4, column 1 is 1.5"),
        ("categorical", CODES[:, :1], "num_values for 2 columns, but the data have 1"),
        ("gamma", spoiled(POSITIVE, 0.0), "expected positive numbers; row 4, column 1 is 0"),
        ("gamma", spoiled(POSITIVE, -3.0), "expected positive numbers; row 4, column 1 is -3"),
        (
            "gamma",
            np.column_stack([POSITIVE, np.ones(12)]),
            r"column 3 is constant \(1 in every row\)",
        ),
        ("student", np.column_stack([NORMAL, np.ones(12)]), "column 3 is constant"),
        ("factors", spoiled(NORMAL, np.inf), "row 4, column 1 is inf"),
        ("factors", NORMAL[:, 0], r"expected data of shape .*x\[:, None\]"),
        ("regression", NORMAL, r"a pair \(inputs, target\)"),
        ("regression", (INPUTS, NORMAL[:, :1]), r"targets of shape \(num_data,\), got \(12, 1\)"),
        ("regression", (INPUTS, np.ones(12)), "the target is constant"),
        ("regression", (spoiled(INPUTS, np.nan), NORMAL[:, 0]), "inputs: row 4, column 1 is nan"),
        ("generalized-poisson", (INPUTS, COUNTS[:, 0] - 9), "target: expected counts"),
        ("generalized-bernoulli", (INPUTS, COUNTS[:, 0]), "target: expected zeros and ones"),
        ("generalized-normal", (INPUTS, spoiled(NORMAL, np.inf, 3, 0)[:, 0]), "target: row 3"),
    ],
)
def test_data_errors(as_users_run, name, x, message):
    """At `init` and at `fit`, by row and column; what is constant at `init`, for one batch may be."""
    model = model_of(name)[0]
    x = jax.tree.map(jnp.asarray, x)
    with pytest.raises(ValueError, match="Mixture.init.*" + message):
        model.init(jax.random.key(0), x)
    if "constant" in message:
        model.check(x)
        return
    with pytest.raises(ValueError, match="fit.*" + message):
        model.check(x)


def test_a_product_wants_its_columns(as_users_run):
    model = elbax.Mixture(components.Product(a=components.Poisson(), b=components.Bernoulli()), 2)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"columns named \['a', 'b'\], got \['a', 'c'\]"):
        model.init(key, {"a": jnp.asarray(COUNTS), "c": jnp.asarray(BINARY)})
    with pytest.raises(ValueError, match=r"columns named \['a', 'b'\], got ndarray"):
        model.init(key, jnp.asarray(COUNTS))
    with pytest.raises(ValueError, match="columns 'b': expected zeros and ones"):
        model.init(key, {"a": jnp.asarray(COUNTS), "b": jnp.asarray(COUNTS)})


@pytest.mark.slow
def test_what_does_not_count_is_not_checked():
    """A masked row may hold anything, also values that a component refuses."""
    x = spoiled(POSITIVE, -3.0)
    model, _, _ = model_of("gamma")
    batch = elbax.Batch(jnp.asarray(x), mask=np.arange(12) != 4)
    model.check(batch)
    params = model.init(jax.random.key(0), batch)
    assert np.isfinite(float(elbax.evidence(model, params, batch)))


# --- numbers of other kinds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("bernoulli", BINARY.astype(int)),
        ("bernoulli", BINARY.astype(bool)),
        ("poisson", COUNTS.astype(int)),
        ("multinomial", COUNTS.astype(int)),
        ("categorical", CODES.astype(float)),
        ("generalized-poisson", (INPUTS, COUNTS[:, 0].astype(int))),
        ("generalized-bernoulli", (INPUTS, BINARY[:, 0].astype(bool))),
        ("regression", (INPUTS, COUNTS[:, 0].astype(int))),
    ],
)
@pytest.mark.slow
def test_whole_numbers_are_numbers(name, x):
    """Integers and truth values as the floats that they equal, from the start to the evidence."""
    model, _, usual = model_of(name)
    results = []
    for data in (jax.tree.map(jnp.asarray, x), usual):
        if name == "regression":
            data = (data[0], jnp.asarray(x[1]).astype(data[1].dtype) if data is usual else data[1])
        params = model.init(jax.random.key(0), data)
        results.append((params, elbax.evidence(model, params, data)))
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "described", "x", "expected"),
    [
        ("bernoulli", {"probabilities": [[1.0, 0.0]] * 2}, [[1.0, 0.0]], 0.0),
        ("poisson", {"rates": [[0.0, 2.0]] * 2}, [[0.0, 0.0]], -2.0),
        ("multinomial", {"probabilities": [[1.0, 0.0]] * 2}, [[5.0, 0.0]], 0.0),
    ],
)
def test_what_cannot_happen_leaves_the_rest_finite(name, described, x, expected):
    """A probability or rate of exactly 0 is one that did not occur: no 0 · ∞."""
    model = elbax.Mixture(TABLE[name][0], 2)
    params = model.from_description(weights=WEIGHTS, **described)
    ours = elbax.evidence(model, params, jnp.asarray(x))
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_certain_columns_survive_a_round_trip():
    """A column of ones is fitted, described as 1, and taken back."""
    x = jnp.asarray(np.column_stack([np.ones(12), BINARY]))
    model = elbax.Mixture(components.Bernoulli(), 1)
    params = model.init(jax.random.key(0), x)
    em = elbax.em(model)
    state, _ = em(em.init(params, key=jax.random.key(1)), x)
    p = BINARY.mean(0)
    theirs = np.sum(p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(elbax.evidence(model, state.params, x), theirs, rtol=1e-12)
    again = model.from_description(**model.describe(state.params))
    np.testing.assert_allclose(elbax.evidence(model, again, x), theirs, rtol=1e-12)


def float32_and_float64(model, x, num_sweeps=5, seed=0):
    """Params, what they describe and the evidence after a few sweeps in either precision."""
    wide = jnp.asarray(x)
    start = model.init(jax.random.key(seed), wide)
    em = elbax.em(model)

    @jax.jit
    def run(params, data):
        state = em.init(params, key=jax.random.key(1))
        state, _ = jax.lax.scan(lambda s, _: em(s, data), state, length=num_sweeps)
        return model.describe(state.params), elbax.evidence(model, state.params, data)

    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (start, wide))
    ours, theirs = run(*narrow), run(start, wide)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(ours))
    return ours, theirs


@pytest.mark.slow
def test_float32_gamma():
    """Shapes of 1000, where the textbook density cancels: evidence to 1e-3, shapes to 1e-2."""
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.gamma(1000.0, 0.002, (300, 2)), rng.gamma(1000.0, 0.005, (300, 2))])
    ours, theirs = float32_and_float64(elbax.Mixture(components.Gamma(), 2), x)
    shapes = np.asarray(theirs[0]["shapes"])
    assert 700 < shapes.min() < shapes.max() < 1400
    np.testing.assert_allclose(ours[0]["shapes"], shapes, rtol=1e-2)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3)


@pytest.mark.slow
def test_float32_student_t():
    """With an offset of 1e3 and outliers."""
    rng = np.random.default_rng(2)
    x = 1e3 + np.concatenate([rng.standard_t(3, (300, 2)), 8 + 0.5 * rng.standard_t(30, (300, 2))])
    ours, theirs = float32_and_float64(elbax.Mixture(components.StudentT(), 2), x)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4)
    np.testing.assert_allclose(ours[0]["means"], theirs[0]["means"], rtol=1e-5)
    np.testing.assert_allclose(ours[0]["dofs"], theirs[0]["dofs"], rtol=1e-2)


def test_float32_regression_far_from_the_origin():
    """Inputs a thousand deviations from 0, such as dates: slopes as in float64, from the start on."""
    rng = np.random.default_rng(6)
    u = rng.normal(size=(200, 2))
    y = 2 * u[:, 0] - u[:, 1] + 0.3 * rng.normal(size=200)
    x = jnp.asarray(1000 + u, jnp.float32), jnp.asarray(y, jnp.float32)
    wide = np.asarray(x[0], float), np.asarray(x[1], float)
    expected = np.linalg.lstsq(np.column_stack([np.ones(200), wide[0]]), wide[1], rcond=None)[0]
    model = elbax.Mixture(components.LinearRegression(), 1)
    em = elbax.em(model)
    params = model.init(jax.random.key(0), x)
    state = em.init(params, key=jax.random.key(0))
    for _ in range(3):
        slopes = model.describe(state.params)["coefficients"][0, 1:]
        np.testing.assert_allclose(slopes, expected[1:], rtol=1e-4)
        state, _ = em(state, x)


def test_a_mean_that_rounding_holds_does_not_lower_the_bound():
    """Two columns, one the other and a constant, whose means are coarse beside what is left between them."""
    rng = np.random.default_rng(7)
    u = rng.normal(size=(40, 1))
    x = jnp.asarray(np.hstack([400 + u, 250 + u]), jnp.float32)
    model = elbax.GaussianMixture(2)
    em = elbax.em(model)
    params = model.init(jax.random.key(0), x)
    state = em.init(params, key=jax.random.key(0))
    bounds = jax.jit(lambda s: jax.lax.scan(lambda s, _: em(s, x), s, length=30)[1].elbo)(state)
    falls = np.maximum(0, -np.diff(np.asarray(bounds, float)))
    assert bounds.dtype == jnp.float32
    assert falls.max() < 64 * np.finfo(np.float32).eps * (1 + abs(float(bounds[-1])))


def test_a_component_whose_statistics_vanish_one_by_one_stays():
    """At a count of 1e-30 products with small inputs are 0, those with large ones are not."""
    component = components.LinearRegression()
    model = elbax.Mixture(component, 2)
    x = jnp.array([[1e-4, 20.0], [2e-4, -5.0], [-1e-4, 3.0]], jnp.float32), jnp.ones(3, jnp.float32)
    params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32),
        model.from_description(
            weights=[1, np.exp(-80.0)], coefficients=np.zeros((2, 3)), deviations=[1.0, 1.0]
        ),
    )
    em = elbax.em(model)
    state = em.init(params, key=jax.random.key(0))
    moved = em(state, x)[0].params["components"]
    assert np.all(np.isfinite(moved["coefficients"])) and np.all(np.isfinite(moved["log_noise"]))
    np.testing.assert_array_equal(moved["coefficients"][1], 0)


def test_factors_of_a_component_whose_statistics_vanish_stay():
    """At a count above the least positive number whose half is below it."""
    model = elbax.Mixture(components.FactorAnalyzer(1), 2)
    described = {
        "means": np.zeros((2, 3)),
        "loadings": LOADINGS[:, :, :1],
        "noise": np.ones((2, 3)),
    }
    described["loadings"] = np.stack([described["loadings"][0]] * 2)
    params = model.from_description(weights=[1, 1.3e-38], **described)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    x = jnp.array([[0.1, 0.2, -0.3]], jnp.float32)
    em = elbax.em(model)
    state = em.init(params, key=jax.random.key(0))
    moved = em(state, x)[0].params["components"]
    for name in ("mean", "loadings", "log_noise"):
        np.testing.assert_array_equal(moved[name][1], params["components"][name][1])


def large(name):
    """(component, description, rows) of numbers whose densities are differences of large ones."""
    rng = np.random.default_rng(3)
    few, many = np.array([[1e5, 3e4], [2e5, 2.9e4]]), 1e5 * (1 + 0.3 * rng.random((2, 12)))
    shares = many / many.sum(-1, keepdims=True)
    which = np.arange(200) % 2
    u = rng.normal(size=(200, 1))
    line = np.array([[11.0, 0.5], [11.2, -0.5]])
    return {
        "poisson": (components.Poisson(), {"rates": few}, rng.poisson(few[which])),
        "poisson-many": (components.Poisson(), {"rates": many}, rng.poisson(many[which])),
        "poisson-regression": (
            components.GeneralizedLinear("poisson"),
            {"coefficients": line},
            (u, rng.poisson(np.exp(line[which, 0] + line[which, 1] * u[:, 0]))),
        ),
        "multinomial": (
            components.Multinomial(),
            {"probabilities": SHARES},
            rng.multinomial(10**5, SHARES[which]),
        ),
        "multinomial-many": (
            components.Multinomial(),
            {"probabilities": shares},
            rng.multinomial(10**5, shares[which]),
        ),
        "gamma": (
            components.Gamma(),
            {"shapes": np.full((2, 2), 1e4), "rates": np.array([[1.0, 10.0], [1.01, 9.9]])},
            rng.gamma(1e4, 1.0, (200, 2)) * np.array([1.0, 0.1]),
        ),
        "student": (
            components.StudentT("full", 1e6),
            {"means": MEANS, "scales": FULL, "dofs": np.full(2, 1e6)},
            NORMAL,
        ),
    }[name]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("poisson", 1e-4),
        ("poisson-many", 2e-4),
        ("poisson-regression", 1e-4),
        ("multinomial", 1e-4),
        # One product for all components: what is left cancels as the ratio of their probabilities.
        ("multinomial-many", 2e-3),
        ("gamma", 1e-4),
        ("student", 1e-5),
    ],
)
def test_float32_densities_of_large_numbers(name, tolerance):
    """The evidence is that of float64, where log Γ of large numbers and powers of them would cancel."""
    component, described, x = large(name)
    model = elbax.Mixture(component, 2)
    params = model.from_description(weights=WEIGHTS, **described)
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (params, x))
    # Rounding of the params themselves is not at issue, though a log-rate of 11 has an error of 5e-7.
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), wide)
    rounded = jax.tree.map(lambda leaf: leaf.astype(float), narrow)
    ours, theirs = elbax.evidence(model, *narrow), elbax.evidence(model, *rounded)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def counts_and_positive_numbers():
    rng = np.random.default_rng(4)
    counts = rng.poisson(rng.uniform(0.5, 20.0, (30, 12))).astype(float)
    counts[0] = 0.0
    return counts, rng.gamma(2.0, 3.0, (30, 12)) * np.logspace(-5, 5, 12)


def faster(name):
    """(model, params, batch) of which a pass takes the faster form."""
    counts, positive = counts_and_positive_numbers()
    kind, _, around = name.partition(" ")
    x = positive if kind == "Gamma" else counts
    if kind == "Product":
        parts = {"a": components.Poisson(), "b": components.Gamma(), "c": components.Bernoulli()}
        component, x = components.Product(**parts), {"a": counts, "b": positive, "c": counts > 3}
    else:
        component = getattr(components, kind)()
    model, batch = elbax.Mixture(component, 3), jax.tree.map(jnp.asarray, x)
    if around == "gaps":
        gaps = np.random.default_rng(5).uniform(size=x.shape) < 0.2
        batch = elbax.incomplete(np.where(gaps, np.nan, x))
    if around == "sequences":
        model = elbax.HiddenMarkovModel(component, 3)
        batch = elbax.sequences([x[:20], x[20:]])
    params = model.init(jax.random.key(0), batch)
    if around == "tied":
        model = elbax.Tied(model, lambda params: params)
    return model, params, batch


FASTER = ["Poisson", "Multinomial", "Gamma", "Product", "Poisson tied"]
FASTER += [f"{kind} {around}" for kind in ("Poisson", "Gamma") for around in ("gaps", "sequences")]


@pytest.mark.parametrize("name", FASTER)
def test_a_faster_form_is_the_same_density(name):
    """Its sum over labels of each datum, with what it leaves out, and its posterior."""
    model, params, batch = faster(name)

    @jax.jit
    def both(params, x):
        found = model.shortcut(params, x)

        def values(form, base):
            q = form.prepare(form.natural(params))

            def one(x):
                posterior = form.conditional(q, x)
                bound = form.latent.log_normalizer(posterior.natural)
                return bound if base is None else bound + base(x), posterior.mean()

            return over_rows(one, x)

        return found.allowed, values(found.form, found.base), values(model, None)

    allowed, ours, theirs = both(params, as_batch(batch).x)
    assert bool(allowed)
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, dtype, everywhere",
    [("Poisson", int, True), ("Multinomial", np.float32, False), ("Gamma", np.float64, False)],
)
def test_a_pass_adds_what_a_faster_form_leaves_out_once(name, dtype, everywhere, monkeypatch):
    """In every update, posterior and report; the bound's dtype is the params'.

    All of them take it from a sum or from its gradient: those two alone are held to what each model leaves out.
    """
    model, params, batch = faster(name)
    other = model.init(jax.random.key(3), batch)
    batch = jnp.asarray(np.ceil(batch) if dtype is int else batch, dtype)
    em = elbax.em(model)

    def found(params, other, batch):
        exact, stale = elbax.Exact(model, params), elbax.Exact(model, other)

        def first(update):
            moved, info = update(update.init(params, exact, key=jax.random.key(1)), batch)
            return info.elbo, moved.params

        both = [elbax.elbo(model, params, stale, batch), first(em)]
        if not everywhere:
            return both
        terms = elbax.elbo_terms(model, params, exact, batch, chunk_size=7)
        importance = elbax.posteriors.Importance(stale, exact, 3)
        return [
            *both,
            (terms.elbo, terms.expected_log_joint, terms.entropy, terms.evidence),
            elbax.elbo(model, params, importance, batch, key=jax.random.key(2)),
            *(
                first(elbax.wrappers.Anneal(em, optax.constant_schedule(0.7), target=target))
                for target in ("entropy", "divergence")
            ),
        ]

    results = []
    for small in (0, 10**9):
        monkeypatch.setattr(elbax._pass, "_SMALL", small)
        # Another function each time, as a program that was compiled before is not changed.
        once = eqx.filter_jit(lambda *arguments: found(*arguments))
        results.append(jax.tree.leaves(once(params, other, batch)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["Poisson", "Multinomial", "Gamma"])
def test_a_faster_form_is_not_taken_where_it_cancels(name):
    """Large rates, totals and shapes."""
    described = {
        "Poisson": {"rates": jnp.full((2, 12), 1e6)},
        "Multinomial": {"probabilities": jnp.full((2, 12), 1 / 12)},
        "Gamma": {"shapes": jnp.full((2, 12), 9e3), "rates": jnp.ones((2, 12))},
    }[name]
    model = elbax.Mixture(getattr(components, name)(), 2)
    params = model.from_description(weights=WEIGHTS, **described)
    x = jnp.full((3, 12), 1e6)
    assert not bool(model.shortcut(params, x).allowed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_large_numbers(dtype):
    """Against arithmetic of more digits, near and far from where the textbook form cancels."""
    eps = np.finfo(dtype).eps
    count = np.array([0, 1, 3, 50, 1e3, 1e5, 1e7, 1e7, 10, 1e5], dtype)
    log_rate = np.log(np.array([0.3, 2, 3, 45, 1.03e3, 1e5 + 300, 1e7, 2e7, 1e-5, 10], dtype))
    x, rate = count.astype(np.longdouble), np.exp(log_rate.astype(np.longdouble))
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = np.where(x > 0, x * np.log(x / rate), 0) + rate - x
    ours = np.asarray(jax.jit(half_deviance)(count, log_rate))
    # A rate knows its logarithm to rounding.
    slack = eps * np.abs(log_rate) * np.abs(rate - x)
    assert np.all(np.abs(ours - exact) <= 8 * eps * exact + 2 * slack + 8 * (eps * x) ** 2 / rate)
    shape = np.geomspace(0.1, 100, 40).astype(dtype)
    wide = shape.astype(float)
    error = scipy.special.gammaln(wide) - (wide - 0.5) * np.log(wide) + wide
    error -= 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(jax.jit(stirling_error)(shape), error, atol=40 * eps)
    v = np.array([-0.9, -0.3, -1e-3, 0, 1e-5, 0.2, 0.31, 5, 1e4], dtype)
    exact = [float(one - (1 + one).ln()) for one in map(decimal.Decimal, v.tolist())]
    np.testing.assert_allclose(jax.jit(excess)(v, np.log1p(v)), exact, rtol=8 * eps)


# --- nothing -------------------------------------------------------------------------------------

QUICK = ["gamma"]
SLOW = ["bernoulli", "poisson", "categorical", "multinomial", "factors"]
SLOW += ["student", "regression", "product", "with-priors", "tied-with-priors"]


def trained(params):
    """All arrays but what they are taken about."""
    return jax.tree.leaves(split_coordinates(params)[0])


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_a_component_without_data_stays_or_takes_its_prior(name):
    """No NaN, whether nothing was ever in it or its responsibilities all round to 0."""
    case = find(f"mixture-{name}:exact/closed")
    model, params = case.system.model, case.system.params
    params = params | {"logits": params["logits"].at[1].set(-1e6)}
    state = case.state.replace(params=params, posterior=elbax.Exact(model, params))
    ends = []
    for _ in range(4):
        state, info = case.step(state, case.system.x)
        ends.append(state.params)
        assert np.isfinite(float(info.elbo))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state.params))
    has_prior = name in ("bernoulli", "poisson", "multinomial", "product")
    if has_prior or name.endswith("with-priors"):
        return
    for old, new in zip(*map(trained, (params["components"], ends[0]["components"])), strict=True):
        np.testing.assert_array_equal(new[1], old[1])


@pytest.mark.slow
def test_a_component_without_data_takes_its_priors_mode():
    """The mode of the prior, by its formula."""
    case = find("mixture-with-priors:exact/closed")
    model, params = case.system.model, case.system.params
    params = params | {"logits": params["logits"].at[1].set(-1e6)}
    state = case.state.replace(params=params, posterior=elbax.Exact(model, params))
    described = model.describe(case.step(state, case.system.x)[0].params)
    np.testing.assert_allclose(described["means"][1], [0.5, -0.5], rtol=1e-9)
    scatter = np.array([[1.0, 0.2], [0.2, 0.5]]) + 1e-6 * np.diag(case.system.x.var(0))
    np.testing.assert_allclose(described["covariances"][1], scatter / (4 + 2 + 2), rtol=1e-8)
    expected = 1.5 / (24 + 3 * 1.5)
    np.testing.assert_allclose(described["weights"][1], expected, rtol=1e-9)


def test_a_constant_column_has_a_spherical_deviation(as_users_run):
    """Refused where its own variance has no estimate but 0; fitted where all columns share one."""
    x = jnp.asarray(np.c_[np.random.default_rng(0).normal(size=20), np.ones(20)])
    with pytest.raises(ValueError, match="Mixture.init: column 1 is constant"):
        elbax.GaussianMixture(1, "diagonal").init(jax.random.key(0), x)
    model = elbax.GaussianMixture(1, "spherical", floor=0.0)
    params = model.init(jax.random.key(0), x)
    em = elbax.em(model)
    state, _ = em(em.init(params, key=jax.random.key(1)), x)
    variance = model.describe(state.params)["covariances"][0, 0, 0]
    np.testing.assert_allclose(variance, np.asarray(x).var(0).mean(), rtol=1e-10)


def test_a_rates_prior_without_a_mode_does_not_lower_the_bound():
    """A Gamma of shape < 1 pulls a rate without events to 0, as far as a float goes, whatever its exposure."""
    prior = elbax.priors.Gamma(0.5, 0.5)
    model, x = elbax.Mixture(elbax.components.Poisson(prior), 2), jnp.array([[0.0], [0.0], [4.0]])
    params = model.init(jax.random.key(0), x)
    em = elbax.em(model)
    state = em.init(params, key=jax.random.key(0))
    assert elbax.fit(em, state, x).code == "converged"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_normalizer_of_a_logit(dtype):
    x = np.array([-np.inf, -800, -40, -1e-3, 0, 1e-3, 2, 40, 800, np.inf], dtype)
    exact = np.logaddexp(x.astype(float), 0)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(softplus(jnp.asarray(x)), exact, rtol=4 * eps)
    rise = scipy.special.expit(x.astype(float))
    slope, curvature = jax.grad(softplus), jax.grad(jax.grad(softplus))
    np.testing.assert_allclose(jax.vmap(slope)(x), rise, rtol=8 * eps, atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(jax.vmap(curvature)(x), rise * (1 - rise), atol=eps)
