"""Linear-Gaussian state spaces against the dense Gaussian of a whole sequence, and EM's textbook."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
from cases import sweeps
from statsmodels.tsa.statespace.mlemodel import MLEModel

import elbax
from elbax import LinearGaussianStateSpace
from elbax._free import spread
from elbax._pass import expected_statistics


D, P, T = 2, 3, 4
NUM = 5


@functools.cache
def described(emission_noise="full", transition_noise="full", offsets=True):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(P, P))
    full = 0.2 * root @ root.T + 0.3 * np.eye(P)
    emission = {"full": full, "diagonal": np.diag(np.diag(full)), "isotropic": 0.5 * np.eye(P)}
    transition = np.array([[0.3, 0.1], [0.1, 0.2]])
    transitions = {"full": transition, "diagonal": np.diag(np.diag(transition))}
    found = dict(
        initial_mean=np.array([0.5, -1.0]),
        initial_covariance=np.array([[1.0, 0.3], [0.3, 0.7]]),
        transition=np.array([[0.9, 0.2], [-0.3, 0.8]]),
        transition_covariance=transitions[transition_noise],
        emission=rng.normal(size=(P, D)),
        emission_covariance=emission[emission_noise],
    )
    if offsets:
        found |= dict(
            transition_offset=np.array([0.2, -0.1]), emission_offset=np.array([1.0, 0, -1])
        )
    return found


@functools.cache
def table(holes=False):
    x = 1.5 * np.random.default_rng(1).normal(size=(NUM, T, P))
    if holes:
        x = np.where(np.random.default_rng(2).random(x.shape) < 0.3, np.nan, x)
        x[1, 2] = np.nan
    return x


def make(emission_noise="full", transition_noise="full", offsets=True, **arguments):
    model = LinearGaussianStateSpace(
        D,
        emission_noise=emission_noise,
        transition_noise=transition_noise,
        offsets=offsets,
        **{"floor": 0.0, **arguments},
    )
    return model, model.from_description(**described(emission_noise, transition_noise, offsets))


def joint(said, length):
    """(mean and covariance of all states, the emission's block matrix, offset and noise)."""
    said = {name: np.asarray(leaf) for name, leaf in said.items()}
    A, Q = said["transition"], said["transition_covariance"]
    b = said.get("transition_offset", np.zeros(D))
    means, blocks = [said["initial_mean"]], [[said["initial_covariance"]]]
    for t in range(1, length):
        means.append(A @ means[-1] + b)
        row = [A @ block for block in blocks[-1]]
        # Cov(z_t, z_s) = A Cov(z_{t-1}, z_s); on the diagonal the noise besides.
        last = blocks[t - 1][t - 1] if t > 1 else blocks[0][0]
        row.append(A @ last @ A.T + Q)
        blocks.append(row)
    covariance = np.zeros((length * D, length * D))
    for t in range(length):
        for s in range(t + 1):
            covariance[t * D : t * D + D, s * D : s * D + D] = blocks[t][s]
            covariance[s * D : s * D + D, t * D : t * D + D] = blocks[t][s].T
    outputs = len(said["emission"])
    emission = np.kron(np.eye(length), said["emission"])
    offset = np.tile(said.get("emission_offset", np.zeros(outputs)), length)
    noise = np.kron(np.eye(length), said["emission_covariance"])
    return np.concatenate(means), covariance, emission, offset, noise


def dense(said, x):
    """(log p(x), E[z | x], Cov[z | x]) of one sequence, NaN missing."""
    mean, covariance, emission, offset, noise = joint(said, len(x))
    seen = ~np.isnan(x.ravel())
    C, noise = emission[seen], noise[np.ix_(seen, seen)]
    residual = x.ravel()[seen] - C @ mean - offset[seen]
    marginal = C @ covariance @ C.T + noise
    gain = covariance @ C.T @ np.linalg.inv(marginal)
    value = scipy.stats.multivariate_normal(cov=marginal).logpdf(residual) if seen.any() else 0.0
    return value, mean + gain @ residual, covariance - gain @ C @ covariance


def evidence(said, data):
    return np.mean([dense(said, x)[0] for x in data])


KINDS = [("full", "full"), ("diagonal", "diagonal"), ("isotropic", "full")]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        (KINDS[0], "sequential"),
        *(pytest.param(kind, "sequential", marks=SLOW) for kind in KINDS[1:]),
        pytest.param(KINDS[0], "pairwise", marks=SLOW),
    ],
)
def test_evidence_and_smoother(kind, order):
    """Those of the dense Gaussian; ragged sequences too."""
    model, params = make(*kind, order=order)
    said, x = described(*kind), table()
    np.testing.assert_allclose(
        elbax.evidence(model, params, jnp.asarray(x)), evidence(said, x), rtol=1e-11
    )
    lengths = [4, 1, 3, 2, 4]
    data = [row[:n] for row, n in zip(x, lengths)]
    ours = elbax.evidence(model, params, elbax.sequences(data))
    np.testing.assert_allclose(ours, evidence(said, data), rtol=1e-11)
    means, covariances = jax.jit(model.smooth)(params, jnp.asarray(x[0]))
    _, mean, covariance = dense(said, x[0])
    np.testing.assert_allclose(means.ravel(), mean, atol=1e-10)
    for t in range(T):
        block = covariance[t * D : t * D + D, t * D : t * D + D]
        np.testing.assert_allclose(covariances[t], block, atol=1e-10)


@pytest.mark.parametrize("noise", ["diagonal", pytest.param("full", marks=SLOW)])
def test_missing_values_are_integrated_over(noise):
    """The density of what is seen, one step being empty; and the same by a gradient-ready ragged batch."""
    model, params = make(noise)
    said, x = described(noise), table(holes=True)
    ours = elbax.evidence(model, params, elbax.sequences(list(x)))
    np.testing.assert_allclose(ours, evidence(said, x), rtol=1e-11)


def statsmodels_smoother(said, x):
    """(log p(x), smoothed means, smoothed covariances) as statsmodels has them."""
    peer = MLEModel(x, k_states=len(said["initial_mean"]))
    peer.ssm["design"] = said["emission"]
    peer.ssm["obs_cov"] = said["emission_covariance"]
    peer.ssm["transition"] = said["transition"]
    peer.ssm["selection"] = np.eye(peer.k_states)
    peer.ssm["state_cov"] = said["transition_covariance"]
    peer.ssm.initialize_known(said["initial_mean"], said["initial_covariance"])
    found = peer.ssm.smooth()
    moved = np.moveaxis(found.smoothed_state_cov, -1, 0)
    return found.llf, found.smoothed_state.T, moved


@pytest.mark.parametrize("name", ["gaps", "nile"])
def test_statsmodels_agrees(name):
    """A hundred steps, with entries and whole rows missing; the Nile as a level under noise."""
    if name == "nile":
        x = np.asarray(elbax.datasets.nile(), float).reshape(-1, 1)
        model, params = local_level(1469.1, 15098.5)
    else:
        model, params = make(offsets=False)
        x = np.random.default_rng(3).normal(size=(100, P)).cumsum(0)
        x = np.where(np.random.default_rng(4).random(x.shape) < 0.3, np.nan, x)
        x[40:60] = np.nan
    said = jax.tree.map(np.asarray, model.describe(params))
    value, means, covariances = statsmodels_smoother(said, x)
    batch = elbax.sequences([x])
    np.testing.assert_allclose(elbax.evidence(model, params, batch), value, rtol=1e-10)
    ours = jax.jit(model.smooth)(params, jax.tree.map(lambda leaf: leaf[0], batch))
    np.testing.assert_allclose(ours[0], means, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours[1], covariances, rtol=1e-7, atol=1e-8)


def textbook(said, data, structure):
    """Shumway and Stoffer's M-step (1982), with offsets, by the dense posterior's moments."""
    firsts, before, states = [], 0, 0
    cross, squares, outputs, seen = 0, 0, 0, 0
    ones = lambda z: np.append(z, 1.0)

    def second(m, C):
        """E[(z, 1)(z, 1)ᵀ]."""
        padded = np.zeros((D + 1, D + 1))
        padded[:D, :D] = C
        return padded + np.outer(ones(m), ones(m))

    for x in data:
        _, mean, covariance = dense(said, x)
        m = mean.reshape(len(x), D)
        C = lambda s, t, c=covariance: c[s * D : s * D + D, t * D : t * D + D]
        firsts.append((m[0], C(0, 0)))
        for t in range(len(x)):
            states = states + second(m[t], C(t, t))
            outputs = outputs + np.outer(x[t], ones(m[t]))
            seen = seen + np.outer(x[t], x[t])
        for t in range(len(x) - 1):
            before = before + second(m[t], C(t, t))
            both = np.zeros((D, D + 1))
            both[:, :D] = C(t + 1, t)
            cross = cross + both + np.outer(m[t + 1], ones(m[t]))
            squares = squares + C(t + 1, t + 1) + np.outer(m[t + 1], m[t + 1])
    num_steps, num_moves = sum(map(len, data)), sum(len(x) - 1 for x in data)
    start = np.mean([m for m, _ in firsts], 0)
    spread = np.mean([C + np.outer(m - start, m - start) for m, C in firsts], 0)
    move = cross @ np.linalg.inv(before)
    emit = outputs @ np.linalg.inv(states)
    noise = (seen - emit @ outputs.T) / num_steps
    noise = {
        "full": noise,
        "diagonal": np.diag(np.diag(noise)),
        "isotropic": np.trace(noise) / P * np.eye(P),
    }[structure]
    return dict(
        initial_mean=start,
        initial_covariance=spread,
        transition=move[:, :D],
        transition_offset=move[:, D],
        transition_covariance=(squares - move @ cross.T) / num_moves,
        emission=emit[:, :D],
        emission_offset=emit[:, D],
        emission_covariance=noise,
    )


def em_of(model, params, **arguments):
    em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, **arguments))
    return em, em.init(params, key=jax.random.key(0))


@pytest.mark.parametrize(
    "noise", ["full", *(pytest.param(n, marks=SLOW) for n in ("diagonal", "isotropic"))]
)
def test_one_step_is_the_textbooks(noise):
    """Twice: from a start, and from where it led."""
    model, params = make(noise)
    em, state = em_of(model, params)
    x, said = table(), described(noise)
    for _ in range(2):
        expected = textbook(said, x, noise)
        state, info = eqx.filter_jit(em)(state, jnp.asarray(x))
        np.testing.assert_allclose(info.elbo, evidence(said, x), rtol=1e-10)
        said = {name: np.asarray(leaf) for name, leaf in model.describe(state.params).items()}
        for name, theirs in expected.items():
            np.testing.assert_allclose(said[name], theirs, atol=1e-8, err_msg=name)


@SLOW
def test_the_floor_is_the_objectives():
    """With a floor the M-step is where the expected log-joint plus prior is flat, in every param."""
    model, params = make("diagonal", floor=0.1)
    x = elbax.sequences([row[:n] for row, n in zip(table(), [4, 2, 3, 4, 1])])

    @jax.jit
    def slope(params):
        posterior = elbax.Exact(model, params)
        _, found, _ = expected_statistics(model, params, posterior, x, key=jax.random.key(0))
        best = model.maximize(found, params, spread(True, params))
        return jax.grad(lambda theta: elbax.elbo(model, theta, posterior, x))(best)

    for leaf in jax.tree.leaves(slope(params)):
        np.testing.assert_allclose(leaf, 0, atol=1e-8)


@SLOW
@pytest.mark.parametrize("order", ["sequential", "pairwise"])
def test_em_ascends_on_gaps_of_any_kind(order):
    model, params = make(order=order, floor=0.01)
    x = elbax.sequences([row[:n] for row, n in zip(table(holes=True), [4, 2, 3, 4, 1])])
    em, state = em_of(model, params)
    _, info = sweeps(em, state, x, 20)
    assert bool(jnp.all(jnp.diff(info.elbo) > -1e-12))
    assert info.elbo[-1] > info.elbo[0] + 0.1


@SLOW
def test_a_frozen_matrix_stays():
    """To the bit; the noise is then what the old matrix leaves (Shumway and Stoffer's with A given)."""
    model, params = make(offsets=False)
    free = {
        "initial": False,
        "transition": {"matrix": False, "scale": True},
        "emission": {"matrix": True, "scale": True},
    }
    em, state = em_of(model, params, free=free)
    said, x = described(offsets=False), table()
    step = eqx.filter_jit(em)
    state, first = step(state, jnp.asarray(x))
    np.testing.assert_array_equal(
        state.params["transition"]["matrix"], params["transition"]["matrix"]
    )
    for left, right in zip(
        jax.tree.leaves(state.params["initial"]), jax.tree.leaves(params["initial"])
    ):
        np.testing.assert_array_equal(left, right)
    A, total = said["transition"], np.zeros((D, D))
    for row in x:
        _, mean, covariance = dense(said, row)
        second = covariance + np.outer(mean, mean)
        for t in range(T - 1):
            pick = lambda s, u, m=second: m[s * D : s * D + D, u * D : u * D + D]
            moved = pick(t + 1, t) @ A.T
            total += pick(t + 1, t + 1) - moved - moved.T + A @ pick(t, t) @ A.T
    covariance = model.describe(state.params)["transition_covariance"]
    np.testing.assert_allclose(covariance, total / (NUM * (T - 1)), atol=1e-9)
    bounds = [first.elbo]
    for _ in range(10):
        state, info = step(state, jnp.asarray(x))
        bounds.append(info.elbo)
    assert np.all(np.diff(bounds) > -1e-12)


@SLOW
def test_a_mask_on_entries_ascends():
    """An upper triangular A, correlated noise: what is fixed stays to the bit, and no sweep falls."""
    model, params = make(offsets=False)
    mask = jnp.array([[True, True], [False, True]])
    free = {"initial": True, "transition": {"matrix": mask, "scale": True}, "emission": True}
    em, state = em_of(model, params, free=free)
    state, info = sweeps(em, state, jnp.asarray(table()), 20)
    assert bool(jnp.all(jnp.diff(info.elbo) > -1e-12))
    before, after = params["transition"]["matrix"], state.params["transition"]["matrix"]
    assert after[1, 0] == before[1, 0]
    assert bool(jnp.all((after != before)[mask]))


# --- the Nile --------------------------------------------------------------------------------------


def scalar_filter(x, level, noise, mean=0.0, variance=1e7):
    """log p of a local level, by Kalman's recursions on numbers."""
    total = 0.0
    for value in x:
        scale, gap = variance + noise, value - mean
        total += -0.5 * (np.log(2 * np.pi * scale) + gap**2 / scale)
        mean, variance = mean + variance / scale * gap, variance * noise / scale + level
    return total


def local_level(level, noise):
    model = LinearGaussianStateSpace(1, floor=0.0)
    return model, model.from_description(
        initial_mean=[0.0],
        initial_covariance=[[1e7]],
        transition=[[1.0]],
        transition_covariance=[[level]],
        emission=[[1.0]],
        emission_covariance=[[noise]],
    )


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_nile_by_numbers(dtype):
    """Durbin and Koopman's variances: the filter's value, where float32 too has six digits."""
    x = np.asarray(elbax.datasets.nile(), float).ravel()
    model, params = local_level(1469.1, 15098.5)
    narrow = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    ours = elbax.evidence(model, narrow, jnp.asarray(x, dtype)[None, :, None])
    tolerance = 1e-11 if dtype == jnp.float64 else 2e-5
    np.testing.assert_allclose(ours, scalar_filter(x, 1469.1, 15098.5), rtol=tolerance)


@pytest.mark.slow
def test_nile_by_em():
    """EM on the two variances alone ends at the maximum of the scalar filter's likelihood."""
    x = np.asarray(elbax.datasets.nile(), float).ravel()
    model, params = local_level(1000.0, 10000.0)
    free = {
        "initial": False,
        "transition": {"matrix": False, "scale": True},
        "emission": {"matrix": False, "scale": True},
    }
    em, state = em_of(model, params, free=free)
    state, info = sweeps(em, state, jnp.asarray(x)[None, :, None], 1500)
    assert bool(jnp.all(jnp.diff(info.elbo) > -1e-9))
    ours = model.describe(state.params)
    found = scipy.optimize.minimize(
        lambda logs: -scalar_filter(x, *np.exp(logs)),
        np.log([1000.0, 10000.0]),
        method="Nelder-Mead",
        options=dict(xatol=1e-8, fatol=1e-10, maxiter=1000),
    )
    np.testing.assert_allclose(info.elbo[-1], -found.fun, atol=1e-6)
    level, noise = np.exp(found.x)
    np.testing.assert_allclose(ours["transition_covariance"][0, 0], level, rtol=2e-3)
    np.testing.assert_allclose(ours["emission_covariance"][0, 0], noise, rtol=2e-3)


# --- noise that is small, zero or of fewer directions than states -----------------------------------


def test_little_noise_and_more_states_than_columns():
    """statsmodels' value, at a noise that is nothing beside what the states spread."""
    rng = np.random.default_rng(5)
    said = dict(
        initial_mean=np.zeros(4),
        initial_covariance=np.eye(4),
        transition=0.9 * np.linalg.qr(rng.normal(size=(4, 4)))[0],
        transition_covariance=np.eye(4),
        emission=rng.normal(size=(1, 4)),
    )
    x = np.random.default_rng(6).normal(size=(50, 1)).cumsum(0)
    model = LinearGaussianStateSpace(4, floor=0.0)
    for noise, dtype in ((1e-10, float), (1e-12, float), (1e-4, "float32"), (1e-6, "float32")):
        params = model.from_description(**said, emission_covariance=[[noise]])
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)  # noqa: B023
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, float), model.describe(params))
        expected, *_ = statsmodels_smoother(wide, np.asarray(x, dtype).astype(float))
        ours = elbax.evidence(model, params, jnp.asarray(x, dtype)[None])
        np.testing.assert_allclose(ours, expected, atol=1e-7 if dtype is float else 1e-4)


def autoregression(coefficients, variance):
    """In companion form: the state is the series' last values, which are seen without noise."""
    order = len(coefficients)
    shift = np.eye(order, k=-1)
    shift[0] = coefficients
    first = np.zeros((order, order))
    first[0, 0] = variance
    return dict(
        initial_mean=np.zeros(order),
        initial_covariance=scipy.linalg.solve_discrete_lyapunov(shift, first),
        transition=shift,
        transition_covariance=first,
        emission=np.eye(1, order),
        emission_covariance=np.zeros((1, 1)),
    )


def trend(variance, noise):
    """An integrated random walk under noise: the level has none of its own."""
    return dict(
        initial_mean=np.zeros(2),
        initial_covariance=np.diag([10.0, 1.0]),
        transition=np.array([[1.0, 1.0], [0.0, 1.0]]),
        transition_covariance=np.diag([0.0, variance]),
        emission=np.array([[1.0, 0.0]]),
        emission_covariance=np.array([[noise]]),
    )


def singular(name):
    return {
        "autoregression": autoregression([0.6, -0.3], 0.5),
        "trend": trend(0.05, 0.3),
        "trend without noise": trend(0.05, 0.0),
    }[name]


@functools.cache
def drawn(name, length=80):
    said, rng = singular(name), np.random.default_rng(7)
    z = rng.multivariate_normal(said["initial_mean"], said["initial_covariance"])
    x = []
    for _ in range(length):
        noise = np.sqrt(said["emission_covariance"][0, 0]) * rng.normal(size=1)
        x.append(said["emission"] @ z + noise)
        z = said["transition"] @ z + np.sqrt(said["transition_covariance"]) @ rng.normal(size=2)
    return np.array(x)


@pytest.mark.parametrize("noise", ["full", pytest.param("diagonal", marks=SLOW)])
@pytest.mark.parametrize("name", ["autoregression", "trend", "trend without noise"])
def test_noise_of_fewer_directions_than_states(name, noise):
    """statsmodels' value and smoother; described as it was given; a sweep leaves zeros at zero and ascends."""
    model = LinearGaussianStateSpace(2, transition_noise=noise, floor=0.0)
    said, x = singular(name), drawn(name)
    params = model.from_description(**said)
    for key, leaf in model.describe(params).items():
        np.testing.assert_allclose(leaf, said[key], atol=1e-12, err_msg=key)
    value, means, covariances = statsmodels_smoother(said, x)
    ours = jax.jit(model.smooth)(params, jnp.asarray(x))
    np.testing.assert_allclose(ours[0], means, atol=1e-8)
    np.testing.assert_allclose(ours[1], covariances, atol=1e-8)
    em, state = em_of(model, params, free={"initial": False, "transition": True, "emission": True})
    state, info = sweeps(em, state, jnp.asarray(x)[None], 20)
    np.testing.assert_allclose(info.elbo[0], value, rtol=1e-9)
    assert bool(jnp.all(jnp.diff(info.elbo) > -1e-9))
    assert info.elbo[-1] > info.elbo[0]
    found = model.describe(state.params)
    for key in ("transition_covariance", "emission_covariance"):
        np.testing.assert_array_equal(np.asarray(found[key])[said[key] == 0], 0, err_msg=key)
    idle = np.diag(said["transition_covariance"]) == 0
    np.testing.assert_array_equal(np.asarray(found["transition"])[idle], said["transition"][idle])


def test_an_autoregression_is_least_squares():
    """Seen without noise, the states are known: a sweep is the regression on the values before."""
    model = LinearGaussianStateSpace(2, floor=0.0)
    x = drawn("autoregression")
    params = model.from_description(**singular("autoregression"))
    em, state = em_of(model, params, free={"initial": False, "transition": True, "emission": False})
    state, _ = sweeps(em, state, jnp.asarray(x)[None], 1)
    ours = model.describe(state.params)
    # The value before the first is not seen, but given by the smoother.
    means, covariances = jax.jit(model.smooth)(params, jnp.asarray(x))
    means, spread = np.asarray(means), np.asarray(covariances)[:-1].sum(0)
    before, after = means[:-1], x[1:, 0]
    gram = before.T @ before + spread
    coefficients = np.linalg.solve(gram, before.T @ after)
    left = after @ after - coefficients @ before.T @ after
    np.testing.assert_allclose(ours["transition"][0], coefficients, rtol=1e-9)
    np.testing.assert_allclose(ours["transition_covariance"][0, 0], left / len(after), rtol=1e-9)


def test_what_has_no_density_is_nan():
    """A column seen twice without noise, and a state that nothing moves any more."""
    x = np.ones((3, 2))
    model = LinearGaussianStateSpace(1, floor=0.0)
    one = dict(initial_mean=[1.0], initial_covariance=[[1.0]], transition=[[1.0]])
    twice = dict(emission=[[1.0], [1.0]], emission_covariance=np.zeros((2, 2)))
    params = model.from_description(**one, **twice, transition_covariance=[[1.0]])
    assert np.isnan(log_density(model, params, jnp.asarray(x)))
    once = dict(emission=[[1.0]], emission_covariance=[[0.0]])
    params = model.from_description(**one, **once, transition_covariance=[[0.0]])
    assert np.isnan(log_density(model, params, jnp.asarray(x[:, :1])))


@eqx.filter_jit
def log_density(model, params, x):
    potentials, constant = model.potentials(model.prepare(model.natural(params)), x)
    return model.latent.log_normalizer(potentials) + constant


# --- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["full", "diagonal", "isotropic"])
def test_descriptions_come_back(noise):
    model, params = make(noise)
    for name, leaf in model.describe(params).items():
        np.testing.assert_allclose(leaf, described(noise)[name], atol=1e-12, err_msg=name)


@SLOW
def test_samples_have_the_joint_moments():
    """Mean and covariance of 4000 sequences of two steps within five of their standard deviations."""
    model, params = make()
    x, z = model.sample(params, jax.random.key(0), 4000, 2)
    mean, covariance, emission, offset, noise = joint(described(), 2)
    both = np.concatenate([np.reshape(z, (4000, -1)), np.reshape(x, (4000, -1))], 1)
    center = np.concatenate([mean, emission @ mean + offset])
    cross = covariance @ emission.T
    whole = np.block([[covariance, cross], [cross.T, emission @ cross + noise]])
    variance = np.diag(whole)
    assert (np.abs(both.mean(0) - center) < 5 * np.sqrt(variance / 4000)).all()
    error = np.sqrt((np.outer(variance, variance) + whole**2) / 4000)
    assert (np.abs(np.cov(both.T) - whole) < 5 * error).all()


def test_number_of_free_params():
    """m 2, V 3, A 4, b 2, Q 3, C 6, d 3, R 6, less the 4 of a basis for z and the 2 of its origin."""
    model, params = make()
    assert model.num_free_params(params) == 2 + 3 + 4 + 2 + 3 + 6 + 3 + 6 - 6


def test_arguments_are_checked(as_users_run):
    with pytest.raises(
        ValueError, match="emission_noise must be 'full', 'diagonal' or 'isotropic'"
    ):
        LinearGaussianStateSpace(2, emission_noise="other")
    with pytest.raises(ValueError, match="floor must be finite"):
        LinearGaussianStateSpace(2, floor=-1.0)
    model = LinearGaussianStateSpace(2)
    with pytest.raises(ValueError, match="offsets=True"):
        model.from_description(**described())
    negative = described(offsets=False) | {"transition_covariance": np.diag([1.0, -0.1])}
    with pytest.raises(ValueError, match="transition_covariance must be positive semidefinite"):
        model.from_description(**negative)
    with pytest.raises(ValueError, match=r"Pass one sequence as x\[None, :, None\]"):
        model.init(jax.random.key(0), jnp.ones(5))
