"""Paths through finitely many states against all paths, one by one."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings, strategies as st

import elbax
from elbax import MarkovChain
from elbax.families._forward_backward import forward_backward


K, T = 3, 5
ALLOWED = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], bool)
STARTS = np.array([True, True, False])
MASKED = dict(allowed=ALLOWED, starts=STARTS)
VARIANTS = {
    "log": {},
    "scaled": dict(form="scaled"),
    "log-pairwise": dict(order="pairwise"),
    "masked": MASKED,
    "scaled-pairwise": dict(form="scaled", order="pairwise"),
    "masked-pairwise": dict(order="pairwise", **MASKED),
    "segments": dict(segment=2),
    "scaled-segments": dict(form="scaled", segment=2),
}
QUICK = {"log", "scaled"}


def natural(seed, varying=False, length=T, spread=1.0):
    rng = np.random.default_rng(seed)
    shape = (T - 1, K, K) if varying else (K, K)
    return {
        "initial": jnp.asarray(spread * rng.normal(size=K)),
        "transition": jnp.asarray(spread * rng.normal(size=shape)),
        "unary": jnp.asarray(spread * rng.normal(size=(T, K))),
        "length": jnp.array(length),
    }


def enumerate_paths(eta, starts=None, allowed=None, best=False):
    """What a chain must know, from all paths (or from the best alone)."""
    initial, unary = np.asarray(eta["initial"]), np.asarray(eta["unary"])
    length, table = int(eta["length"]), np.asarray(eta["transition"])
    table = np.broadcast_to(table, (T - 1, K, K))
    paths = list(itertools.product(range(K), repeat=length))
    scores = []
    for z in paths:
        score = initial[z[0]] + sum(unary[t, k] for t, k in enumerate(z))
        score += sum(table[t, z[t], z[t + 1]] for t in range(length - 1))
        possible = starts is None or starts[z[0]]
        possible &= allowed is None or all(allowed[i, j] for i, j in itertools.pairwise(z))
        scores.append(score if possible else -np.inf)
    scores = np.array(scores)
    top = paths[int(np.argmax(scores))]
    value = scores.max() if best else scipy.special.logsumexp(scores)
    p = np.zeros(len(paths)) if best else np.exp(scores - value)
    if best:
        p[int(np.argmax(scores))] = 1
    counts = {"initial": np.zeros(K), "unary": np.zeros((T, K)), "steps": np.zeros((T - 1, K, K))}
    for z, weight in zip(paths, p):
        counts["initial"][z[0]] += weight
        for t, k in enumerate(z):
            counts["unary"][t, k] += weight
        for t in range(length - 1):
            counts["steps"][t, z[t], z[t + 1]] += weight
    varying = np.ndim(eta["transition"]) == 3
    counts["transition"] = counts["steps"] if varying else counts["steps"].sum(0)
    entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
    return value, counts, entropy, np.array([*top, *[-1] * (T - length)])


@eqx.filter_jit
def everything(family, eta):
    """(log-normalizer, means, entropy, mode, statistics of the mode)."""
    q = family(eta)
    return (
        family.log_normalizer(eta),
        q.mean(),
        q.entropy(),
        q.mode(),
        family.mode_statistics(eta),
    )


@eqx.filter_jit
def samples(family, eta, keys):
    return jax.vmap(family.sample, (None, 0))(eta, keys)


@eqx.filter_jit
def value_and_slope(family, eta):
    numbers, length = eqx.partition(eta, eqx.is_inexact_array)
    return jax.value_and_grad(lambda numbers: family.log_normalizer(eqx.combine(numbers, length)))(
        numbers
    )


def masks(family):
    starts, allowed = family.possible()
    return (None if starts.all() else starts), (None if allowed.all() else allowed)


def variants():
    for name in VARIANTS:
        for varying in (False, True):
            quick = name in QUICK and not varying
            marks = () if quick else (pytest.mark.slow,)
            label = f"{name}-{'varying' if varying else 'same'}"
            yield pytest.param(name, varying, id=label, marks=marks)


@pytest.mark.parametrize(("name", "varying"), list(variants()))
def test_all_paths(name, varying):
    """Value, marginals, counts, entropy and mode, for the whole length, a part of it and one step."""
    family = MarkovChain(K, **VARIANTS[name])
    starts, allowed = masks(family)
    for seed, length in enumerate((5, 3, 1, 2)):
        eta = natural(seed, varying, length)
        value, mean, entropy, mode, at_mode = everything(family, eta)
        theirs = enumerate_paths(eta, starts, allowed)
        np.testing.assert_allclose(value, theirs[0], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(entropy, theirs[2], rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(mode, theirs[3])
        highest = enumerate_paths(eta, starts, allowed, best=True)[1]
        for part in ("initial", "transition", "unary"):
            np.testing.assert_allclose(mean[part], theirs[1][part], atol=1e-12)
            np.testing.assert_array_equal(at_mode[part], highest[part])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, T), st.sampled_from([0.1, 3.0, 30.0]))
def test_any_numbers(seed, length, spread):
    """The same on numbers of any size, masks included."""
    family = MarkovChain(K, **MASKED)
    eta = natural(seed, True, length, spread)
    value, mean, entropy, mode, _ = everything(family, eta)
    theirs = enumerate_paths(eta, STARTS, ALLOWED)
    np.testing.assert_allclose(value, theirs[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mean["unary"], theirs[1]["unary"], atol=1e-10)
    np.testing.assert_allclose(entropy, theirs[2], atol=1e-9)
    np.testing.assert_array_equal(mode, theirs[3])


@pytest.mark.parametrize(
    "name",
    ["masked", *(pytest.param(n, marks=pytest.mark.slow) for n in ["masked-pairwise", "log"])],
)
def test_samples_are_in_proportion(name):
    """Pairs of neighbors among 4000 draws within five standard deviations of their probability."""
    family = MarkovChain(K, **VARIANTS[name])
    eta = natural(0, True, 4)
    steps = enumerate_paths(eta, *masks(family))[1]["steps"]
    z = np.asarray(samples(family, eta, jax.random.split(jax.random.key(0), 4000)))
    assert (z[:, 4] == -1).all()
    assert (z[:, :4] >= 0).all()
    for t in range(3):
        found = np.zeros((K, K))
        np.add.at(found, (z[:, t], z[:, t + 1]), 1 / len(z))
        error = np.sqrt(steps[t] * (1 - steps[t]) / len(z))
        assert (np.abs(found - steps[t]) <= 5 * error + 1e-15).all()


@pytest.mark.slow
def test_scores_of_paths():
    """log q(z) adds up to one over all paths, and an impossible path has none."""
    family, eta = MarkovChain(K, **MASKED), natural(1, False, 3)
    paths = [[*z, -1, -1] for z in itertools.product(range(K), repeat=3)]
    log_probs = jax.jit(jax.vmap(family(eta).log_prob))(jnp.array(paths))
    np.testing.assert_allclose(scipy.special.logsumexp(log_probs), 0, atol=1e-12)
    assert log_probs[paths.index([2, 2, 0, -1, -1])] == -np.inf
    assert log_probs[paths.index([0, 2, 2, -1, -1])] == -np.inf


@pytest.mark.slow
def test_scores_stay_in_float32():
    narrow = lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == float else leaf
    eta = jax.tree.map(narrow, natural(1))
    score = MarkovChain(K).score(eta, jnp.array([0, 1, 2, 1, 0]))
    assert score.dtype == jnp.float32
    wide = jax.tree.map(lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, eta)
    expected = MarkovChain(K).score(wide, jnp.array([0, 1, 2, 1, 0]))
    np.testing.assert_allclose(score, expected, rtol=1e-6)


# --- long and awkward chains -----------------------------------------------------------------------


def long_chain(length, dtype=float, spread=2.0, num_states=4):
    rng = np.random.default_rng(length)
    numbers = {
        "initial": rng.normal(size=num_states),
        "transition": spread * rng.normal(size=(num_states, num_states)),
        "unary": spread * rng.normal(size=(length, num_states)),
    }
    numbers = {name: jnp.asarray(leaf, dtype) for name, leaf in numbers.items()}
    return {**numbers, "length": jnp.array(length)}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["log", "scaled"])
def test_orders_agree(form):
    """Sequential, as a tree and in segments, on a length that is no power of two."""
    eta = long_chain(77)
    ways = [dict(order="sequential"), dict(order="pairwise"), dict(segment=9)]
    first, *others = (value_and_slope(MarkovChain(4, form=form, **way), eta) for way in ways)
    for other in others:
        for left, right in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


def two_tracks(dtype):
    """Two tracks of two states, with no way from one to the other, T = 150. One step puts the second
    track 120 nats behind, and later only the second one explains what is seen."""
    rng = np.random.default_rng(0)
    block = np.kron(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    unary = rng.normal(size=(150, 4))
    unary[30, 2:] -= 120
    unary[90:, :2] -= 10
    numbers = {
        "initial": np.zeros(4),
        "transition": rng.normal(size=(4, 4)),
        "unary": unary,
    }
    eta = {name: jnp.asarray(leaf, dtype) for name, leaf in numbers.items()}
    return MarkovChain(4, allowed=block), {**eta, "length": jnp.array(150)}


def test_a_track_that_was_left_behind_comes_back():
    """float32 holds no weight e^-120; its logarithm it does. The reference is float64, K² T by hand."""
    family, eta = two_tracks(jnp.float32)
    value, slope = value_and_slope(family, eta)
    table = np.where(family.possible()[1], np.asarray(two_tracks(float)[1]["transition"]), -np.inf)
    unary = np.asarray(two_tracks(float)[1]["unary"])

    def forward(unary):
        alpha, alphas = unary[0], [unary[0]]
        for row in unary[1:]:
            alpha = scipy.special.logsumexp(alpha[:, None] + table, 0) + row
            alphas.append(alpha)
        return np.array(alphas)

    def backward(unary):
        beta, betas = np.zeros(4), [np.zeros(4)]
        for row in unary[:0:-1]:
            beta = scipy.special.logsumexp(table + row + beta, 1)
            betas.append(beta)
        return np.array(betas[::-1])

    alphas = forward(unary)
    expected = scipy.special.logsumexp(alphas[-1])
    marginals = np.exp(alphas + backward(unary) - expected)
    assert marginals[:, 2:].sum(1).min() > 0.999
    # Each step rounds the two tracks' logarithms, of which only the difference is large, by half a unit.
    sizes = np.abs(alphas - alphas.max(1, keepdims=True)).max(1)
    rounding = np.finfo(np.float32).eps / 2 * np.sum(1 + sizes)
    np.testing.assert_allclose(value, expected, rtol=0, atol=rounding)
    for leaf in jax.tree.leaves(slope):
        assert bool(jnp.all(jnp.isfinite(leaf)))
    np.testing.assert_allclose(slope["unary"], marginals, atol=1e-3)
    np.testing.assert_array_equal(slope["transition"][:2, 2:], 0)


@jax.jit
def checked(eta):
    return forward_backward(*(eta[name] for name in ("initial", "transition", "unary", "length")))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([-250.0, -120.0, -60.0, 60.0, 100.0, 140.0, 300.0]), min_size=4, max_size=4
    ),
    st.sampled_from([-np.inf, -100.0, -40.0, -3.0]),
    st.sampled_from([8, 6, 2]),
)
def test_what_is_certified_is_right(gains, crossing, length):
    """Two tracks that lead in turns, by more than float32 holds: whatever forward and backward lose between them,
    what they call right agrees with logarithms in float64, and what nobody could lose is called right."""
    unary = np.zeros((8, 2))
    unary[::2, 1] = gains
    table = np.array([[0.0, crossing], [crossing, 0.0]])
    numbers = {"initial": np.zeros(2), "transition": table, "unary": unary}
    eta = {name: jnp.asarray(leaf, float) for name, leaf in numbers.items()}
    eta |= {"length": jnp.array(length)}
    narrow = {
        name: leaf.astype(jnp.float32) if leaf.dtype == float else leaf
        for name, leaf in eta.items()
    }
    certain, value, marginals = checked(narrow)
    expected, slope = value_and_slope(MarkovChain(2, form="log"), eta)
    if crossing == -3.0 and np.abs(gains).max() < 81:
        assert bool(certain)
    if bool(certain):
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-4)
        for name, leaf in marginals.items():
            np.testing.assert_allclose(leaf, slope[name], atol=1e-4, err_msg=name)
    ours, found = value_and_slope(MarkovChain(2), narrow)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-4)
    for name in marginals:
        np.testing.assert_allclose(found[name], slope[name], atol=1e-3, err_msg=name)


@pytest.mark.slow
def test_impossible_transitions_are_never_scaled():
    """Neither by name nor by a model's shortcut, nor does the shortcut take probabilities near zero."""
    block = two_tracks(float)[0].possible()[1]
    with pytest.raises(ValueError, match="form='log'"):
        MarkovChain(4, allowed=block, form="scaled")
    component = elbax.components.Poisson()
    x = jnp.asarray(np.random.default_rng(0).poisson(3.0, (1, 20, 1)))
    masked = elbax.HiddenMarkovModel(component, 4, allowed=block, order="pairwise")
    assert masked.shortcut(masked.init(jax.random.key(0), x), x) is None
    model = elbax.HiddenMarkovModel(component, 4, order="pairwise")
    params = model.init(jax.random.key(0), x)
    found = model.shortcut(params, x)
    assert bool(found.allowed)
    assert found.form.chain.form == "scaled"
    table = np.where(block, 0.5, 0.0)
    zeros = params | {"transition": jnp.log(jnp.maximum(table, 1e-300))}
    assert not bool(model.shortcut(zeros, x).allowed)


def scaled_chain(spread, drop, dtype):
    """Where the form "scaled" is worst: the better path underflows once, beside one that lives on by
    two of the least likely transitions."""
    table = np.array([[0.0, -spread], [-spread, 0.0]])
    numbers = {
        "initial": np.array([0.0, -spread]),
        "transition": table,
        "unary": np.array([[0, 0], [-drop, 0], [0, -200], [0, 0]]),
    }
    eta = {name: jnp.asarray(leaf, dtype) for name, leaf in numbers.items()}
    return {**eta, "length": jnp.array(4)}


@functools.cache
def narrow_limit():
    """The widest spread that float32 takes, found by asking."""
    spreads = np.arange(1, 200)
    inside = [
        bool(MarkovChain.in_scaled_range(scaled_chain(s, 0.0, jnp.float32)["transition"]))
        for s in spreads
    ]
    assert inside[0]
    assert not inside[-1]
    assert inside == sorted(inside, reverse=True)
    return float(spreads[np.flatnonzero(inside)[-1]])


@pytest.mark.parametrize("order", ["sequential", pytest.param("pairwise", marks=pytest.mark.slow)])
@pytest.mark.parametrize("drop", [85.0, 104.0, 150.0])
def test_the_scaled_form_is_right_where_it_is_taken(order, drop):
    """At the border of `in_scaled_range`, whatever is lost on the way: value and marginals of float64."""
    spread = narrow_limit()
    scaled = MarkovChain(2, form="scaled", order=order)
    value, slope = value_and_slope(scaled, scaled_chain(spread, drop, jnp.float32))
    expected, true = value_and_slope(MarkovChain(2), scaled_chain(spread, drop, float))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name in ("initial", "transition", "unary"):
        np.testing.assert_allclose(slope[name], true[name], atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([5.0, 50.0, 200.0]))
def test_the_scaled_form_takes_any_emissions(seed, size):
    """The widest transitions of the range, random ones, and emissions far apart."""
    rng = np.random.default_rng(seed)
    limit = narrow_limit()
    numbers = {
        "initial": -limit * rng.random(4),
        "transition": -limit * rng.integers(0, 2, (4, 4)),
        "unary": -size * rng.random((12, 4)),
    }
    narrow = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in numbers.items()}
    narrow = {**narrow, "length": jnp.array(12)}
    wide = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, narrow)
    value, slope = value_and_slope(MarkovChain(4, form="scaled", order="sequential"), narrow)
    expected, true = value_and_slope(MarkovChain(4), wide)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(slope["unary"], true["unary"], atol=2e-3)


@pytest.mark.parametrize("form", ["log", "scaled"])
def test_a_hundred_thousand_steps(form):
    """float32 stays finite, and its marginals are shares at every step."""
    family = MarkovChain(4, form=form, order="sequential")
    eta = long_chain(100_000, jnp.float32, spread=1.0)
    value, slope = value_and_slope(family, eta)
    wide = jax.tree.map(lambda x: x.astype(float) if x.dtype == jnp.float32 else x, eta)
    np.testing.assert_allclose(value, value_and_slope(MarkovChain(4), wide)[0], rtol=2e-5)
    np.testing.assert_allclose(jnp.sum(slope["unary"], 1), 1, atol=1e-2)


def temporary_bytes(family, length):
    make = lambda: long_chain(length, jnp.float32, num_states=family.num_states)
    eta = eqx.filter_eval_shape(make)
    numbers = {name: leaf for name, leaf in eta.items() if name != "length"}

    def total(numbers):
        return family.log_normalizer({**numbers, "length": jnp.array(length)})

    compiled = jax.jit(jax.grad(total)).lower(numbers).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_with_the_length_and_segments_save_it():
    """A derivative keeps a few (K, K) tables a step; in segments of √T, those of one segment."""
    family = MarkovChain(4, form="scaled", order="sequential")
    short, long = temporary_bytes(family, 10_000), temporary_bytes(family, 100_000)
    assert 5 * short < long < 15 * short
    assert long < 100_000 * 4 * 16 * 20
    segmented = MarkovChain(4, form="scaled", order="sequential", segment=316)
    assert temporary_bytes(segmented, 100_000) < long / 2


@pytest.mark.slow
@pytest.mark.parametrize("form", ["auto", "log"])
def test_memory_for_many_states(form):
    """Much less than a table of moves for every step."""
    family = MarkovChain(32, form=form, order="sequential")
    assert temporary_bytes(family, 2000) < 2000 * 32 * 32 * 4 / 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_states=0), "at least 1, got 0"),
        (dict(num_states=2, form="other"), "'log' or 'scaled'"),
        (dict(num_states=2, order="other"), "'sequential' or 'pairwise'"),
        (dict(num_states=2, segment=0), "segment must be at least 1"),
        (dict(num_states=2, allowed=np.ones((3, 3), bool)), r"shape \(2, 2\)"),
        (dict(num_states=2, starts=np.zeros(2, bool)), "at least one True entry"),
        (
            dict(num_states=2, allowed=np.array([[True, True], [False, False]])),
            "at least one possible transition from each state",
        ),
    ],
)
def test_what_is_no_chain_is_refused(arguments, message, as_users_run):
    with pytest.raises(ValueError, match=message):
        MarkovChain(**arguments)


def test_from_network():
    family = MarkovChain(K)
    logits = jax.random.normal(jax.random.key(0), (T, K))
    q = family(family.from_network(logits))
    np.testing.assert_allclose(q.mean()["unary"], scipy.special.softmax(logits, 1), rtol=1e-10)
    with pytest.raises(ValueError, match=r"logits of shape \(T, 3\)"):
        family.from_network(jnp.zeros((T, 2)))
