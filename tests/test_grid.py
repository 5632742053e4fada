"""Potts grids against all configurations, one by one, and against variable elimination."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from elbax.families import factored, FactorGraph, GridGraph


SHAPES = [(3, 3, 2), (1, 4, 3), (4, 1, 3), (2, 3, 3), (4, 2, 2), (1, 1, 2)]


def potentials(height, width, size, seed=0, impossible=True):
    rng = np.random.default_rng(seed)
    eta = {
        "unary": rng.normal(size=(height, width, size)),
        "below": rng.normal(size=(height - 1, width, size, size)),
        "beside": rng.normal(size=(height, width - 1, size, size)),
    }
    if impossible:
        eta["unary"][0, -1, 0] = -np.inf
        eta["below"][:, 0, 1, 1] = -np.inf
        eta["beside"][0, :, 0, 1] = -np.inf
    return eta


def weight(eta, z):
    """The log-weight of one configuration, term by term."""
    rows, columns = z.shape
    total = sum(eta["unary"][i, j, z[i, j]] for i in range(rows) for j in range(columns))
    for i, j in itertools.product(range(rows), range(columns)):
        if i + 1 < rows:
            total += eta["below"][i, j, z[i, j], z[i + 1, j]]
        if j + 1 < columns:
            total += eta["beside"][i, j, z[i, j], z[i, j + 1]]
    return total


def configurations(family):
    shape = (family.height, family.width)
    values = itertools.product(range(family.num_values), repeat=shape[0] * shape[1])
    return np.array(list(values)).reshape(-1, *shape)


@eqx.filter_jit
def everything(family, eta):
    q = family(eta)
    return family.log_normalizer(eta), q.mean(), q.entropy(), q.mode()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_configurations(shape):
    """Value, marginals of sites and neighbors, entropy and mode, with impossible entries."""
    family = GridGraph(*shape)
    z = configurations(family)
    counts = jax.jit(jax.vmap(family.statistics))(z)
    for seed, impossible in [(0, True), (1, False)]:
        eta = potentials(*shape, seed, impossible)
        weights = np.array([weight(eta, one) for one in z])
        expected = scipy.special.logsumexp(weights)
        p = np.exp(weights - expected)
        value, mean, entropy, mode = everything(family, jax.tree.map(jnp.asarray, eta))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for name in eta:
            theirs = np.tensordot(p, np.asarray(counts[name]), 1)
            np.testing.assert_allclose(mean[name], theirs, atol=1e-12)
        np.testing.assert_allclose(entropy, -np.sum(p[p > 0] * np.log(p[p > 0])), atol=1e-10)
        np.testing.assert_array_equal(mode, z[np.argmax(weights)])


def test_samples_are_in_proportion():
    """Each of 64 configurations, among 4000 draws, within five standard deviations."""
    family, eta = GridGraph(2, 3, 2), jax.tree.map(jnp.asarray, potentials(2, 3, 2))
    z = configurations(family)
    p = scipy.special.softmax([weight(eta, one) for one in z])
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.jit(jax.vmap(family.sample, (None, 0)))(eta, keys)).reshape(4000, -1)
    found = np.bincount(np.ravel_multi_index(drawn.T, (2,) * 6), minlength=64) / 4000
    assert (np.abs(found - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()


def test_scores_are_log_weights():
    family, eta = GridGraph(2, 3, 2), potentials(2, 3, 2)
    z = configurations(family)
    scores = jax.jit(jax.vmap(family.score, (None, 0)))(eta, z)
    np.testing.assert_allclose(scores, [weight(eta, one) for one in z], rtol=1e-12)


def test_variable_elimination_agrees():
    """An 8 by 5 grid, where nobody enumerates."""
    height, width, size = 8, 5, 2
    eta = potentials(height, width, size)
    site = np.arange(height * width).reshape(height, width)
    scopes = [*((i,) for i in site.ravel())]
    scopes += zip(site[:-1].ravel(), site[1:].ravel())
    scopes += zip(site[:, :-1].ravel(), site[:, 1:].ravel())
    tables = [*eta["unary"].reshape(-1, size)]
    tables += [*eta["below"].reshape(-1, size, size), *eta["beside"].reshape(-1, size, size)]
    graph = FactorGraph((size,) * site.size, scopes)
    expected = jax.jit(graph.log_normalizer)(tuple(map(jnp.asarray, tables)))
    value = jax.jit(GridGraph(height, width, size).log_normalizer)(jax.tree.map(jnp.asarray, eta))
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_float32_on_a_long_strip():
    """400 by 4 sites at log-weights of a hundred: marginals as in float64, within single precision."""
    eta = jax.tree.map(lambda leaf: jnp.asarray(100 * leaf), potentials(400, 4, 2, 0, False))
    family = GridGraph(400, 4, 2)
    mean = jax.jit(family.mean)
    single = mean(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), eta))
    assert single["below"].dtype == jnp.float32
    for ours, theirs in zip(jax.tree.leaves(single), jax.tree.leaves(mean(eta))):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_ising_in_closed_form():
    """Free energy per site at the critical coupling: Onsager's 0.9296953983 nats, which strips approach."""
    coupling = np.log(1 + np.sqrt(2)) / 2
    same = coupling * np.array([[1.0, -1.0], [-1.0, 1.0]])

    def value(height, width):
        eta = {
            "unary": jnp.zeros((height, width, 2)),
            "below": jnp.broadcast_to(same, (height - 1, width, 2, 2)),
            "beside": jnp.broadcast_to(same, (height, width - 1, 2, 2)),
        }
        return float(jax.jit(GridGraph(height, width, 2).log_normalizer)(eta))

    # Edges cancel in second differences along both sides.
    column = lambda height: value(height, 40) - value(height, 39)
    onsager = np.log(2) / 2 + 2 * 0.915965594177219 / np.pi  # Catalan's constant
    assert abs(column(9) - column(8) - onsager) < 3e-3


def test_what_is_no_grid_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        GridGraph(0, 2, 2)


def test_what_is_too_wide_is_left_to_mean_field():
    family = GridGraph(30, 30, 2)
    eta = jax.tree.map(jnp.asarray, potentials(30, 30, 2, impossible=False))
    with pytest.raises(ValueError, match=r"2.1e\+09 entries.*Use mean field"):
        family.log_normalizer(eta)
    inside = factored(family)
    natural = inside.start(eta)
    assert inside.bound(inside.ascend(natural, eta), eta) > inside.bound(natural, eta)
