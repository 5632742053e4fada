"""`em(model)` and `init(params, key=key)` mean what their long forms mean."""

import cases
import jax
import jax.numpy as jnp
import optax
import pytest

import elbax


KEY = jax.random.key(0)
SYSTEM = cases.of("counts", elbax.Mixture(elbax.components.Poisson(), 3), cases.counts)
MODEL, PARAMS = SYSTEM.model, SYSTEM.params
EXACT = elbax.Exact(MODEL, PARAMS)
M_STEP = elbax.ClosedFormMStep(MODEL)
EM = elbax.Chain(elbax.ExactEStep(MODEL), M_STEP)
SGD = optax.sgd(0.1)


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype and jnp.array_equal(one, other)


def test_em_is_the_chain():
    state = EM.init(PARAMS, EXACT, key=KEY)
    ours, info = elbax.em(MODEL)(state, SYSTEM.x)
    theirs, long_info = EM(state, SYSTEM.x)
    assert_same((ours, info), (theirs, long_info))


def test_em_hands_on_what_is_free_and_the_chunks():
    free = {"logits": False, "components": True}
    short = elbax.em(MODEL, free=free, chunk_size=7)
    assert short.updates[1].free == free and short.updates[1].chunk_size == 7
    state, _ = short(short.init(PARAMS, key=KEY), SYSTEM.x)
    assert jnp.array_equal(state.params["logits"], PARAMS["logits"])


@pytest.mark.parametrize(
    ("update", "posterior"),
    [
        (EM, EXACT),
        (elbax.Chain(M_STEP, elbax.ExactEStep(MODEL)), EXACT),
        (elbax.wrappers.Repeat(elbax.wrappers.Guard(EM), 2), EXACT),
        (elbax.wrappers.Accelerate(EM), EXACT),
        (elbax.wrappers.Anneal(EM, lambda step: 0.5), EXACT),
        (elbax.wrappers.Averaged(EM), EXACT),
        (elbax.wrappers.Every(elbax.ExactEStep(MODEL), 2), EXACT),
        (elbax.Chain(elbax.HardEStep(MODEL), M_STEP), elbax.posteriors.Hard(EXACT)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_posterior_of_the_e_step(update, posterior):
    assert_same(update.init(PARAMS, key=KEY), update.init(PARAMS, posterior, key=KEY))


def test_the_posterior_at_a_mode():
    def log_joint(rate, x, z):
        return jax.scipy.stats.norm.logpdf(z).sum() + x * (rate + z[0]) - jnp.exp(rate + z[0])

    model, rate = elbax.Model(log_joint, elbax.Gaussian(1)), jnp.array(0.0)
    update = elbax.Chain(elbax.LaplaceEStep(model), elbax.GradientMStep(model, SGD))
    posterior = elbax.posteriors.Laplace(elbax.Exact(model, rate))
    assert_same(update.init(rate, key=KEY), update.init(rate, posterior, key=KEY))


class InOne(elbax.AbstractUpdate):
    """EM without an E-step among its parts."""

    model: elbax.AbstractModel
    ascends = True

    def __call__(self, state, batch):
        state = state.replace(posterior=elbax.Exact(self.model, state.params))
        return elbax.ClosedFormMStep(self.model)(state, batch)


def test_an_update_without_e_steps_starts_from_data_with_bayes_rule():
    one = InOne(MODEL)
    states = elbax.initial_states(one, SYSTEM.x, key=KEY, num_restarts=2)
    assert isinstance(states.posterior, elbax.Exact)
    ours = elbax.fit(one, batch=SYSTEM.x, key=KEY, restarts=2, max_steps=50)
    theirs = elbax.fit(elbax.em(MODEL), SYSTEM.x, key=KEY, restarts=2, max_steps=50)
    assert jnp.allclose(ours.elbo, theirs.elbo, atol=1e-6)


def test_restarts_begin_with_the_posterior_of_the_e_step():
    hard = elbax.Chain(elbax.HardEStep(MODEL), M_STEP)
    states = elbax.initial_states(hard, SYSTEM.x, key=KEY, num_restarts=2)
    assert isinstance(states.posterior, elbax.posteriors.Hard)


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (
            M_STEP,
            r"ClosedFormMStep.init: got no posterior.*posterior=elbax.Exact\(model, params\) to init",
        ),
        (elbax.Chain(elbax.GradientEStep(MODEL, SGD), M_STEP), r"posterior=elbax.Amortized\("),
        (elbax.JointGradientStep(MODEL, SGD), r"posterior=elbax.Amortized\("),
        (
            elbax.Chain(elbax.MonteCarloEStep(MODEL), M_STEP),
            r"posterior=elbax.posteriors.MonteCarlo\(",
        ),
        (
            elbax.Chain(elbax.MeanFieldEStep(MODEL), M_STEP),
            r"posterior=elbax.posteriors.MeanField.init\(",
        ),
    ],
    ids=["M-step", "gradient", "joint", "Monte Carlo", "mean field"],
)
def test_an_update_without_a_posterior_says_what_to_pass(update, words):
    with pytest.raises(TypeError, match=words):
        update.init(PARAMS, key=KEY)


def test_a_fit_from_the_data_is_the_best_of_its_restarts():
    em = elbax.em(MODEL)
    ours = elbax.fit(em, SYSTEM.x, key=KEY, restarts=3, max_steps=20)
    states = elbax.initial_states(em, SYSTEM.x, key=KEY, num_restarts=3)
    ends = elbax.fit_restarts(em, states, SYSTEM.x, reject=MODEL.collapsed, max_steps=20)
    assert_same(ours.state, ends.best.state)
    assert ours.message == f"{ends.best.message} {ends.message}"
    assert ours.params is ours.state.params and ours.posterior is ours.state.posterior


def test_a_fit_from_one_start():
    em = elbax.em(MODEL)
    ours = elbax.fit(em, SYSTEM.x, key=KEY, restarts=1, max_steps=20)
    states = elbax.initial_states(em, SYSTEM.x, key=KEY, num_restarts=1)
    theirs = elbax.fit_restarts(em, states, SYSTEM.x, max_steps=20).best
    assert ours.message == theirs.message and ours.num_steps == theirs.num_steps


STATE = EM.init(PARAMS, key=KEY)


def several():
    return jax.vmap(lambda key: EM.init(PARAMS, key=key))(jax.random.split(KEY))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: elbax.fit(EM, x), "neither a state nor a key.*fit.update, batch, key="),
        (lambda x: elbax.fit(EM, iter([x]), key=KEY), "fit: got an iterator and no state"),
        (
            lambda x: elbax.fit(EM, x, key=KEY, progress=True),
            "progress=True is available only for a fit from a state",
        ),
        (lambda x: elbax.fit(EM, STATE), "a state and no batch"),
        (
            lambda x: elbax.fit(EM, STATE, x, key=KEY),
            "got key or restarts together with a state",
        ),
        (lambda x: elbax.fit(EM, STATE, x, restarts=4), "call fit_restarts"),
        (lambda x: elbax.fit(EM, PARAMS, x), "expected the state that update.init"),
        (lambda x: elbax.fit(x, EM, key=KEY), r"such as Chain\(...\), got an array of shape"),
        (lambda x: elbax.fit(EM, x, key=KEY, restarts=0), "fit: restarts"),
        (lambda x: elbax.fit(EM, x[:0], key=KEY), "fit: the batch is empty"),
        (lambda x: elbax.fit(elbax.JointGradientStep(MODEL, SGD), x, key=KEY), "initial_states"),
        (lambda x: elbax.fit(EM, several(), x), "expected one state, got 2"),
        (
            lambda x: EM.init(PARAMS, KEY, key=KEY),
            r"Pass a key by keyword: init\(params, key=key\)",
        ),
        (lambda x: jax.jit(lambda x: elbax.fit(EM, x, key=KEY))(x), "use elbax.converge"),
    ],
)
def test_a_fit_from_the_data_says_what_it_takes(call, words, as_users_run):
    with pytest.raises((TypeError, ValueError), match=words):
        call(SYSTEM.x)
