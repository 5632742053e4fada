"""Missing numbers of rows: means and deviations, against sums and integrals over what they could have been."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import elbax
from elbax import components


def mixture(component, rows):
    model = elbax.Mixture(component, 2)
    return model, model.init(jax.random.key(0), jnp.asarray(rows), "random_parts")


RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(40, 3)) @ RNG.normal(size=(3, 3)) + 2.0 * RNG.integers(0, 2, (40, 1))
COUNTS = RNG.poisson(RNG.choice([2.0, 6.0], (40, 1)), (40, 3)).astype(float)
BITS = (RNG.random((40, 3)) < RNG.choice([0.3, 0.8], (40, 1))).astype(float)
# As many points of a line as of a square: one program is for the densities of both.
SIDE = 601
LINE, FEW, BIT = np.linspace(-60, 60, SIDE**2), np.arange(60.0), np.arange(2.0)
POSITIVE = np.linspace(1e-4, 120, SIDE**2)

OF_ROWS = {
    "full": (components.Normal("full"), TABLE, LINE),
    "tied": (components.Normal("tied"), TABLE, LINE),
    "diagonal": (components.Normal("diagonal"), TABLE, LINE),
    "spherical": (components.Normal("spherical"), TABLE, LINE),
    "Student t": (components.StudentT("full", dof=9.0), TABLE, 20 * LINE),
    "factor analyzers": (components.FactorAnalyzer(1), TABLE, LINE),
    "Bernoulli": (components.Bernoulli(), BITS, BIT),
    "Poisson": (components.Poisson(), COUNTS, FEW),
    "gamma": (components.Gamma(), COUNTS + 0.5, POSITIVE),
}


def by_enumeration(model, params, row, place, values):
    """Returns mean and deviation of the number at a place of a datum, from densities of complete ones."""
    rows = np.repeat(row[None], len(values), 0)
    rows[(slice(None), *place)] = values
    log_density = np.asarray(elbax.log_densities(model, params, rows))
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2)


@pytest.mark.parametrize("name", OF_ROWS)
def test_one_number_of_a_row(name):
    component, rows, values = OF_ROWS[name]
    model, params = mixture(component, rows)
    row = rows[0].copy()
    mean, deviation = by_enumeration(model, params, row, (1,), values)
    row[1] = np.nan
    found, deviations = elbax.imputed(model, params, np.stack([rows[1], row]))
    np.testing.assert_allclose(found[1, 1], mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(deviations[1, 1], deviation, rtol=1e-5)
    np.testing.assert_array_equal(found[0], rows[1])
    np.testing.assert_array_equal(found[1, [0, 2]], rows[0, [0, 2]])
    np.testing.assert_array_equal(np.delete(np.ravel(deviations), 4), 0)


@pytest.mark.parametrize("name", ["full", "Student t", "factor analyzers", "one analyzer"])
def test_two_numbers_of_a_row(name):
    if name == "one analyzer":
        model = elbax.FactorAnalysis(1)
        params = model.init(jax.random.key(0), jnp.asarray(TABLE))
    else:
        model, params = mixture(*OF_ROWS[name][:2])
    width = 150 if name == "Student t" else 25
    line = np.linspace(-width, width, SIDE)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    rows = np.concatenate([np.full((len(grid), 1), TABLE[0, 0]), grid], 1)
    log_density = np.asarray(elbax.log_densities(model, params, rows))
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = weight @ grid
    row = np.array([TABLE[0, 0], np.nan, np.nan])
    found, deviations = elbax.imputed(model, params, np.stack([TABLE[1], row]))
    np.testing.assert_allclose(found[1, 1:], mean, rtol=1e-4, atol=1e-6)
    expected = np.sqrt(weight @ (grid - mean) ** 2)
    np.testing.assert_allclose(deviations[1, 1:], expected, rtol=5e-3 if width > 30 else 1e-5)


def test_codes_and_columns_of_several_kinds():
    """The most probable code, and the probability that it is another."""
    codes = RNG.integers(0, 3, (40, 2))
    product = components.Product(kind=components.Categorical(3), size=components.Normal("full"))
    model = elbax.Mixture(product, 2)
    x = {"kind": jnp.asarray(codes), "size": jnp.asarray(TABLE)}
    params = model.init(jax.random.key(0), x, "random_parts")
    holes = {
        "kind": elbax.IncompleteRows(jnp.asarray(codes), jnp.array([[False, True]] * 40)),
        "size": x["size"],
    }
    found, deviations = elbax.imputed(model, params, holes)

    def log_density(code):
        kind = np.stack([np.full(40, code), codes[:, 1]], 1)
        return elbax.log_densities(model, params, {"kind": kind, "size": x["size"]})

    shares = scipy.special.softmax([log_density(code) for code in range(3)], 0)
    np.testing.assert_array_equal(found["kind"][:, 0], shares.argmax(0))
    np.testing.assert_allclose(deviations["kind"][:, 0], 1 - shares.max(0), rtol=1e-9)
    np.testing.assert_array_equal(found["kind"][:, 1], codes[:, 1])
    np.testing.assert_array_equal(found["size"], TABLE)


CHAINS = {
    "hidden Markov": elbax.HiddenMarkovModel(components.Normal("full"), 2),
    "state space": elbax.LinearGaussianStateSpace(2, emission_noise="full", offsets=True),
    "state space, diagonal": elbax.LinearGaussianStateSpace(1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_one_number_of_a_sequence(name):
    """Given all other steps, before it and after it."""
    model = CHAINS[name]
    x = TABLE[:36].reshape(6, 6, 3)
    params = model.init(jax.random.key(0), jnp.asarray(x))
    mean, deviation = by_enumeration(model, params, x[0], (2, 1), np.linspace(-30, 30, 3001))
    row = x[0].copy()
    row[2, 1] = np.nan
    # The second sequence is shorter; its padding is no datum.
    rows = elbax.sequences([row, x[1, :4]])
    found, deviations = elbax.imputed(model, params, rows)
    np.testing.assert_allclose(found[0, 2, 1], mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(deviations[0, 2, 1], deviation, rtol=1e-6)
    np.testing.assert_allclose(found[1, :4], x[1, :4])
    assert not deviations[1, :4].any()
    assert np.isnan(found[1, 4:]).all() and np.isnan(deviations[1, 4:]).all()


@pytest.mark.parametrize("noise", ["diagonal", "full"])
def test_outputs_without_noise(noise):
    """A column that is the state itself, and one that is a multiple of it, with noise."""
    model = elbax.LinearGaussianStateSpace(1, emission_noise=noise)
    params = model.from_description(
        initial_mean=[0.0],
        initial_covariance=[[1.0]],
        transition=[[0.9]],
        transition_covariance=[[0.1]],
        emission=[[1.0], [1.0], [2.0]],
        emission_covariance=np.diag([0.0, 0.1, 0.1]),
    )
    x = np.array([[0.1, 0.2, 0.3], [0.4, np.nan, np.nan], [np.nan, 0.2, 0.2]])
    found, deviations = elbax.imputed(model, params, elbax.sequences([x]))
    # The state of the second step is known.
    np.testing.assert_allclose(found[0, 1], [0.4, 0.4, 0.8], rtol=1e-6)
    np.testing.assert_allclose(deviations[0, 1], [0, 0.1**0.5, 0.1**0.5], rtol=1e-6)
    # That of the third has one before it, 0.36 with variance 0.1, and two numbers that tell it.
    precision = 1 / 0.1 + 1 / 0.1 + 4 / 0.1
    mean = (0.36 / 0.1 + 0.2 / 0.1 + 2 * 0.2 / 0.1) / precision
    np.testing.assert_allclose(found[0, 2, 0], mean, rtol=1e-6)
    np.testing.assert_allclose(deviations[0, 2, 0], precision**-0.5, rtol=1e-6)


def test_an_unknown_row_is_the_whole_distribution():
    """Without any number, the moments of the mixture."""
    model, params = mixture(*OF_ROWS["full"][:2])
    known = elbax.IncompleteRows(jnp.zeros((1, 3)), jnp.zeros((1, 3), bool))
    found, deviations = elbax.imputed(model, params, known)
    described = jax.tree.map(np.asarray, model.describe(params))
    mean = described["weights"] @ described["means"]
    spread = np.diagonal(described["covariances"], axis1=1, axis2=2)
    variance = described["weights"] @ (spread + (described["means"] - mean) ** 2)
    np.testing.assert_allclose(found[0], mean, rtol=1e-12)
    np.testing.assert_allclose(deviations[0], np.sqrt(variance), rtol=1e-12)


def test_few_degrees_of_freedom_have_no_variance():
    model, params = mixture(components.StudentT("full", dof=0.9), TABLE)
    row = np.array([[TABLE[0, 0], np.nan, 1.0], [TABLE[0, 0], np.nan, np.nan]])
    _, deviations = elbax.imputed(model, params, row)
    assert np.isfinite(deviations[0]).all()
    np.testing.assert_array_equal(np.isinf(deviations[1]), [False, True, True])


def test_nearly_singular_covariances_lose_no_digits():
    """In float32: a column that the others tell to 1e-4 of its deviation."""
    root = np.array([[1.0, 0, 0], [0.5, 1.0, 0], [1.0, -1.0, 1e-4]])
    model = elbax.Mixture(components.Normal("full"), 1)
    covariance = root @ root.T
    params = model.from_description(
        weights=[1.0], means=np.zeros((1, 3)), covariances=covariance[None]
    )
    params["components"]["scale"] = components.Normal("full").structure.pack(jnp.asarray(root))[
        None
    ]
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    row = jnp.array([[0.3, -0.7, jnp.nan]], jnp.float32)
    found, deviations = elbax.imputed(model, narrow, row)
    np.testing.assert_allclose(deviations[0, 2], 1e-4, rtol=1e-4)
    np.testing.assert_allclose(found[0, 2], 0.3 - (-0.7 - 0.15), rtol=1e-5)


def test_what_is_complete_is_unchanged():
    """Whole numbers too, and columns that could not be imputed beside others that are."""
    model = elbax.Mixture(components.Poisson(), 2)
    counts = np.array([[2**24 + 1, 3], [2, 5]])
    params = model.init(jax.random.key(0), jnp.asarray(counts), "random_parts")
    found, deviations = elbax.imputed(model, params, counts)
    np.testing.assert_array_equal(found, counts)
    assert not deviations.any()
    product = components.Product(words=components.Multinomial(), size=components.Normal("diagonal"))
    model = elbax.Mixture(product, 2)
    x = {"words": jnp.asarray(COUNTS), "size": jnp.asarray(TABLE)}
    params = model.init(jax.random.key(0), x, "random_parts")
    holes = x | {"size": x["size"].at[0, 0].set(jnp.nan)}
    found, deviations = elbax.imputed(model, params, holes)
    np.testing.assert_array_equal(found["words"], COUNTS)
    assert np.isfinite(found["size"]).all() and deviations["size"][0, 0] > 0


def test_what_cannot_be_imputed(as_users_run):
    inputs, target = jnp.asarray(TABLE[:, :2]), jnp.asarray(TABLE[:, 2])
    model = elbax.Mixture(components.LinearRegression(), 2)
    params = model.init(jax.random.key(0), (inputs, target))
    with pytest.raises(TypeError, match="LinearRegression does not impute"):
        elbax.imputed(model, params, (inputs, target))
