"""`free`: what is frozen stays to the bit, and what is free takes its best given that."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.optimize
import scipy.special
from cases import find, SYSTEMS

import elbax
from elbax._free import spread
from elbax._pass import expected_statistics


CASE = find("mixture-full-auto:exact/closed")
MODEL, PARAMS, X = CASE.system.model, CASE.system.params, CASE.system.x


def one_step(step, params=PARAMS, x=X, posterior=None):
    posterior = elbax.Exact(step.model, params) if posterior is None else posterior
    state = step.init(params, posterior, key=jax.random.key(0))
    return jax.jit(lambda state: step(state, x)[0])(state).params


def makers():
    adamw = optax.adamw(0.1, weight_decay=0.5)
    return {
        "closed": lambda free: elbax.ClosedFormMStep(MODEL, free=free),
        "newton": lambda free: elbax.NewtonMStep(MODEL, free=free),
        # Weight decay would move what has no gradient.
        "gradient": lambda free: elbax.GradientMStep(MODEL, adamw, free=free),
        "joint": lambda free: elbax.JointGradientStep(MODEL, adamw, free=free),
    }


def posterior_for(name):
    return find("mixture-full-auto:joint").posterior if name == "joint" else None


SLOW_ONES = [pytest.param(name, marks=pytest.mark.slow) for name in ("newton", "joint")]


@pytest.mark.parametrize("name", ["closed", "gradient", *SLOW_ONES])
def test_frozen_blocks_stay_to_the_bit(name):
    """And every free one moves. Blocks, and masks for components and columns."""
    rows = jnp.array([True, False, True])
    masks = {
        "logits": rows,
        "components": {"mean": ~rows[:, None], "scale": rows[:, None]},
    }
    for free in (
        {"logits": True, "components": False},
        {"logits": False, "components": {"mean": True, "scale": False}},
        masks,
    ):
        end = one_step(makers()[name](free), posterior=posterior_for(name))
        for flag, new, old in zip(
            *map(jax.tree.leaves, (spread(free, PARAMS), end, PARAMS)), strict=True
        ):
            flag = np.broadcast_to(flag, old.shape)
            np.testing.assert_array_equal(np.asarray(new)[~flag], np.asarray(old)[~flag])
            assert np.all(np.asarray(new)[flag] != np.asarray(old)[flag])


@pytest.mark.parametrize("name", ["closed", "newton", "gradient", "joint"])
@pytest.mark.parametrize(
    ("free", "message"),
    [
        ({"logits": True}, "expected True or False for each block"),
        ({"logits": True, "component": False}, "expected True or False for each block"),
        ({"logits": 1, "components": False}, "True, False or a boolean array"),
        ({"logits": "yes", "components": False}, "True, False or a boolean array"),
        ({"logits": jnp.ones(3), "components": False}, "True, False or a boolean array"),
        ([True, False], "expected True or False for each block"),
        ({"logits": jnp.ones(4, bool), "components": True}, "free"),
    ],
)
def test_errors_come_at_init(as_users_run, name, free, message):
    """A tree that is no prefix of the params, no truth value, a mask of another shape."""
    posterior = elbax.Exact(MODEL, PARAMS) if name != "joint" else posterior_for(name)
    with pytest.raises((TypeError, ValueError), match=message):
        makers()[name](free).init(PARAMS, posterior, key=jax.random.key(0))


# --- the best of what is free ----------------------------------------------------------------------------


def responsibilities():
    described = MODEL.describe(PARAMS)
    return scipy.special.softmax(oracles.gaussian_mixture_log_joint(described, X), -1)


def test_covariances_about_frozen_means():
    """By brute force: the weighted scatter about the means at hand, plus the floor."""
    free = {"logits": True, "components": {"mean": False, "scale": True}}
    described = MODEL.describe(one_step(elbax.ClosedFormMStep(MODEL, free=free)))
    r, means = responsibilities(), np.asarray(MODEL.describe(PARAMS)["means"])
    for k in range(3):
        residual = np.asarray(X) - means[k]
        scatter = (r[:, k, None] * residual).T @ residual + 0.01 * np.diag(X.var(0))
        np.testing.assert_allclose(described["covariances"][k], scatter / r[:, k].sum(), rtol=1e-9)


def test_frozen_weights_leave_their_rest_to_share():
    """The others share what is left, in proportion to their counts."""
    free = {"logits": jnp.array([False, True, True]), "components": True}
    end = one_step(elbax.ClosedFormMStep(MODEL, free=free))
    weights = np.asarray(MODEL.describe(end)["weights"])
    old = np.asarray(MODEL.describe(PARAMS)["weights"])
    count = responsibilities().sum(0)
    np.testing.assert_allclose(weights[0], old[0], rtol=1e-12)
    np.testing.assert_allclose(weights[1:], (1 - old[0]) * count[1:] / count[1:].sum(), rtol=1e-10)


@pytest.mark.parametrize("name", ["mixture-multinomial", "mixture-categorical"])
def test_frozen_probabilities_leave_their_rest_to_share(name):
    """As for weights: what is frozen is the probability, whatever logit it was kept as."""
    system = next(system for system in SYSTEMS if system.name == name)
    model, params, x = system.model, system.params, system.x
    width = params["components"]["logits"].shape[-1]
    mask = jnp.arange(width) != 0
    both = [
        one_step(elbax.ClosedFormMStep(model, free={"logits": False, "components": f}), params, x)
        for f in ({"logits": mask}, True)
    ]
    some, all_, old = (np.asarray(model.describe(p)["probabilities"]) for p in (*both, params))
    np.testing.assert_allclose(some[..., 0], old[..., 0], rtol=1e-10)
    rest = all_[..., 1:] / all_[..., 1:].sum(-1, keepdims=True)
    np.testing.assert_allclose(some[..., 1:], (1 - old[..., :1]) * rest, rtol=1e-10, atol=1e-300)


GAMMA = next(system for system in SYSTEMS if system.name == "mixture-gamma")


def test_shapes_of_frozen_rates():
    """ψ(α) = log β + E[log x], solved by SciPy."""
    free = {"logits": False, "components": {"log_shapes": True, "log_rates": False}}
    model, params, x = GAMMA.model, GAMMA.params, np.asarray(GAMMA.x)
    ours = model.describe(one_step(elbax.ClosedFormMStep(model, free=free), params, GAMMA.x))
    old = model.describe(params)
    log_joint = oracles.with_weights(old, oracles.gamma(old, x))
    r = scipy.special.softmax(log_joint, -1)
    for k in range(3):
        for j in range(2):
            target = np.log(old["rates"][k, j]) + np.average(np.log(x[:, j]), weights=r[:, k])
            theirs = scipy.optimize.brentq(
                lambda a, target=target: scipy.special.digamma(a) - target, 1e-3, 1e4, xtol=1e-13
            )
            np.testing.assert_allclose(ours["shapes"][k, j], theirs, rtol=1e-9)


def test_rates_of_frozen_shapes():
    """The shape over the mean."""
    free = {"logits": False, "components": {"log_shapes": False, "log_rates": True}}
    model, params, x = GAMMA.model, GAMMA.params, np.asarray(GAMMA.x)
    ours = model.describe(one_step(elbax.ClosedFormMStep(model, free=free), params, GAMMA.x))
    old = model.describe(params)
    r = scipy.special.softmax(oracles.with_weights(old, oracles.gamma(old, x)), -1)
    means = r.T @ x / r.sum(0)[:, None]
    np.testing.assert_allclose(ours["rates"], np.asarray(old["shapes"]) / means, rtol=1e-10)


@pytest.mark.parametrize(
    "block, mask",
    [("mean", jnp.array([[True, False]] * 3)), ("scale", jnp.array([[True, False, True]] * 3))],
)
def test_correlated_columns_move_together(block, mask, as_users_run):
    """A mask within one component of full covariance has no closed-form best, and says so."""
    free = {"logits": True, "components": {"mean": True, "scale": True} | {block: mask}}
    step = elbax.ClosedFormMStep(MODEL, free=free)
    with pytest.raises(
        ValueError, match=f"columns of '{block}' are updated together.*whole components"
    ):
        step.init(PARAMS, elbax.Exact(MODEL, PARAMS), key=jax.random.key(0))


ROWS = jnp.array([True, False, True])[:, None]
# System, what is free of its components.
CONDITIONAL = {
    "means": ("mixture-full-auto", {"mean": True, "scale": False}),
    "covariances": ("mixture-full-auto", {"mean": False, "scale": True}),
    "covariances of some": ("mixture-full-auto", {"mean": True, "scale": ROWS}),
    "one column of diagonal means": (
        "mixture-diagonal-auto",
        {"mean": jnp.array([[True, False]] * 3), "scale": True},
    ),
    "one column of deviations": (
        "mixture-diagonal-auto",
        {"mean": True, "scale": jnp.array([[True, False]] * 3)},
    ),
    "some tied means": ("mixture-tied-auto", {"mean": ROWS, "scale": True}),
    "tied covariance": ("mixture-tied-with-priors", {"mean": False, "scale": True}),
    "means with a prior": ("mixture-with-priors", {"mean": True, "scale": False}),
    "rates": ("mixture-gamma", {"log_shapes": False, "log_rates": True}),
    "shapes": ("mixture-gamma", {"log_shapes": True, "log_rates": False}),
    "shapes of some": ("mixture-gamma", {"log_shapes": ROWS, "log_rates": True}),
    "rates of some": ("mixture-gamma", {"log_shapes": True, "log_rates": ROWS}),
    "noise of regressions": ("mixture-regression", {"coefficients": False, "log_noise": True}),
    "coefficients": ("mixture-regression", {"coefficients": True, "log_noise": False}),
    "slopes": (
        "mixture-regression",
        {"coefficients": jnp.array([[False, True]] * 3), "log_noise": True},
    ),
    "some log rates": ("mixture-poisson", {"log_rates": ROWS}),
    "some logits": ("mixture-bernoulli", {"logits": ROWS}),
    "probabilities of some": ("mixture-categorical", {"logits": ROWS[:, :, None]}),
    "groups of columns": (
        "mixture-product",
        {"size": {"mean": False, "scale": True}, "kind": False, "number": True},
    ),
}


QUICK = {"shapes", "one column of diagonal means", "slopes"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else (pytest.mark.slow,))
        for name in sorted(CONDITIONAL)
    ],
)
def test_the_rest_takes_its_best(name):
    """The expected log-joint plus prior, by enumeration, is flat in every entry that is free."""
    system_name, components = CONDITIONAL[name]
    system = next(system for system in SYSTEMS if system.name == system_name)
    model, params, x = system.model, system.params, system.x
    free = spread({"logits": True, "components": components}, params)
    best = one_step(elbax.ClosedFormMStep(model, free=free), params, x)
    posterior = elbax.Exact(model, params)

    @jax.jit
    @jax.value_and_grad
    def objective(theta):
        def one(x):
            q = posterior(x).mean()
            values = jax.vmap(lambda z: model.log_joint(theta, x, z))(jnp.arange(len(q)))
            return jnp.sum(q * values)

        return jnp.sum(jax.vmap(one)(x)) + model.log_prior(theta)

    before, _ = objective(params)
    after, slope = objective(best)
    assert after > before
    for flag, leaf in zip(*map(jax.tree.leaves, (free, slope)), strict=True):
        here = np.broadcast_to(flag, leaf.shape)
        np.testing.assert_allclose(np.asarray(leaf)[here], 0, atol=1e-7)


FACTORS = next(system for system in SYSTEMS if system.name == "factors-diagonal")


@pytest.mark.slow
@pytest.mark.parametrize(
    "free",
    [
        {"mean": False, "loadings": True, "log_noise": True},
        {"mean": True, "loadings": False, "log_noise": True},
        {"mean": True, "loadings": True, "log_noise": False},
        {
            "mean": True,
            "loadings": jnp.array([[True, False], [False, True], [True, True], [False, False]]),
            "log_noise": jnp.array([True, False, True, True]),
        },
    ],
    ids=["loadings and noise", "mean and noise", "mean and loadings", "entries"],
)
def test_the_rest_of_factor_analysis_takes_its_best(free):
    """Flat in what is free: the complete-data log-joint under the factors' Gaussian moments."""
    from test_factor_models import gaussian_moments

    model, params, x = FACTORS.model, FACTORS.params, FACTORS.x
    best = one_step(elbax.ClosedFormMStep(model, free=free), params, x)
    mean_z, square_z = map(jnp.asarray, gaussian_moments(model.describe(params), x))

    @jax.jit
    @jax.grad
    def slope(theta):
        variance = jnp.exp(2 * theta["log_noise"])
        residual = x - theta["mean"]
        square = residual**2 - 2 * residual * (mean_z @ theta["loadings"].T)
        square += jnp.einsum("jd,nde,je->nj", theta["loadings"], square_z, theta["loadings"])
        total = -0.5 * jnp.sum(square / variance + jnp.log(variance))
        return total - 0.5 * 0.01 * jnp.sum(jnp.var(x, 0) / variance)

    for flag, leaf, new, old in zip(
        *map(jax.tree.leaves, (spread(free, params), slope(best), best, params)), strict=True
    ):
        here = np.broadcast_to(flag, leaf.shape)
        np.testing.assert_allclose(np.asarray(leaf)[here], 0, atol=1e-8)
        np.testing.assert_array_equal(np.asarray(new)[~here], np.asarray(old)[~here])


def test_a_gradient_steps_memory_is_of_what_moves():
    """An optimizer keeps nothing for frozen blocks, and steps as if they were constants."""
    free = {"logits": False, "components": {"mean": True, "scale": False}}
    step = elbax.GradientMStep(MODEL, optax.adam(0.1), free=free)
    state = step.init(PARAMS, elbax.Exact(MODEL, PARAMS), key=jax.random.key(0))
    sizes = sum(
        leaf.size for leaf in jax.tree.leaves(eqx.filter(state.memory, eqx.is_inexact_array))
    )
    assert sizes == 2 * PARAMS["components"]["mean"].size


@pytest.mark.slow
def test_an_optimizer_sees_nothing_of_what_stays():
    """A norm to clip is that of the free entries, whether a block or a mask says which they are."""
    x, model = elbax.datasets.old_faithful().astype(float), elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), x)
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    none = jax.tree.map(lambda leaf: jnp.zeros((2, 1), bool), params["components"])
    moved = []
    for components in (False, none):
        free = {"logits": True, "components": components}
        step = elbax.GradientMStep(model, optimizer, free=free)
        state, _ = step(step.init(params, elbax.Exact(model, params), key=jax.random.key(0)), x)
        moved.append(state.params["logits"] - params["logits"])
    np.testing.assert_allclose(*moved, rtol=1e-10)
    np.testing.assert_allclose(jnp.linalg.norm(moved[0]), 1e-3, rtol=1e-6)


def test_no_optimizer_moves_the_scale_of_the_data():
    """Nor keeps a memory for it: weight decay would move what has no gradient."""
    unit = PARAMS["components"]["unit"].value
    for make in (elbax.GradientMStep, elbax.JointGradientStep):
        step = make(MODEL, optax.adamw(0.1, weight_decay=0.5))
        posterior = posterior_for("joint" if make is elbax.JointGradientStep else "")
        end = one_step(step, posterior=posterior)
        np.testing.assert_array_equal(end["components"]["unit"].value, unit)
        assert float(jnp.min(jnp.abs(end["components"]["mean"] - PARAMS["components"]["mean"]))) > 0
    step = elbax.GradientMStep(MODEL, optax.adam(0.1))
    memory = step.init(PARAMS, elbax.Exact(MODEL, PARAMS), key=jax.random.key(0)).memory
    assert not any(leaf.shape == unit.shape for leaf in jax.tree.leaves(memory))


def test_everything_frozen_changes_nothing():
    """No step, no error, for any update."""
    for make in (makers()[name] for name in ("closed", "newton", "gradient")):
        end = one_step(make(False))
        for new, old in zip(*map(jax.tree.leaves, (end, PARAMS)), strict=True):
            np.testing.assert_array_equal(new, old)


def test_statistics_do_not_depend_on_what_is_free():
    """Two half steps from one E-step, one block each, are both claims honored: weights as in the whole step."""
    _, found, _ = expected_statistics(
        MODEL, PARAMS, elbax.Exact(MODEL, PARAMS), X, key=jax.random.key(0)
    )
    np.testing.assert_allclose(found["logits"], responsibilities().sum(0), rtol=1e-10)


@pytest.mark.slow
def test_tied_params_reach_the_closed_forms_optimum():
    """One covariance tied by a function of fewer params, and by the model that has a closed form for it."""
    x = elbax.datasets.old_faithful().astype(float)[::4, 1:]
    free, closed = elbax.GaussianMixture(2), elbax.GaussianMixture(2, "tied")

    def expand(params):
        components = params["components"]
        scale = jnp.broadcast_to(components["scale"], (2, *components["scale"].shape))
        return params | {"components": components | {"scale": scale}}

    tied = elbax.Tied(free, expand)
    params = closed.init(jax.random.key(0), x)
    ends = {}
    for name, model, m_step in [
        ("tied", tied, elbax.NewtonMStep(tied)),
        ("closed", closed, elbax.ClosedFormMStep(closed)),
    ]:
        em = elbax.Chain(elbax.ExactEStep(model), m_step)
        state = em.init(params, key=jax.random.key(0))
        ends[name] = elbax.fit(em, state, x, tolerance=1e-14, max_steps=2000)
        assert np.all(np.diff(ends[name].trace) > -1e-10)
    described = [m.describe(ends[n].state.params) for n, m in (("tied", tied), ("closed", closed))]
    for name in ("weights", "means"):
        np.testing.assert_allclose(described[0][name], described[1][name], rtol=1e-5)
    # The floor counts once a covariance: twice where two are written out.
    np.testing.assert_allclose(described[0]["covariances"], described[1]["covariances"], rtol=1e-5)
    with pytest.raises(TypeError, match="Tied has no closed-form M-step"):
        step = elbax.ClosedFormMStep(tied)
        step.init(params, elbax.Exact(tied, params), key=jax.random.key(0))


def test_a_mask_of_a_single_number():
    """It may be traced, as the masks of an update are at its start; a flag for several numbers may not."""
    params = {"scale": jnp.ones(()), "rest": jnp.zeros(2)}
    mask_of_scale = jax.jit(lambda mask: spread({"scale": mask, "rest": True}, params)["scale"])
    assert not mask_of_scale(jnp.asarray(False))
    with pytest.raises(TypeError, match="use equinox.filter_jit"):
        jax.jit(lambda flag: spread(flag, params))(jnp.asarray(True))
