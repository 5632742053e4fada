"""Exact chains as blocks, against sums over all paths, and the M-step against least squares."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import elbax
from elbax.families import CoupledChains, factored
from elbax.families._factored import AbstractFactored


# --- coupled chains --------------------------------------------------------------------------------


def coupled(length=3):
    rng = np.random.default_rng(0)
    shapes = {
        "initial": (2, 3),
        "transition": (2, 3, 3),
        "unary": (2, 3, 3),
        "coupling": (2, 3, 2, 3),
    }
    eta = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return CoupledChains(2, 3), eta | {"length": jnp.array(length)}


def log_weight(eta, z):
    """The log-weight of one configuration, term by term."""
    total = 0.0
    for c, path in enumerate(z):
        total += eta["initial"][c, path[0]] + sum(eta["unary"][c, t, k] for t, k in enumerate(path))
        total += sum(eta["transition"][c, i, j] for i, j in itertools.pairwise(path))
        for d, other in enumerate(z):
            if c != d:
                total += sum(eta["coupling"][c, i, d, j] for i, j in zip(path, other, strict=True))
    return total


@eqx.filter_jit
def said_of_all(family, eta, z):
    q = family(eta)
    every = jax.vmap(lambda z: (family.score(eta, z), family.statistics(z)))(z)
    drawn = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 20))
    return *every, family.log_normalizer(eta), q.mean(), q.entropy(), q.mode(), drawn


@pytest.fixture(scope="module")
def both():
    """All configurations of two steps of a padded sequence, and what is said of them."""
    family, eta = coupled(length=2)
    z = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    weights = np.array([log_weight(jax.tree.map(np.asarray, eta), one) for one in z])
    return weights, np.pad(z, ((0, 0), (0, 0), (0, 1)), constant_values=-1), family, eta


def test_all_configurations_of_coupled_chains(both):
    weights, z, family, eta = both
    score, counts, value, mean, entropy, mode, drawn = said_of_all(family, eta, z)
    np.testing.assert_allclose(score, weights, rtol=1e-12)
    p = scipy.special.softmax(weights)
    np.testing.assert_allclose(value, scipy.special.logsumexp(weights), rtol=1e-12)
    for name in ("initial", "transition", "unary", "coupling"):
        theirs = np.tensordot(p, np.asarray(counts[name]), 1)
        np.testing.assert_allclose(mean[name], theirs, atol=1e-12)
    np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), rtol=1e-10)
    np.testing.assert_array_equal(mode, z[np.argmax(weights)])
    places = [np.flatnonzero((z == one).all((1, 2))) for one in np.asarray(drawn)]
    assert all(len(place) == 1 for place in places)
    assert abs(np.mean(np.log(p)[np.concatenate(places)]) + entropy) < 0.8


@eqx.filter_jit
def of_blocks(family, eta, z):
    def step(natural, _):
        moved = family.ascend(natural, eta)
        return moved, (moved, family.bound(moved, eta))

    start = family.start(eta)
    last, (trace, bounds) = jax.lax.scan(step, start, length=3)
    slow = AbstractFactored.ascend(family, start, eta)
    log_q = jax.vmap(family.log_prob, (None, 0))(last, z)
    return trace, slow, bounds, log_q, family.mean(last), family.mode(last)


def test_blocks_are_exact_chains(both):
    """A round is the gradient's, and each bound is E log p + H by enumeration, below the evidence."""
    weights, z, _, eta = both
    trace, slow, bounds, log_q, mean, mode = of_blocks(factored(both[2]), eta, z)
    for ours, theirs in zip(*map(jax.tree.leaves, (trace, slow)), strict=True):
        np.testing.assert_allclose(ours[0], theirs, atol=1e-12)
    assert (np.diff(bounds) > 0).all() and bounds[-1] < scipy.special.logsumexp(weights)
    q = np.exp(log_q)
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(bounds[-1], q @ (weights - np.asarray(log_q)), rtol=1e-10)
    pairs = np.einsum("ncti,ndtj,n->cidj", *[np.eye(4)[z][..., :3]] * 2, q)
    pairs[[0, 1], :, [0, 1]] = 0
    np.testing.assert_allclose(mean["coupling"], pairs, atol=1e-12)
    np.testing.assert_array_equal(mode, z[np.argmax(log_q)])


# --- the factorial hidden Markov model ---------------------------------------------------------------


def factorial(num_chains=2, scale=1.0):
    """A model, its params, and 3 sequences of 2 to 4 steps of two columns."""
    rng = np.random.default_rng(1)
    model = elbax.FactorialHiddenMarkovModel(num_chains, 2, floor=0.0)
    params = model.from_description(
        initial=rng.uniform(0.2, 1, (num_chains, 2)),
        transition=rng.uniform(0.2, 1, (num_chains, 2, 2)),
        means=scale * rng.normal(size=(num_chains, 2, 2)),
        offset=[5.0, -3.0],
        covariance=[[0.5, 0.2], [0.2, 0.4]],
    )
    x = rng.normal(size=(3, 4, 2)) + [5.0, -3.0]
    return model, params, elbax.Sequence(jnp.asarray(x), jnp.array([4, 2, 3]))


def enumerated(model, params, values):
    """(all paths (n, C, T), log p(x, z) of each) of one sequence, in NumPy and SciPy."""
    about = jax.tree.map(np.asarray, model.describe(params))
    steps, chains = len(values), model.num_chains
    z = np.array(list(itertools.product(range(2), repeat=chains * steps)))
    z = z.reshape(-1, chains, steps)
    total = np.zeros(len(z))
    mean = np.broadcast_to(about["offset"], (len(z), steps, 2)).copy()
    for c in range(chains):
        total += np.log(about["initial"][c])[z[:, c, 0]]
        total += np.log(about["transition"][c])[z[:, c, :-1], z[:, c, 1:]].sum(1)
        mean += about["means"][c][z[:, c]]
    noise = scipy.stats.multivariate_normal(cov=about["covariance"])
    return z, total + noise.logpdf(values - mean).sum(1)


@eqx.filter_jit
def sweeps(update, state, x, length):
    return jax.lax.scan(lambda state, _: update(state, x), state, length=length)


def mean_field(model, params, x, m_step=None, num_sweeps=1):
    e_step = elbax.MeanFieldEStep(model, num_sweeps)
    update = e_step if m_step is None else elbax.Chain(e_step, m_step)
    posterior = elbax.posteriors.MeanField.init(model, params, x)
    return update, update.init(params, posterior, key=jax.random.key(0))


def test_evidence_of_a_factorial_model_and_bound_below_it():
    model, params, x = factorial()
    found = [
        scipy.special.logsumexp(enumerated(model, params, values[:length])[1])
        for values, length in zip(np.asarray(x.values), np.asarray(x.length), strict=True)
    ]
    evidence = elbax.evidence(model, params, x)
    np.testing.assert_allclose(evidence, np.mean(found), rtol=1e-12)
    update, state = mean_field(model, params, x)
    _, info = sweeps(update, state, x, 12)
    assert (np.diff(info.elbo) > -1e-12).all() and info.elbo[-1] < evidence - 1e-3


@pytest.mark.parametrize("chains, scale, gap", [(1, 1.0, 1e-12), (2, 0.1, 1e-3)])
def test_where_the_bound_is_tight(chains, scale, gap):
    """One chain is exact; chains that the data hardly couple are nearly so."""
    model, params, x = factorial(chains, scale)
    update, state = mean_field(model, params, x)
    _, info = sweeps(update, state, x, 6)
    assert abs(info.elbo[-1] - elbax.evidence(model, params, x)) < gap


def test_the_regression_on_all_states_is_least_squares():
    """The closed form from the exact posterior of all paths, by NumPy."""
    model, params, x = factorial()
    em = elbax.em(model)
    state, _ = sweeps(em, em.init(params, key=jax.random.key(0)), x, 1)
    rows, targets, weights, first = [], [], [], 0
    moves = np.zeros((2, 2, 2))
    for values, length in zip(np.asarray(x.values), np.asarray(x.length), strict=True):
        z, joint = enumerated(model, params, values[:length])
        p = scipy.special.softmax(joint)
        states = np.eye(2)[z]
        rows.append(states.transpose(0, 2, 1, 3).reshape(-1, 4))
        targets.append(np.broadcast_to(values[:length], (len(z), length, 2)).reshape(-1, 2))
        weights.append(np.repeat(p, length))
        first += np.einsum("n,nck->ck", p, states[:, :, 0])
        moves += np.einsum("n,ncti,nctj->cij", p, states[:, :, :-1], states[:, :, 1:])
    rows, targets, weights = map(np.concatenate, (rows, targets, weights))
    root = np.sqrt(weights)[:, None]
    fit, *_ = np.linalg.lstsq(root * rows, root * targets, rcond=None)
    residual = targets - rows @ fit
    found = model.describe(state.params)
    covariance = (weights[:, None] * residual).T @ residual / weights.sum()
    np.testing.assert_allclose(found["covariance"], covariance, rtol=1e-8)
    means = fit.reshape(2, 2, 2)
    theirs = means - means.mean(1, keepdims=True)
    np.testing.assert_allclose(found["means"], theirs, atol=1e-7)
    np.testing.assert_allclose(found["initial"], first / 3, rtol=1e-10)
    np.testing.assert_allclose(
        found["transition"], moves / moves.sum(-1, keepdims=True), rtol=1e-10
    )


def test_variational_em_ascends():
    model, params, x = factorial()
    update, state = mean_field(model, params, x, elbax.ClosedFormMStep(model))
    _, info = sweeps(update, state, x, 15)
    assert (np.diff(info.elbo) > -1e-12).all() and info.elbo[-1] > info.elbo[0] + 0.5
