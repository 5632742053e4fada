"""Labels without their times: the lattice against all paths, the loss against optax's."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings, strategies as st

import elbax
from elbax import ConnectionistTemporalClassification
from elbax.families import CTCLattice


T, S = 4, 7
LATTICE = CTCLattice()


def natural(seed, length, labels, skips):
    rng = np.random.default_rng(seed)
    skip = np.zeros(S, bool)
    skip[3:-1:2] = skips
    return {
        "unary": jnp.asarray(2 * rng.normal(size=(T, S))),
        "skip": jnp.asarray(skip),
        "length": jnp.array(length),
        "positions": jnp.array(2 * labels + 1),
    }


def enumerate_paths(eta):
    """(paths that go from a first to a last position by 0, 1 or an allowed 2; their log-weights)."""
    length, end = int(eta["length"]), int(eta["positions"])
    unary, skip = np.asarray(eta["unary"]), np.asarray(eta["skip"])
    paths = [
        z
        for z in itertools.product(range(end), repeat=length)
        if z[0] < 2
        and z[-1] >= end - 2
        and all(b - a in (0, 1) or (b - a == 2 and skip[b]) for a, b in itertools.pairwise(z))
    ]
    return paths, np.array([sum(unary[t, s] for t, s in enumerate(z)) for z in paths])


@eqx.filter_jit
def everything(eta, keys):
    return (
        LATTICE.log_normalizer(eta),
        LATTICE.mean(eta)["unary"],
        LATTICE.entropy(eta),
        LATTICE.mode(eta),
        jax.vmap(LATTICE.sample, (None, 0))(eta, keys),
    )


KEYS = jax.random.split(jax.random.key(0), 1000)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, T),
    st.integers(1, 3),
    st.tuples(st.booleans(), st.booleans()),
)
def test_all_paths(seed, length, labels, skips):
    """Value, marginals, entropy, mode, draws; where there is no path, −∞ and no slope."""
    eta = natural(seed, length, labels, skips)
    value, mean, entropy, mode, z = everything(eta, KEYS)
    paths, weights = enumerate_paths(eta)
    if not paths:
        assert value == -np.inf
        np.testing.assert_array_equal(mean, 0)
        return
    expected = scipy.special.logsumexp(weights)
    p = np.exp(weights - expected)
    marginals = np.zeros((T, S))
    for path, share in zip(paths, p):
        marginals[np.arange(length), path] += share
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mean, marginals, atol=1e-12)
    np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), atol=1e-10)
    np.testing.assert_array_equal(mode[:length], paths[int(np.argmax(weights))])
    np.testing.assert_array_equal(mode[length:], -1)
    places = {path: i for i, path in enumerate(paths)}
    drawn = np.bincount([places[tuple(row)] for row in np.asarray(z[:, :length]).tolist()])
    found = np.pad(drawn, (0, len(p) - len(drawn))) / len(z)
    assert (np.abs(found - p) <= 6 * np.sqrt(p * (1 - p) / len(z)) + 6 / len(z)).all()


def test_scores():
    """log q of all sequences of positions, possible or not, adds up to one."""
    eta = natural(3, T, 2, (True, False))
    z = jnp.array(list(itertools.product(range(5), repeat=T)))
    log_probs = np.asarray(jax.jit(jax.vmap(lambda z: LATTICE(eta).log_prob(z)))(z))
    paths, _ = enumerate_paths(eta)
    assert np.isfinite(log_probs).sum() == len(paths)
    np.testing.assert_allclose(scipy.special.logsumexp(log_probs), 0, atol=1e-12)


def test_second_derivatives_are_covariances():
    eta = natural(3, T, 2, (True, False))
    paths, weights = enumerate_paths(eta)
    p = scipy.special.softmax(weights)
    one_hot = np.array([np.eye(S)[list(path)].ravel() for path in paths])
    mean = p @ one_hot
    covariance = (one_hot.T * p) @ one_hot - np.outer(mean, mean)
    hessian = jax.jit(jax.hessian(lambda u: LATTICE.log_normalizer({**eta, "unary": u})))(
        eta["unary"]
    )
    np.testing.assert_allclose(hessian.reshape(covariance.shape), covariance, atol=1e-12)


# --- the model -------------------------------------------------------------------------------------


MODEL = ConnectionistTemporalClassification()
IDENTITY = elbax.Network(lambda weights, x: x, ())
B, FRAMES, VOCABULARY, LABELS = 6, 12, 4, 4


@functools.cache
def utterances():
    """Logits, labels with repeats, frames and labels of different numbers, all feasible."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, VOCABULARY, (B, LABELS))
    labels[0] = [1, 1, 2, 2]
    labels[1, :2] = 3
    number, frames = np.array([4, 2, 1, 3, 4, 2]), np.array([12, 7, 1, 9, 10, 12])
    return 3 * rng.normal(size=(B, FRAMES, VOCABULARY)), labels, number, frames


def data(logits, labels, number, frames):
    inputs = elbax.Sequence(jnp.asarray(logits), jnp.asarray(frames))
    return inputs, elbax.Sequence(jnp.asarray(labels), jnp.asarray(number))


@jax.jit
@jax.value_and_grad
def loss(logits, labels, number, frames):
    x = data(logits, labels, number, frames)
    return -len(labels) * elbax.elbo(MODEL, IDENTITY, elbax.Exact(MODEL, IDENTITY), x)


def test_value_and_gradient_are_optaxs():
    logits, labels, number, frames = utterances()

    def theirs(logits):
        outside = np.arange(FRAMES) >= frames[:, None]
        unlabeled = np.arange(LABELS) >= number[:, None]
        return optax.ctc_loss(logits, outside.astype(float), labels, unlabeled.astype(float)).sum()

    with jax.numpy_dtype_promotion("standard"):
        expected, slope = jax.jit(jax.value_and_grad(theirs))(logits)
    value, found = loss(*map(jnp.asarray, (logits, labels, number, frames)))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(found, slope, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(found, -1), 0, atol=1e-12)
    outside = np.arange(FRAMES) >= frames[:, None]
    np.testing.assert_array_equal(np.asarray(found)[outside], 0)


def collapse(path):
    return [k for k, _ in itertools.groupby(path) if k != 0]


def test_the_probability_of_a_transcript_by_enumeration():
    """Σ over all label paths that collapse to it; over all transcripts it is one."""
    logits = np.random.default_rng(1).normal(size=(4, 3))
    log_probs = scipy.special.log_softmax(logits, -1)
    found = {}
    for path in itertools.product(range(3), repeat=4):
        key = tuple(collapse(path))
        weight = sum(log_probs[t, k] for t, k in enumerate(path))
        found[key] = np.logaddexp(found.get(key, -np.inf), weight)
    keys = [key for key in found if key]
    labels = np.array([[*key, *[1] * (4 - len(key))] for key in keys])
    number = jnp.array([len(key) for key in keys])
    x = data(np.broadcast_to(logits, (len(keys), 4, 3)), labels, number, np.full(len(keys), 4))

    @jax.jit
    @jax.vmap
    def evidence(x):
        return MODEL.conditional(IDENTITY, x).family.log_normalizer(
            MODEL.conditional(IDENTITY, x).natural
        )

    np.testing.assert_allclose(evidence(x), [found[key] for key in keys], rtol=1e-12)
    np.testing.assert_allclose(scipy.special.logsumexp(list(found.values())), 0, atol=1e-12)


def test_what_has_no_alignment():
    """−∞ with no slope of its own, beside data whose slope is as by themselves; `fit` names the row."""
    logits, labels, number, frames = utterances()
    short = frames.copy()
    short[3], short[0] = 2, 5  # 3 labels in 2 frames; 4 with two repeats, which take 6, in 5.
    x = data(logits, labels, number, short)
    np.testing.assert_array_equal(MODEL.feasible(x), [False, True, True, False, True, True])
    value, slope = loss(*map(jnp.asarray, (logits, labels, number, short)))
    assert value == np.inf
    np.testing.assert_array_equal(slope[jnp.array([0, 3])], 0)
    _, alone = loss(*map(jnp.asarray, (logits, labels, number, frames)))
    others = jnp.array([1, 2, 4, 5])
    np.testing.assert_allclose(slope[others], alone[others], atol=1e-14)
    update = elbax.Chain(elbax.ExactEStep(MODEL), elbax.GradientMStep(MODEL, optax.sgd(0.1)))
    state = update.init(IDENTITY, elbax.Exact(MODEL, IDENTITY), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"sequence 0 \(and 1 others\) has fewer steps"):
        elbax.fit(update, state, x)
    ignored = elbax.Batch(x, weight=jnp.array([0, 1, 1, 0, 1, 1.0]))
    MODEL.check(ignored)
    # Six frames are enough for four labels of which two repeat, four for three with one.
    short[3], short[0] = 4, 6
    assert bool(jnp.all(MODEL.feasible(data(logits, labels, number, short))))


def test_never_above_zero():
    """Peaked logits in float32; and a bound that rounding put above 0 is taken down to it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 5, (16, 30))
    path = np.repeat(labels, 5, 1)
    path[:, ::5] = 0
    logits = (12 * np.eye(6)[path] + rng.normal(size=(16, 150, 6))).astype(np.float32)
    x = data(logits, labels, np.full(16, 30), np.full(16, 150))

    @jax.jit
    @jax.vmap
    def bounds(x):
        q = MODEL.conditional(IDENTITY, x)
        return MODEL.elbo(IDENTITY, x, q, jax.random.key(0))

    bound = bounds(x)
    assert bound.dtype == jnp.float32
    assert bool(jnp.all(bound <= 0))

    class Rounded:
        """A posterior whose bound came out above 0."""

        def bound(self, potentials):
            return jnp.sum(potentials["unary"]) * 0 + 1e-3

    one = jax.tree.map(lambda leaf: leaf[0], x)
    assert MODEL.elbo(IDENTITY, one, Rounded(), jax.random.key(0)) == 0


def test_decoding():
    """Repeats and blanks taken out of the best label of each frame, as itertools does; padding left out."""
    rng = np.random.default_rng(3)
    decode = jax.jit(lambda x, n: MODEL.decode(IDENTITY, elbax.Sequence(x, n)))
    for frames in (10, 6, 1):
        logits = rng.normal(size=(10, 3))
        labels, number = decode(jnp.asarray(logits), jnp.array(frames))
        expected = collapse(logits.argmax(1)[:frames].tolist())
        assert labels[: int(number)].tolist() == expected
        assert (labels[int(number) :] == -1).all()


@pytest.mark.slow
def test_training_by_gradient_finds_the_labels():
    """A linear network on one-hot frames learns which frame says what, to a bound near 0."""
    x = (
        jnp.eye(3)[jnp.array([[1, 1, 0, 2, 2, 0], [2, 0, 1, 1, 0, 0]])],
        jnp.array([[1, 2], [2, 1]]),
    )
    layer = elbax.Network(lambda weights, x: x @ weights, 0.1 * jnp.ones((3, 3)))
    update = elbax.Chain(elbax.ExactEStep(MODEL), elbax.GradientMStep(MODEL, optax.adam(0.3)))
    state = update.init(layer, elbax.Exact(MODEL, layer), key=jax.random.key(0))
    result = elbax.fit(update, state, x, max_steps=80)
    assert float(result.elbo) > -0.05
    for inputs, labels in zip(*x):
        found, number = MODEL.decode(result.state.params, inputs)
        assert found[: int(number)].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[1, 2], [0, 1]]), "sequence 1 has the blank, 0"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "labels must be integers"),
        (np.array([1, 2]), "shape"),
    ],
)
def test_what_are_no_labels_is_refused(labels, message, as_users_run):
    with pytest.raises(ValueError, match=message):
        MODEL.check((jnp.zeros((2, 5, 3)), jnp.asarray(labels)))


def test_arguments_are_checked(as_users_run):
    with pytest.raises(ValueError, match="stride must be at least 1"):
        ConnectionistTemporalClassification(stride=0)
    bad = elbax.Network(lambda weights, x: x[0], ())
    with pytest.raises(ValueError, match=r"of one datum to logits \(steps, num_labels\)"):
        elbax.evidence(MODEL, bad, (jnp.zeros((1, 5, 3)), jnp.array([[1]])))


def test_stride():
    """A network that halves the number of frames: rounded up, as its output is."""
    model = ConnectionistTemporalClassification(stride=2)
    halved = elbax.Network(lambda weights, x: x[::2], ())
    logits, labels, number, frames = (a[1:2] for a in utterances())
    ours = elbax.evidence(model, halved, data(logits, labels, number, frames))
    theirs = elbax.evidence(MODEL, IDENTITY, data(logits[:, ::2], labels, number, -(-frames // 2)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_labels_as_sequences_makes_them():
    """A list of label sequences laid out by `elbax.sequences`, whose rows have one column."""
    logits, labels, number, frames = utterances()
    of_each = [np.asarray(row)[: int(n)] for row, n in zip(labels, number)]
    laid_out = elbax.sequences(of_each)
    assert laid_out.values.ndim == 3
    given = data(logits, labels, number, frames)
    MODEL.check((given[0], laid_out))
    ours = elbax.evidence(MODEL, IDENTITY, (given[0], laid_out))
    np.testing.assert_array_equal(ours, elbax.evidence(MODEL, IDENTITY, given))
