"""Leading axes are a batch: what a distribution of many rows says is what those of the rows say, one by one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_close

import elbax
from elbax.posteriors._hard import Point
from elbax.posteriors._particles import Particles


ROWS = 3


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=(ROWS, *shape))


def gaussian():
    root = normal(0, 2, 2) + 2 * np.eye(2)
    return elbax.Gaussian(2), (normal(1, 2), root @ root.transpose(0, 2, 1))


def chain(varying=False):
    transition = normal(1, 3, 2, 2) if varying else normal(1, 2, 2)
    return elbax.MarkovChain(2), {
        "initial": normal(0, 2),
        "transition": transition,
        "unary": normal(2, 4, 2),
        "length": np.array([4, 2, 3]),
    }


def gaussian_chain():
    eye = np.broadcast_to(np.eye(2), (ROWS, 2, 2))
    transition = {"matrix": 0.5 * normal(1, 2, 2), "offset": normal(2, 2), "root": eye}
    return elbax.GaussianChain(2), {
        "initial": {"mean": normal(0, 2), "root": 2 * eye},
        "transition": transition,
        "unary": {"rows": normal(3, 1, 2), "target": normal(4, 4, 1)},
        "length": np.array([4, 2, 3]),
    }


def alignments():
    return elbax.families.CTCLattice(), {
        "unary": normal(0, 5, 5),
        "skip": np.tile(np.arange(5) == 3, (ROWS, 1)),
        "length": np.array([5, 4, 3]),
        "positions": np.array([5, 3, 5]),
    }


def trees():
    return elbax.families.ParseTree(1, 2), {
        "root": normal(0, 1),
        "binary": normal(1, 1, 3, 3),
        "unary": normal(2, 4, 2),
        "length": np.array([4, 2, 3]),
    }


def grid():
    shapes = {"unary": (2, 3, 2), "below": (1, 3, 2, 2), "beside": (2, 2, 2, 2)}
    return elbax.families.GridGraph(2, 3, 2), {
        name: normal(0, *shape) for name, shape in shapes.items()
    }


def graph():
    family = elbax.families.FactorGraph((2, 3, 2), ((0, 1), (1, 2), (2,)))
    return family, (normal(0, 2, 3), normal(1, 3, 2), normal(2, 2))


def blocks(make):
    """Mean field's q, its potentials being those of the whole."""
    whole, potentials = make()
    family = elbax.families.factored(whole)
    return family, jax.jit(family.start)(potentials), potentials


FAMILIES = {
    "categorical": lambda: (elbax.Categorical(3), normal(0, 3)),
    "diagonal": lambda: (elbax.DiagonalGaussian(2), (normal(0, 2), np.exp(normal(1, 2)))),
    "gaussian": gaussian,
    "chain": chain,
    "varying-chain": lambda: chain(varying=True),
    "gaussian-chain": gaussian_chain,
    "alignments": alignments,
    "trees": trees,
    "grid": grid,
    "graph": graph,
    "independent-coordinates": lambda: blocks(gaussian),
    "independent-states": lambda: blocks(chain),
    "independent-sites": lambda: blocks(grid),
    "independent-variables": lambda: blocks(graph),
}
QUICK = {"categorical", "gaussian", "independent-sites"}


def named(names):
    return [
        pytest.param(name, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name in names
    ]


def nudged(potentials):
    """Others, of the same kind."""
    return jax.tree.map(lambda leaf: 0.9 * leaf if eqx.is_inexact_array(leaf) else leaf, potentials)


def square(z):
    return jnp.sum(jnp.asarray(z, float) ** 2)


def of_distribution(q, potentials, key):
    """All that a distribution says."""
    found = {
        "mean": q.mean(),
        "bound": q.bound(potentials),
        "entropy": q.entropy(),
        "expect": q.expect(square, key),
        "sample": q.sample(key),
        "mode": q.mode(),
    }
    return found | ({"log_prob": q.log_prob(found["sample"])} if hasattr(q, "log_prob") else {})


of_one_distribution = eqx.filter_jit(of_distribution)


@eqx.filter_jit
def of_family(family, natural, potentials, key):
    """All that a distribution says, and what its family says besides: one program, which shares their parts."""
    found = of_distribution(family(natural), potentials, key)
    z = found["sample"]
    found |= {
        "log_normalizer": family.log_normalizer(natural),
        "mode_statistics": family.mode_statistics(natural),
        "score": family.score(potentials, z),
    }
    if not isinstance(family, elbax.families.CTCLattice):
        found["statistics"] = family.statistics(z)
    for name in ("moments", "marginals", "constituents"):
        if hasattr(family, name):
            found[name] = getattr(family, name)(natural)
    if hasattr(family, "ascend"):
        found["start"] = family.start(potentials)
        found["ascend"] = family.ascend(natural, potentials)
    return found


def row(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def plain(tree):
    """In NumPy, which takes rows and stacks them without a program; random keys stay what they are."""

    def one(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key else np.asarray(leaf)

    return jax.tree.map(one, tree)


def stacked(function, *trees):
    """`function` of the rows, one by one."""
    trees = plain(trees)
    rows = [plain(function(*(row(tree, i) for tree in trees))) for i in range(ROWS)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def made(name):
    family, natural, *rest = FAMILIES[name]()
    potentials = nudged(rest[0] if rest else natural)
    return family, *jax.tree.map(jnp.asarray, (natural, potentials))


@pytest.mark.parametrize("name", named(FAMILIES))
def test_batch_is_its_rows(name):
    family, natural, potentials = made(name)
    key = jax.random.key(7)
    found = of_family(family, natural, potentials, key)
    of_rows = lambda natural, potentials, key: of_family(family, natural, potentials, key)
    expected = stacked(of_rows, natural, potentials, jax.random.split(key, ROWS))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["categorical", pytest.param("grid", marks=pytest.mark.slow)])
def test_points_and_draws_are_batches_too(name):
    family, natural, potentials = made(name)
    key = jax.random.key(7)
    keys = jax.random.split(key, ROWS)
    point = Point(natural, family)
    draws = jax.jit(jax.vmap(family(natural).sample))(jax.random.split(jax.random.key(2), 5))
    log_weights = jax.nn.log_softmax(normal(3, 5))
    log_density = jnp.asarray(normal(4, 5))
    particles = Particles(draws.swapaxes(0, 1), log_weights, log_density, family)
    for q in (point, particles):
        found = of_one_distribution(q, potentials, key)
        assert_close(found, stacked(of_one_distribution, q, potentials, keys))


def test_mean_and_factor_are_a_batch_too():
    """What an encoder's full Gaussian is: more than its natural parameters."""
    family, key = elbax.Gaussian(2), jax.random.key(7)
    q = jax.jit(jax.vmap(family.distribution))(normal(0, 5))
    potentials = nudged(q.natural)
    found = of_one_distribution(q, potentials, key)
    expected = stacked(of_one_distribution, q, potentials, jax.random.split(key, ROWS))
    assert_close(found, expected)


def test_vmapped_posterior_speaks_of_each_row():
    x = elbax.datasets.old_faithful()[:5]
    model = elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), elbax.datasets.old_faithful())
    q = jax.vmap(elbax.Exact(model, params))(x)
    np.testing.assert_allclose(q.mean().sum(-1), np.ones(5), rtol=1e-12)
    assert q.mode().shape == q.entropy().shape == q.sample(jax.random.key(0)).shape == (5,)
    np.testing.assert_array_equal(q.mode(), q.mean().argmax(-1))
    np.testing.assert_allclose(q.log_prob(q.mode()), jnp.log(q.mean().max(-1)), atol=1e-12)


def test_batches_of_batches_and_what_all_rows_share():
    family = elbax.Categorical(4)
    natural = jax.random.normal(jax.random.key(0), (2, 3, 4))
    q = family(natural)
    np.testing.assert_allclose(q.mean(), jax.nn.softmax(natural), rtol=1e-12)
    prior = jnp.arange(4.0)
    by_hand = jnp.sum(q.mean() * (prior - jax.nn.log_softmax(natural)), -1)
    np.testing.assert_allclose(q.bound(prior), by_hand, rtol=1e-10)
    np.testing.assert_allclose(
        q.log_prob(jnp.array(2)), jax.nn.log_softmax(natural)[..., 2], rtol=1e-12
    )
    one = family(natural[0, 0])
    np.testing.assert_allclose(
        one.log_prob(jnp.arange(4)), jax.nn.log_softmax(natural[0, 0]), rtol=1e-12
    )


def test_rows_are_drawn_independently():
    q = elbax.Categorical(2)(jnp.zeros((400, 2)))
    draws = q.sample(jax.random.key(0))
    assert 140 < int(draws.sum()) < 260
    normals = elbax.DiagonalGaussian(1)((jnp.zeros((400, 1)), jnp.ones((400, 1))))
    assert len(np.unique(normals.sample(jax.random.key(0)))) == 400


def test_derivatives_go_through():
    natural = jax.random.normal(jax.random.key(0), (3, 4))
    family = elbax.Categorical(4)
    slope = jax.jit(jax.grad(lambda natural: jnp.sum(family(natural).entropy())))(natural)
    by_row = jax.jit(jax.vmap(jax.grad(lambda natural: family(natural).entropy())))(natural)
    np.testing.assert_allclose(slope, by_row, rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda: elbax.Categorical(3)(jnp.array(0.0)).mean(),
            "natural parameters .* fewer axes than those of one datum",
        ),
        (
            lambda: elbax.Gaussian(2).mode((jnp.zeros((3, 2)), jnp.eye(2))),
            "must have the same leading axes",
        ),
        (
            lambda: elbax.Categorical(3)(jnp.zeros((4, 3))).bound(jnp.zeros((2, 3))),
            "same leading axes or none",
        ),
        (
            lambda: elbax.Categorical(3)(jnp.zeros((4, 3))).log_prob(jnp.zeros((5, 4), int)),
            r"jax.vmap\(q.log_prob\)\(z\)",
        ),
        # These would be broadcast, and the sums over coordinates wrong.
        (
            lambda: elbax.DiagonalGaussian(4)((jnp.zeros(1), jnp.ones(1))).entropy(),
            r"shapes \(\(1,\), \(1,\)\); those of one datum have shapes \(\(4,\), \(4,\)\)",
        ),
        (
            lambda: elbax.Categorical(3)(jnp.zeros((2, 3))).bound(jnp.zeros(1)),
            r"potentials of shapes \(1,\); those of one datum have shapes \(\(3,\),\)",
        ),
        (
            lambda: elbax.Gaussian(2)((jnp.zeros(2), jnp.ones(2))).sample(jax.random.key(0)),
            r"those of one datum have shapes \(\(2,\), \(2, 2\)\)",
        ),
    ],
)
def test_other_axes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("method", ["mean", "entropy", "mode", "log_normalizer"])
def test_one_datum_costs_nothing(method):
    """The program of one datum is that of the method as it is written."""
    family, natural = elbax.Gaussian(2), (jnp.zeros(2), jnp.eye(2))
    plain = getattr(type(family), method).__wrapped__
    ours = jax.make_jaxpr(getattr(family, method))(natural)
    assert str(ours) == str(jax.make_jaxpr(lambda natural: plain(family, natural))(natural))


@pytest.mark.parametrize("table", ["local", "mean-field", "chains"])
def test_several_rows_of_a_table(table):
    place = jnp.array([4, 0, 2])
    posterior = {
        "local": elbax.posteriors.Local(
            jax.random.normal(jax.random.key(0), (6, 4)), elbax.DiagonalGaussian(2)
        ),
        "mean-field": elbax.posteriors.MeanField(
            (jnp.ones((6, 2)) * jnp.arange(6.0)[:, None], jnp.ones((6, 2))),
            elbax.families.factored(elbax.Gaussian(2)),
        ),
        "chains": elbax.posteriors.PersistentChains(
            jnp.arange(36.0).reshape(6, 3, 2), elbax.DiagonalGaussian(2)
        ),
    }[table]
    found = posterior(None, index=place).mean()
    for i, one in enumerate(place):
        assert_close(row(found, i), posterior(None, index=one).mean())
