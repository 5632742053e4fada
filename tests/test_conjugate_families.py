"""Families that are read off a log-density: densities of SciPy, moments, nodes, reading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as stats

import elbax
from elbax import families


MATRIX = np.array([[2.0, 0.3], [0.3, 1.0]])
INVERSE = np.linalg.inv(MATRIX)
KEY = jax.random.key(0)


def normal_wishart(mean, precision):
    given = stats.multivariate_normal([1.0, -2.0], np.linalg.inv(0.7 * precision))
    return given.logpdf(mean) + stats.wishart(4.2, INVERSE).logpdf(precision)


# (family, a member, log-density by SciPy, some values of z)
CASES = {
    "Bernoulli": (
        families.Bernoulli(),
        jnp.array(0.7),
        lambda z: stats.bernoulli(1 / (1 + np.exp(-0.7))).logpmf(z),
        np.array([0, 1]),
    ),
    "Normal": (
        families.Normal(),
        families.Normal().from_description(mean=0.4, precision=2.5).natural,
        stats.norm(0.4, 2.5**-0.5).logpdf,
        np.array([-1.0, 0.3]),
    ),
    "Gaussian": (
        elbax.Gaussian(2),
        elbax.Gaussian(2).from_description(mean=jnp.array([0.4, 1.0]), precision=MATRIX).natural,
        stats.multivariate_normal([0.4, 1.0], INVERSE).logpdf,
        np.array([[-1.0, 0.3], [0.0, 2.0]]),
    ),
    "Gamma": (
        families.Gamma(),
        families.Gamma().from_description(shape=1.7, rate=2.0).natural,
        stats.gamma(1.7, scale=0.5).logpdf,
        np.array([0.2, 3.0]),
    ),
    "Beta": (
        families.Beta(),
        families.Beta().from_description(a=1.7, b=0.8).natural,
        stats.beta(1.7, 0.8).logpdf,
        np.array([0.2, 0.95]),
    ),
    "Dirichlet": (
        families.Dirichlet(3),
        families.Dirichlet(3).from_description(concentration=jnp.array([1.7, 2.0, 0.7])).natural,
        lambda z: np.array([stats.dirichlet([1.7, 2.0, 0.7]).logpdf(one) for one in z]),
        np.array([[0.2, 0.5, 0.3], [0.8, 0.1, 0.1]]),
    ),
    "Wishart": (
        families.Wishart(2),
        families.Wishart(2).from_description(dof=4.5, inverse_scale=MATRIX).natural,
        lambda z: np.array([stats.wishart(4.5, INVERSE).logpdf(one) for one in z]),
        np.array([MATRIX, 2 * INVERSE]),
    ),
    "NormalWishart": (
        families.NormalWishart(2),
        families.NormalWishart(2)
        .from_description(mean=jnp.array([1.0, -2.0]), shrinkage=0.7, dof=4.2, inverse_scale=MATRIX)
        .natural,
        lambda z: np.array([normal_wishart(*one) for one in zip(*z)]),
        (np.array([[0.3, 0.4], [1.0, -1.0]]), np.array([MATRIX, 2 * INVERSE])),
    ),
}


def close(found, expected, tolerance=1e-12):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_densities_are_those_of_scipy(name):
    family, natural, log_density, z = CASES[name]
    found = jax.vmap(family(natural).log_prob)(jax.tree.map(jnp.asarray, z))
    close(found, log_density(z))


@pytest.mark.parametrize("name", CASES)
def test_moments_nodes_and_reading(name):
    family, natural, *_ = CASES[name]

    @jax.jit
    def answers(natural):
        mean = family.mean(natural)
        gradient = jax.grad(family.log_normalizer)(natural)
        nodes = family.nodes(natural)
        average = jax.tree.map(lambda t: jnp.mean(t, 0), family.of_coordinates(nodes))
        point = family.from_unconstrained(family.to_unconstrained(family.center(natural)) + 0.3)

        def function(z):
            terms = jax.tree.map(jnp.multiply, natural, family.of_coordinates(z))
            return 3.0 + sum(map(jnp.sum, jax.tree.leaves(terms)))

        read = family.read_about(function, point)
        origin = family.read(function, jnp.result_type(float))
        draws = jax.vmap(lambda key: family.sample(natural, key))(jax.random.split(KEY, 4000))
        log_probs = jax.vmap(lambda z: family.log_prob(natural, z))(draws)
        near = family.center(family.near(point))
        entropy = family.entropy(natural)
        return mean, gradient, average, read, origin, log_probs, entropy, point, near, draws

    mean, gradient, average, read, origin, log_probs, entropy, point, near, draws = answers(natural)
    close(gradient, mean)
    close(average, mean, 1e-11)
    close(read, natural, 1e-11)
    close(origin, (natural, 3.0), 1e-11)
    close(near, point)
    error = np.std(log_probs) / 4000**0.5
    assert abs(entropy + np.mean(log_probs)) < 4 * error + 1e-12
    statistics = jax.vmap(family.statistics)(draws)
    for drawn, expected in zip(jax.tree.leaves(statistics), jax.tree.leaves(mean), strict=True):
        assert np.all(np.abs(drawn.mean(0) - expected) < 4.5 * drawn.std(0) / 4000**0.5 + 1e-12)


@pytest.mark.parametrize("name", ["Gamma", "Dirichlet", "NormalWishart"])
def test_plates_are_rows(name):
    family, natural, *_ = CASES[name]
    plate = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, 3, *leaf.shape)), natural)
    q = family(plate)
    assert q.entropy().shape == (2, 3)
    close(
        q.mode(),
        jax.tree.map(lambda z: jnp.broadcast_to(z, (2, 3, *z.shape)), family.mode(natural)),
    )
    shape = jax.tree.leaves(family.nodes(plate))[0].shape
    assert shape[1:3] == (2, 3)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Bernoulli", 1),
        ("Normal", 2),
        ("Gamma", 2),
        ("Beta", 2),
        ("Dirichlet", 3),
        ("Wishart", 4),
        ("NormalWishart", 7),
    ],
)
def test_an_encoder_may_return_anything(name, size):
    family = CASES[name][0]
    natural = family.from_network(jnp.linspace(-1.0, 1.0, size))
    assert jnp.isfinite(family.log_normalizer(natural))
    assert jnp.isfinite(family.entropy(natural))


def test_modes_are_the_highest_points():
    """By SciPy's densities on both sides of the mode."""
    for name in ("Gamma", "Beta", "Normal"):
        family, natural, log_density, _ = CASES[name]
        mode = float(family.mode(natural))
        if name != "Beta":
            assert log_density(mode) > max(log_density(mode + 1e-4), log_density(mode - 1e-4))
    assert families.Gamma().from_description(shape=0.5, rate=1.0).mode() == 0
    assert families.Beta().from_description(a=3.0, b=2.0).mode() == pytest.approx(2 / 3)
    assert families.Beta().from_description(a=0.5, b=0.5).mode() == 0.5
    np.testing.assert_allclose(
        families.Dirichlet(2).from_description(concentration=0.5).mode(), [0.5, 0.5]
    )


def test_improper_members_are_nan():
    assert jnp.isnan(families.Gamma().log_normalizer((jnp.array(-1.5), jnp.array(1.0))))
    assert jnp.isnan(families.Beta().log_normalizer((jnp.array(-1.5), jnp.array(1.0))))
    assert jnp.isnan(families.Dirichlet(2).log_normalizer(jnp.array([1.0, -2.0])))
    assert jnp.isnan(families.Wishart(2).log_normalizer((jnp.array(-3.0), jnp.eye(2))))
