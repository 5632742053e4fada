"""M-steps that remember or search, against the closed form, Newton's method and asymptotics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from cases import find, sweeps, SYSTEMS

import elbax


def exact(model, params):
    return elbax.Exact(model, params)


def em(model, m_step):
    return elbax.Chain(elbax.ExactEStep(model), m_step)


def begin(update, model, params, seed=0):
    return update.init(params, exact(model, params), key=jax.random.key(seed))


@eqx.filter_jit
def stream(update, state, batches):
    return jax.lax.scan(update, state, batches)


@eqx.filter_jit
def path(update, state, batches, length=None):
    """The last state, and the bound and params of every step, on batches or, with a length, on all data again."""

    def step(state, batch):
        state, info = update(state, batches if batch is None else batch)
        return state, (info.elbo, state.params)

    return jax.lax.scan(step, state, batches if length is None else None, length=length)


POISSON = elbax.Mixture(elbax.components.Poisson(), 2)
TRUTH = {"weights": [0.4, 0.6], "rates": [[1.0], [8.0]]}
RANGE = jnp.arange(60.0)


def fisher(params, complete):
    """Information of one count about (logits, rates' logarithms), summed over all counts and labels."""
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    def log_joint(flat, x, z):
        return POISSON.log_joint(unflatten(flat), x[None], z)

    def log_evidence(flat, x):
        return jax.nn.logsumexp(jax.vmap(lambda z: log_joint(flat, x, z))(jnp.arange(2)))

    def one(x):
        if not complete:
            score = jax.grad(log_evidence)(flat, x)
            return jnp.exp(log_evidence(flat, x)) * jnp.outer(score, score)
        scores = jax.vmap(lambda z: jax.grad(log_joint)(flat, x, z))(jnp.arange(2))
        weights = jnp.exp(jax.vmap(lambda z: log_joint(flat, x, z))(jnp.arange(2)))
        return jnp.einsum("z,zi,zj->ij", weights, scores, scores)

    return jnp.sum(jax.jit(jax.vmap(one))(RANGE), 0)


@pytest.mark.slow
def test_online_steps_are_natural_gradients():
    """dθ/dρ at ρ = 0 is F⁻¹∇Q with F the information of complete data, in whatever coordinates.

    Statistics move along a straight line of mean parameters, the coordinates in which Fisher's information is the
    inverse of what it is in the natural ones.
    """
    params = POISSON.from_description(**TRUTH)
    x = jnp.asarray(scipy.stats.poisson(4.0).rvs((50, 1), random_state=0), float)
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    # Statistics that the params themselves are the maximum of: those of their own distribution.
    log_weights = jax.vmap(lambda x: elbax.evidence(POISSON, params, x[None, None]))
    weights = jnp.exp(jax.jit(log_weights)(RANGE))
    model_data = elbax.Batch(RANGE[:, None], weight=50 * weights)

    def moved(rate):
        step = elbax.OnlineMStep(POISSON, rate)
        state = begin(step, POISSON, params)
        state, _ = step(state, model_data)
        after, _ = step(state, x)
        return jax.flatten_util.ravel_pytree(after.params)[0]

    direction = jax.jit(jax.jacfwd(moved))(0.0)

    def expected(flat):
        return elbax.elbo(POISSON, unflatten(flat), exact(POISSON, params), x)

    natural = jnp.linalg.pinv(fisher(params, True)) @ jax.jit(jax.grad(expected))(flat)
    # Logits are defined up to a constant: compare what they stand for.
    shares = lambda step: unflatten(step)["logits"] - unflatten(step)["logits"].mean()
    np.testing.assert_allclose(shares(direction), shares(natural), atol=1e-6)
    for ours, theirs in zip(
        jax.tree.leaves(unflatten(direction)["components"]),
        jax.tree.leaves(unflatten(natural)["components"]),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.slow
def test_averaged_online_em_is_efficient():
    """n Var of the averaged estimate is the inverse information (Cappé and Moulines 2009, theorem 2)."""
    params = POISSON.from_description(**TRUTH)
    num_steps, batch, lanes = 1000, 4, 300
    step = elbax.OnlineMStep(POISSON, lambda t: (t + 1.0) ** -0.6, delay=20)
    update = elbax.wrappers.Averaged(em(POISSON, step), start=num_steps // 2)

    def one(x):
        state = begin(update, POISSON, params)
        state, _ = jax.lax.scan(update, state, x)
        described = POISSON.describe(update.averaged(state))
        return jnp.append(described["weights"][:1], described["rates"][:, 0])

    rng = np.random.default_rng(0)
    z = rng.choice(2, (lanes, num_steps, batch, 1), p=TRUTH["weights"])
    x = rng.poisson(np.ravel(TRUTH["rates"])[z]).astype(float)
    found = jax.jit(jax.vmap(one))(jnp.asarray(x))
    described = lambda p: jnp.append(
        POISSON.describe(p)["weights"][:1], POISSON.describe(p)["rates"][:, 0]
    )
    flat, unflatten = jax.flatten_util.ravel_pytree(params)
    jacobian = jax.jacobian(lambda flat: described(unflatten(flat)))(flat)
    bound = jacobian @ jnp.linalg.pinv(fisher(params, False)) @ jacobian.T
    # Only the second half of the stream is averaged over, and each step holds a batch.
    scaled = np.var(np.asarray(found), 0) * num_steps * batch / 2
    ratio = scaled / np.diag(bound)
    # What was seen before the average began counts a little too.
    assert (ratio < 1.3).all() and (ratio > 0.7).all(), ratio
    plain = np.mean(np.asarray(found), 0)
    np.testing.assert_allclose(plain, described(params), rtol=0.02)


def with_gaps(x):
    """Returns the rows without some of their numbers."""
    missing = np.random.default_rng(3).random(x.shape) < 0.3
    missing[:, 0] = False
    return elbax.IncompleteRows(x, jnp.asarray(~missing))


def without_a_label():
    """Returns mixtures by name, with data: complete ones, and such that a component eliminates a latent."""
    components = elbax.components
    plane = find("mixture-full-auto:exact/closed").system
    space = find("mixture-factors:exact/closed").system
    student = elbax.Mixture(components.StudentT("full", dof=4.0, floor=0.01), 3)
    return {
        "normal": (plane.model, plane.x),
        "normal with gaps": (plane.model, with_gaps(plane.x)),
        "Student t": (student, plane.x),
        "factor analyzers": (space.model, space.x),
        "factor analysis with gaps": (elbax.FactorAnalysis(1, floor=0.01), with_gaps(space.x)),
    }


def strided(x, num_batches):
    """Returns the rows in batches, every one with a part of each cluster."""
    rows = len(jax.tree.leaves(x)[0]) // num_batches
    parted = lambda leaf: (
        np.asarray(leaf).reshape(rows, num_batches, *leaf.shape[1:]).swapaxes(0, 1)
    )
    return jax.tree.map(parted, x)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "Student t" else pytest.mark.slow)
        for name in without_a_label()
    ],
)
def test_incremental_em(name):
    """The first round ends with EM's step, further rounds are worth more than its sweeps, and the end is EM's.

    The statistics of the batches are about the params of different steps.
    """
    model, x = without_a_label()[name]
    params = model.init(jax.random.key(0), x)
    whole = em(model, elbax.ClosedFormMStep(model))
    of_em = lambda params: path(whole, begin(whole, model, params), x, 11)[1]
    bounds, swept = of_em(params)
    update = em(model, elbax.IncrementalMStep(model, num_batches=4))
    ten_rounds = jax.tree.map(lambda leaf: np.concatenate([leaf] * 10), strided(x, 4))
    state, (_, moved) = path(update, begin(update, model, params), ten_rounds)
    for ours, theirs in zip(*map(jax.tree.leaves, (moved, swept)), strict=True):
        np.testing.assert_allclose(np.asarray(ours)[3], theirs[0], rtol=1e-9, atol=1e-11)
    assert elbax.evidence(model, state.params, x) > bounds[-1]
    for _ in range(39):
        state, _ = path(update, state, ten_rounds)
    bounds, _ = of_em(state.params)
    np.testing.assert_allclose(np.diff(bounds), 0, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda m: elbax.OnlineMStep(m, lambda t: (t + 2.0) ** -0.6), None]
)
@pytest.mark.parametrize("offset", [2e3, 3e4])
def test_a_start_far_from_the_data(make, offset):
    """In float32 what is kept about the first params holds nothing of the data's spread, and is outweighed."""
    model = elbax.Mixture(elbax.components.Normal("full"), 1)
    m_step = elbax.IncrementalMStep(model, 4) if make is None else make(model)
    start = {"means": np.zeros((1, 2)), "covariances": np.eye(2)[None], "unit": np.ones(2)}
    params = model.from_description(weights=[1.0], **start)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    noise = np.random.default_rng(0).normal(size=(400, 50, 2))
    batches = noise[:4] if make is None else noise
    batches = jnp.asarray(offset + np.tile(batches, (100 if make is None else 1, 1, 1)), "float32")
    update = em(model, m_step)
    state, _ = stream(update, begin(update, model, params), batches)
    described = model.describe(state.params)
    np.testing.assert_allclose(described["means"][0] - offset, 0, atol=0.3)
    np.testing.assert_allclose(described["covariances"][0], np.eye(2), atol=0.35)


def test_a_model_of_ones_own_that_defines_no_change_of_coordinates(as_users_run):
    class Own(elbax.components.Poisson):
        def rebase(self, natural, params):
            return elbax.components.AbstractComponent.rebase(self, natural, params)

    model = elbax.Mixture(Own(), 2)
    params = model.init(jax.random.key(0), jnp.arange(20)[:, None])
    with pytest.raises(TypeError, match=r"Own.*define Own\.rebase"):
        em(model, elbax.OnlineMStep(model, 0.5)).init(params, key=jax.random.key(1))


@pytest.mark.parametrize("target", ["entropy", "divergence"])
def test_at_rate_one_online_is_the_closed_form(target):
    """Inside of `Anneal` too, with another β in every step."""
    model, x = without_a_label()["factor analyzers"]
    params = model.init(jax.random.key(0), x)

    def end(m_step):
        schedule = optax.linear_schedule(0.1, 1.0, 4)
        update = elbax.wrappers.Anneal(em(model, m_step), schedule, target)
        return sweeps(update, begin(update, model, params), x, 5)[0].params

    ends = end(elbax.ClosedFormMStep(model)), end(elbax.OnlineMStep(model, 1.0))
    for ours, theirs in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", ["lbfgs", "backtracking"])
@pytest.mark.slow
def test_numerical_steps_reach_newtons_point(optimizer):
    """Where there is no closed form: Poisson regressions."""
    system = next(s for s in SYSTEMS if s.name == "mixture-poisson-regression")
    model, x, params = system.model, system.x, system.params
    choice = {
        "lbfgs": None,
        "backtracking": optax.chain(
            optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=20)
        ),
    }[optimizer]
    most = {"lbfgs": 200, "backtracking": 4000}[optimizer]
    step = elbax.NumericalMStep(model, max_steps=most, tolerance=1e-9, optimizer=choice)
    ours, _ = sweeps(step, begin(step, model, params), x, 1)
    newton = elbax.NewtonMStep(model)
    theirs, _ = sweeps(newton, begin(newton, model, params), x, 30)
    values = [
        float(elbax.elbo(model, state.params, exact(model, params), x)) for state in (ours, theirs)
    ]
    np.testing.assert_allclose(*values, rtol=1e-9 if optimizer == "lbfgs" else 1e-6)


@pytest.mark.slow
def test_one_numerical_step_ascends_from_anywhere():
    """Generalized EM proper, from params at which plain gradient steps of any size explode."""
    system = find("mixture-full-auto:exact/closed").system
    model, x = system.model, system.x
    params = jax.tree.map(lambda leaf: 3 * leaf, system.params)
    update = em(model, elbax.NumericalMStep(model, max_steps=1))
    assert update.ascends
    _, info = sweeps(update, begin(update, model, params), x, 40)
    assert bool(jnp.all(jnp.diff(info.elbo) >= 0)) and info.elbo[-1] > info.elbo[0] + 0.5


@pytest.mark.slow
def test_what_is_free_moves_alone():
    system = find("mixture-full-auto:exact/closed").system
    model, x, params = system.model, system.x, system.params
    free = {"logits": True, "components": False}
    for step in (
        elbax.NumericalMStep(model, free=free),
        elbax.OnlineMStep(model, 1.0, free=free),
    ):
        state, _ = sweeps(step, begin(step, model, params), x, 1)
        for new, old in zip(
            *map(jax.tree.leaves, (state.params["components"], params["components"]))
        ):
            np.testing.assert_array_equal(new, old)
        closed = elbax.ClosedFormMStep(model, free=free)
        theirs, _ = sweeps(closed, begin(closed, model, params), x, 1)
        shares = [jax.nn.softmax(s.params["logits"]) for s in (state, theirs)]
        np.testing.assert_allclose(*shares, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: elbax.OnlineMStep(m, 0.0), r"rate must be in \(0, 1\], got 0.0"),
        (lambda m: elbax.OnlineMStep(m, 0.5, delay=-1), "delay must be at least 0, got -1"),
        (lambda m: elbax.NumericalMStep(m, max_steps=0), "max_steps must be at least 1"),
        (lambda m: elbax.IncrementalMStep(m, 0), "num_batches must be at least 1"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make(elbax.GaussianMixture(2))
