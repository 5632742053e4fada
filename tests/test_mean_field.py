"""Mean field against fixed points found by hand, closed forms and the exact posterior."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import elbax
from elbax import Categorical, DiagonalGaussian, Gaussian, MarkovChain
from elbax.families import factored, FactorGraph, GridGraph
from elbax.families._factored import AbstractFactored
from elbax.families._structured import possible_dot


def gaussian():
    root = np.random.default_rng(0).normal(size=(3, 3))
    return Gaussian(3), (jnp.array([1.0, -2.0, 0.5]), jnp.asarray(root @ root.T + np.eye(3)))


def chain(varying=False, length=4):
    rng = np.random.default_rng(1)
    shape = (3, 2, 2) if varying else (2, 2)
    return MarkovChain(2), {
        "initial": jnp.asarray(rng.normal(size=2)),
        "transition": jnp.asarray(rng.normal(size=shape)),
        "unary": jnp.asarray(rng.normal(size=(4, 2))),
        "length": jnp.array(length),
    }


def grid():
    rng = np.random.default_rng(2)
    shapes = {"unary": (2, 3, 2), "below": (1, 3, 2, 2), "beside": (2, 2, 2, 2)}
    return GridGraph(2, 3, 2), {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()}


SCOPES = ((0, 1), (2, 1), (2, 3), (3, 0), (1,), (0, 2, 3))


def graph():
    rng = np.random.default_rng(3)
    sizes = (2, 3, 2, 2)
    tables = [jnp.asarray(rng.normal(size=[sizes[i] for i in s])) for s in SCOPES]
    return FactorGraph(sizes, SCOPES), tuple(tables)


CASES = {
    "gaussian": (gaussian, None),
    "chain": (chain, None),
    "varying chain": (lambda: chain(True), None),
    "ragged chain": (lambda: chain(length=3), None),
    "grid": (grid, None),
    "graph": (graph, None),
    "graph of pairs": (graph, [[0, 1], [3, 2]]),
    "one block": (graph, [[0, 1, 2, 3]]),
}


def made(name):
    make, blocks = CASES[name]
    whole, potentials = make()
    return whole, potentials, factored(whole, blocks)


@eqx.filter_jit
def ascended(family, natural, potentials, rounds):
    """(natural parameters, the bound before each round)."""

    def step(natural, _):
        return family.ascend(natural, potentials), family.bound(natural, potentials)

    return jax.lax.scan(step, natural, length=rounds)


SLOW = {"varying chain", "graph", "graph of pairs", "one block", "grid"}


def quick(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in names]


@pytest.mark.parametrize("name", quick(CASES))
def test_ascends_to_a_stationary_bound_below_the_evidence(name):
    whole, potentials, family = made(name)
    natural, trace = ascended(family, family.start(potentials), potentials, 200)
    assert bool(jnp.all(jnp.diff(trace) > -1e-12))
    evidence = float(whole.log_normalizer(potentials))
    assert trace[-1] <= evidence + 1e-10
    if name == "one block":
        np.testing.assert_allclose(trace[-1], evidence, rtol=1e-12)
    # No block could do better by itself.
    best = family.potentials(potentials, family.parts.mean(natural))
    means = family.parts.mean(natural), family.parts.mean(best)
    for ours, theirs in zip(*map(jax.tree.leaves, means)):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["gaussian", pytest.param("graph of pairs", marks=pytest.mark.slow)]
)
def test_a_round_of_its_own_is_the_gradients(name):
    """Families that know a faster round make the same one."""
    _, potentials, family = made(name)
    ours = theirs = family.start(potentials)
    for _ in range(3):
        ours = family.ascend(ours, potentials)
        theirs = AbstractFactored.ascend(family, theirs, potentials)
        for a, b in zip(
            *map(jax.tree.leaves, (family.parts.mean(ours), family.parts.mean(theirs)))
        ):
            np.testing.assert_allclose(a, b, atol=1e-14)


def impossible(name):
    """Some value of the first variable, and some pair besides, cannot be."""
    whole, potentials, family = made(name)
    if name == "graph":
        tables = list(potentials)
        tables[4], tables[0] = tables[4].at[0].set(-jnp.inf), tables[0].at[0].set(-jnp.inf)
        return whole, tuple(tables), family
    unary = potentials["unary"].at[(0,) * potentials["unary"].ndim].set(-jnp.inf)
    potentials = potentials | {"unary": unary}
    if name == "grid":
        potentials["below"] = potentials["below"].at[0, 1, 1].set(-jnp.inf)
    return whole, potentials, family


@pytest.mark.parametrize("name", quick(["chain", "grid", "graph"]))
def test_what_is_impossible_stays_so(name):
    """−∞ among the potentials: a block that gives it probability 0 must not make the next one forget it."""
    whole, potentials, family = impossible(name)
    natural = family.start(potentials)
    _, trace = ascended(family, natural, potentials, 30)
    assert bool(jnp.all(jnp.isfinite(trace[1:])))
    assert bool(jnp.all(jnp.diff(trace[1:]) > -1e-12))
    assert trace[-1] <= whole.log_normalizer(potentials) + 1e-10


def test_one_categorical_is_exact_where_a_value_is_impossible():
    def log_joint(params, x, z):
        density = jax.scipy.stats.norm.logpdf(x, params[z])
        return jnp.where((z == 0) & (x > 0), -jnp.inf, jnp.log(0.5) + density)

    model, params = elbax.Model(log_joint, Categorical(2)), jnp.array([-1.0, 1.0])
    x = jnp.array([-1.0, 2.0, 3.0])
    step = elbax.MeanFieldEStep(model)
    state = step.init(
        params, elbax.posteriors.MeanField.init(model, params, x), key=jax.random.key(0)
    )
    _, info = jax.lax.scan(lambda state, _: step(state, x), state, length=4)
    np.testing.assert_allclose(info.elbo, elbax.evidence(model, params, x), rtol=1e-12)


@eqx.filter_jit
def after_one_round(whole, family, potentials, z):
    """(log-density, statistics and score at every z; entropy, means, bound, mode and a sample of q)."""
    natural = family.ascend(family.start(potentials), potentials)
    everywhere = jax.vmap(
        lambda z: (family.log_prob(natural, z), whole.statistics(z), whole.score(potentials, z))
    )
    said = family.entropy(natural), family.mean(natural), family.bound(natural, potentials)
    return *everywhere(z), *said, family.mode(natural), family.sample(natural, jax.random.key(0))


@pytest.mark.parametrize(
    "name", quick(["chain", "ragged chain", "grid", "graph", "graph of pairs"])
)
def test_what_q_says_of_itself(name):
    """Density, entropy, means and bound by enumeration; samples where there is mass."""
    whole, potentials, family = made(name)
    if isinstance(whole, FactorGraph):
        z = np.array(list(itertools.product(*map(range, whole.sizes))))
    elif isinstance(whole, GridGraph):
        z = np.array(list(itertools.product(range(2), repeat=6))).reshape(-1, 2, 3)
    else:
        length = int(potentials["length"])
        z = np.array(list(itertools.product(range(2), repeat=length)))
        z = np.pad(z, ((0, 0), (0, 4 - length)), constant_values=-1)
    log_q, counts, score, entropy, means, bound, mode, drawn = after_one_round(
        whole, family, potentials, z
    )
    q = np.exp(log_q)
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-12)
    by_hand = -np.sum(scipy.special.xlogy(q, q))
    np.testing.assert_allclose(entropy, by_hand, rtol=1e-10)
    for ours, theirs in zip(jax.tree.leaves(means), jax.tree.leaves(counts)):
        if jnp.issubdtype(theirs.dtype, jnp.inexact):
            np.testing.assert_allclose(ours, np.tensordot(q, theirs, 1), atol=1e-12)
    np.testing.assert_allclose(bound, q @ np.asarray(score) + by_hand, rtol=1e-10)
    np.testing.assert_array_equal(mode, z[np.argmax(log_q)])
    assert (np.asarray(drawn) == z).reshape(len(z), -1).all(1).any()


def test_a_gaussians_mean_is_exact_and_its_variances_are_not():
    _whole, potentials, family = made("gaussian")
    natural, _ = ascended(family, family.start(potentials), potentials, 300)
    covariance = np.linalg.inv(potentials[1])
    np.testing.assert_allclose(family.mode(natural), covariance @ potentials[0], atol=1e-9)
    np.testing.assert_allclose(1 / natural[1], 1 / np.diag(potentials[1]), rtol=1e-12)
    assert (1 / natural[1] < np.diag(covariance)).all()


def test_larger_blocks_are_tighter():
    """Single variables, pairs, all: and the same tables in all of them."""
    whole, potentials = graph()
    bounds = []
    for blocks in (None, [[0, 1], [2, 3]], [[0, 1, 2, 3]]):
        family = factored(whole, blocks)
        _natural, trace = ascended(family, family.start(potentials), potentials, 100)
        bounds.append(float(trace[-1]))
    assert bounds[0] < bounds[1] < bounds[2] + 1e-12


@pytest.mark.slow
def test_ising_at_its_fixed_point():
    """m = tanh(h + J Σ m) on every site of a ring-free grid."""
    rng = np.random.default_rng(5)
    field, coupling = 0.3 * rng.normal(size=(4, 5)), 0.2
    spin = jnp.array([-1.0, 1.0])
    same = coupling * jnp.outer(spin, spin)
    potentials = {
        "unary": field[:, :, None] * spin,
        "below": jnp.broadcast_to(same, (3, 5, 2, 2)),
        "beside": jnp.broadcast_to(same, (4, 4, 2, 2)),
    }
    family = factored(GridGraph(4, 5, 2))
    natural, _ = ascended(family, family.start(potentials), potentials, 200)
    m = np.asarray(family.parts.mean(natural)["unary"] @ spin)
    padded = np.pad(m, 1)
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    np.testing.assert_allclose(m, np.tanh(field + coupling * around), atol=1e-10)


@pytest.mark.parametrize("family", [Categorical(3), DiagonalGaussian(2)])
def test_one_variable_is_exact(family):
    natural = jnp.array([0.1, 2.0, -1.0])
    if isinstance(family, DiagonalGaussian):
        natural = jnp.array([0.3, 1.0]), jnp.array([2.0, 0.5])
    inside = factored(family)
    moved = inside.ascend(inside.start(natural), natural)
    for ours, theirs in zip(jax.tree.leaves(moved), jax.tree.leaves(natural)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_minibatches_move_their_own_rows():
    """Rows that are not in the batch stay, to the bit; those in it move as on the whole data."""
    x = elbax.datasets.old_faithful()[:40]
    model = elbax.FactorAnalysis(1)
    params = model.init(jax.random.key(0), x)
    step = elbax.MeanFieldEStep(model)
    state = step.init(
        params, elbax.posteriors.MeanField.init(model, params, x), key=jax.random.key(1)
    )
    moved = jax.tree.map(lambda leaf: leaf + 0.1, state.posterior)
    state = state.replace(posterior=moved)
    rows = jnp.array([3, 17, 8])
    mask = jnp.array([True, True, False])
    part, _ = step(state, elbax.Batch(x[rows], mask=mask, index=rows))
    whole, _ = step(state, x)
    for old, new, full in zip(
        *(jax.tree.leaves(s.posterior.table) for s in (state, part, whole)), strict=True
    ):
        np.testing.assert_allclose(new[rows[:2]], full[rows[:2]], rtol=1e-12)
        rest = np.setdiff1d(np.arange(40), rows[:2])
        np.testing.assert_array_equal(new[rest], old[rest])


def test_a_table_stands_at_the_batchs_index():
    """Blocks of one pattern of gaps change the order of rows, and pad; the table has the data's own."""
    x = jnp.array([[jnp.nan, 1.0], [2.0, 1.0], [jnp.nan, 5.0], [2.0, 5.0], [2.0, 1.1]])
    model = elbax.GaussianMixture(2)
    params = model.from_description(
        weights=[0.5, 0.5], means=[[2.0, 1.0], [2.0, 5.0]], covariances=[np.eye(2)] * 2
    )
    table = elbax.posteriors.MeanField.init(model, params, elbax.incomplete(x, block_size=2))
    assert table.num_rows == 5
    exact = elbax.Exact(model, params)
    for row in range(5):
        datum = elbax.IncompleteRows(jnp.nan_to_num(x[row]), ~jnp.isnan(x[row]))
        ours = table(None, index=row).mean()
        np.testing.assert_allclose(ours, exact(datum).mean(), rtol=1e-12)
    mask = jnp.array([True, False, True])
    part = elbax.Batch(x[1:4], mask=mask, index=jnp.array([1, 99, 3]))
    few = elbax.posteriors.MeanField.init(model, params, part)
    assert few.num_rows == 4
    np.testing.assert_allclose(few(None, index=3).mean(), exact(x[3]).mean(), rtol=1e-12)
    with pytest.raises(TypeError, match="must be known, .*; got traced ones"):
        jax.jit(
            lambda index: elbax.posteriors.MeanField.init(
                model, params, elbax.Batch(x, index=index)
            )
        )(jnp.arange(5))


@pytest.mark.slow
def test_chunks_are_the_whole():
    x = elbax.datasets.old_faithful()[:30]
    model = elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), x)
    ends = []
    for chunk_size in (None, 7):
        step = elbax.MeanFieldEStep(model, chunk_size=chunk_size)
        state = step.init(
            params, elbax.posteriors.MeanField.init(model, params, x), key=jax.random.key(1)
        )
        end, info = step(state, x)
        ends.append((end.posterior.table, info.elbo))
    for a, b in zip(*map(jax.tree.leaves, ends)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: factored(graph()[0], [[0, 1], [1, 2, 3]]), ValueError, "contain each of 0"),
        (
            lambda: factored(Gaussian(2), [[0, 1]]),
            TypeError,
            "blocks can be chosen only for a FactorGraph",
        ),
        (
            lambda: elbax.posteriors.MeanField(jnp.zeros((2, 2)), Gaussian(2)),
            TypeError,
            "independent blocks",
        ),
        (
            lambda: elbax.MeanFieldEStep(elbax.GaussianMixture(2), num_sweeps=0),
            ValueError,
            "at least 1",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_dots_of_joined_means_are_linear_in_each_block():
    """What coordinate ascent rests on, where blocks overlap in a table of three variables."""
    _whole, potentials, family = made("graph of pairs")
    rng = np.random.default_rng(9)
    means = [
        tuple(jnp.asarray(rng.random(t.shape)) for t in family.nothing(potentials))
        for _ in range(2)
    ]
    colors, _ = family.colors(means[0])
    value = lambda m: possible_dot(family.join(m), potentials)
    first = [c == 0 for c in colors]
    mixed = lambda a: tuple(
        (1 - a) * x + a * y if move else x for move, x, y in zip(first, means[0], means[1])
    )
    np.testing.assert_allclose(value(mixed(0.5)), 0.5 * (value(mixed(0.0)) + value(mixed(1.0))))
