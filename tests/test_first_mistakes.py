"""What a newcomer gets wrong first: each is refused, in words that say what to do."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest

import elbax
from elbax import components


X = elbax.datasets.old_faithful()[:40]
MODEL = elbax.GaussianMixture(2)
PARAMS = MODEL.from_description(
    weights=[0.5, 0.5], means=[[2.0, 55.0], [4.0, 80.0]], covariances=[np.diag([0.1, 30.0])] * 2
)
EM = elbax.em(MODEL)
GAPS = jnp.zeros((3, 5, 2)).at[1, 3, 0].set(jnp.nan)
NORMAL_LOGPDF = jax.scipy.stats.norm.logpdf


def start(params=PARAMS, update=EM, key=None):
    key = jax.random.key(0) if key is None else key
    return update.init(params, elbax.Exact(MODEL, params), key=key)


def plain(log_joint, latent):
    model = elbax.Model(log_joint, latent)
    return elbax.evidence(model, jnp.zeros((2, 2)), X)


def frames(labels, inputs=None):
    inputs = jnp.zeros((2, 6, 4)) if inputs is None else inputs
    model = elbax.ConnectionistTemporalClassification()
    chain = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.sgd(1.0)))
    network = elbax.Network(lambda w, x: x @ w, jnp.zeros((4, 4)))
    state = chain.init(network, key=jax.random.key(0))
    return elbax.fit(chain, state, (inputs, labels))


def table_without_index():
    step = elbax.MeanFieldEStep(MODEL)
    posterior = elbax.posteriors.MeanField.init(MODEL, PARAMS, X)
    return step(step.init(PARAMS, posterior, key=jax.random.key(0)), X[30:])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: EM(PARAMS, X),
            TypeError,
            r"update\(state, batch\): state must be the result of update.init",
        ),
        (lambda: start(key=0), TypeError, "must be a random key such as jax.random.key"),
        (lambda: elbax.GradientMStep(MODEL, 1e-3), TypeError, "an optax optimizer .* got 0.001"),
        (lambda: elbax.evidence(MODEL, PARAMS, X[:, :1]), ValueError, r"shape \(2,\), got \(1,\)"),
        (lambda: elbax.Exact(MODEL, PARAMS)(X), ValueError, "A posterior takes one row"),
        (
            lambda: plain(lambda m, x, z: NORMAL_LOGPDF(x, m[z]), elbax.Categorical(2)),
            ValueError,
            r"must return a single number, .* got shape \(2,\)",
        ),
        (
            lambda: plain(lambda m, x, z: 0.0, elbax.families.GridGraph(2, 2, 2)),
            TypeError,
            "a subclass of elbax.AbstractExponentialFamilyModel",
        ),
        (lambda: elbax.GaussianMixture(2.0), TypeError, "must be a whole number, got 2.0"),
        (lambda: elbax.wrappers.Repeat(EM, 2.5), TypeError, "must be a whole number, got 2.5"),
        (
            lambda: elbax.families.GridGraph(2, 2, 2).log_normalizer(
                {"unary": jnp.zeros((2, 2, 2))}
            ),
            ValueError,
            r"GridGraph: .*'below': \(1, 2, 2, 2\).*got {'unary': \(2, 2, 2\)}",
        ),
        (
            lambda: elbax.ContextFreeGrammar(2, 3, 4).from_description(
                root=np.ones(2), binary=np.ones((2, 4, 4)), emission=np.ones((3, 4))
            ),
            ValueError,
            r"binary must have shape \(2, 5, 5\), got \(2, 4, 4\)",
        ),
        (
            lambda: elbax.LinearGaussianStateSpace(2).from_description(
                initial_mean=[0.0],
                initial_covariance=[[1.0]],
                transition=[[1.0]],
                transition_covariance=[[1.0]],
                emission=[[1.0]],
                emission_covariance=[[1.0]],
            ),
            ValueError,
            r"initial_mean must have shape \(2,\), got \(1,\)",
        ),
        (
            lambda: MODEL.from_description(
                weights=[1.5, -0.5], means=np.zeros((2, 2)), covariances=[np.eye(2)] * 2
            ),
            ValueError,
            r"weights must hold numbers that are not negative; weights\[1\] is -0.5",
        ),
        (lambda: elbax.Chain([EM, EM]), TypeError, r"Chain\(e_step, m_step\)"),
        (table_without_index, ValueError, "pass the rows of a minibatch"),
        (
            lambda: elbax.HiddenMarkovModel(components.Normal(), 2).check(GAPS),
            ValueError,
            r"sequence 1, step 3, column 0 is nan. .*elbax.sequences",
        ),
        (lambda: frames(jnp.array([[1], [-3]])), ValueError, "label 0 of sequence 1 is -3"),
        (
            lambda: frames(jnp.array([[1], [2]]), jnp.full((2, 6, 4), jnp.nan)),
            ValueError,
            "sequence 0, step 0, column 0 is nan",
        ),
        (
            lambda: frames(jnp.array([[1]]), elbax.sequences([np.full((6, 4), np.nan)])),
            TypeError,
            "Impute them first",
        ),
        (lambda: EM(start(), elbax.Batch(X, index=3)), ValueError, r"index has shape \(\)"),
    ],
)
def test_is_refused(as_users_run, make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_label_without_an_output_is_impossible():
    """Not free of cost, as it would be if nothing were added up for it."""
    result = frames(jnp.array([[3], [7]]))
    assert result.code == "nonfinite"


def test_sequences_of_lists():
    batch = elbax.sequences([[0, 1, 2], [1, 2]])
    np.testing.assert_array_equal(batch.values[:, :, 0], [[0, 1, 2], [1, 2, 2]])
    np.testing.assert_array_equal(batch.length, [3, 2])


def test_fit_says_what_rounding_hides():
    """In float32 slow gains are below what the ELBO resolves: it ends, and says why."""
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS)
    narrow = elbax.fit(EM, start(small), X.astype(jnp.float32))
    assert narrow.converged
    assert "to the precision of float32" in narrow.message
    assert 'use float64: jax.config.update("jax_enable_x64", True)' in narrow.message
    wide = jax.tree.map(lambda leaf: leaf.astype(float), PARAMS)
    precise = elbax.fit(EM, start(wide), X.astype(float), tolerance=0.0).message
    assert "to the precision of float64" in precise and "use float64" not in precise
    assert "the ELBO no longer increases" in elbax.fit(EM, start(wide), X.astype(float)).message


def test_fit_waits_for_an_update_that_moves_now_and_then():
    x = X.astype(float)
    params = jax.tree.map(lambda leaf: leaf.astype(float), PARAMS)
    often = elbax.fit(EM, start(params), x)
    rarely = elbax.wrappers.Every(EM, 4)
    result = elbax.fit(rarely, start(params, rarely), x)
    assert result.converged
    np.testing.assert_allclose(result.elbo, often.elbo, atol=1e-6)


@pytest.mark.slow
def test_fit_says_that_steps_were_skipped():
    """A step refused again and again gains nothing: that is no maximum."""
    ascent = elbax.Chain(elbax.ExactEStep(MODEL), elbax.GradientMStep(MODEL, optax.sgd(1e6)))
    guarded = elbax.wrappers.Guard(ascent, falling=True)
    result = elbax.fit(guarded, start(update=guarded), X)
    assert re.search(r"skipped \d+ of them", result.message)


def test_a_second_evaluation_compiles_nothing():
    params = jax.tree.map(lambda leaf: leaf + 0, PARAMS)
    for evaluate in (elbax.elbo, elbax.elbo_terms):
        evaluate(MODEL, PARAMS, elbax.Exact(MODEL, PARAMS), X)
        with laws.count_compilations() as compiled:
            evaluate(MODEL, params, elbax.Exact(MODEL, params), X)
        assert not compiled
    state = start()
    elbax.fit(EM, state, X, max_steps=100)
    with laws.count_compilations() as compiled:
        elbax.fit(EM, state, X, max_steps=101)
    assert not compiled


@pytest.mark.parametrize(
    "made_by", [elbax.wrappers.Guard(EM), elbax.wrappers.Every(EM, 2), elbax.Chain(EM.updates[0])]
)
@pytest.mark.parametrize("update", [EM, elbax.wrappers.Accelerate(EM), elbax.wrappers.Averaged(EM)])
def test_the_state_of_another_update(as_users_run, update, made_by):
    """Wherever its memory does not fit, and it is told from a mistake in the data."""
    with pytest.raises(
        TypeError, match=f"{type(update).__name__}.*: the state has the memory of a different"
    ):
        update(start(update=made_by), X)
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        update(start(update=update), X[:, :1])


def test_the_memory_of_another_optimizer(as_users_run):
    with_moments, without = (
        elbax.Chain(elbax.ExactEStep(MODEL), elbax.GradientMStep(MODEL, optimizer))
        for optimizer in (optax.adam(0.1), optax.sgd(0.1))
    )
    with pytest.raises(
        TypeError, match="the state has the memory of a different update. Start from"
    ):
        with_moments(start(update=without), X)


def test_several_states_at_once(as_users_run):
    update = elbax.Chain(elbax.ExactEStep(MODEL), elbax.GradientMStep(MODEL, optax.adam(0.1)))
    one = start(update=update)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), one)
    with pytest.raises(TypeError, match="For several stacked states, use jax.vmap"):
        update(several.replace(params=one.params, posterior=one.posterior, key=one.key), X)


def test_steps_of_different_models(as_users_run):
    other = elbax.ClosedFormMStep(elbax.GaussianMixture(2, floor=0.5))
    with pytest.raises(TypeError, match=r"Chain\(ExactEStep, ClosedFormMStep\): its steps have 2"):
        start(update=elbax.Chain(elbax.ExactEStep(MODEL), other))


def test_an_exact_posterior_of_another_precision(as_users_run):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), PARAMS)
    with pytest.raises(TypeError, match="of another model or other params"):
        EM.init(PARAMS, elbax.Exact(MODEL, half), key=jax.random.key(0))


@pytest.mark.parametrize("length", [10, 39])
@pytest.mark.parametrize(
    "m_step", [elbax.ClosedFormMStep(MODEL), elbax.GradientMStep(MODEL, optax.sgd(0.1))]
)
def test_a_table_that_is_too_short(as_users_run, m_step, length):
    update = elbax.Chain(m_step)
    table = elbax.posteriors.Local(jnp.zeros((length, 2)), MODEL.latent)
    state = update.init(PARAMS, table, key=jax.random.key(0))
    message = f"the batch has 40 rows, but the Local has {length}. Make the table for all data"
    with pytest.raises(ValueError, match=message):
        update(state, X)
    with pytest.raises(ValueError, match=f"fit: .*{message}"):
        elbax.fit(update, state, X)
    with pytest.raises(ValueError, match="index of the batch contains rows that the Local of"):
        elbax.fit(update, state, elbax.Batch(X[:2], index=jnp.array([3, length])))
    # Rows that it has, and padding past its end, or of any place.
    batch = elbax.Batch(X, mask=jnp.arange(40) < length)
    assert jnp.isfinite(update(state, batch)[1].elbo)
    padded = elbax.Batch(X[:2], mask=jnp.array([True, False]), index=jnp.array([3, 99]))
    assert np.isfinite(elbax.fit(update, state, padded, max_steps=1).trace).all()


@pytest.mark.parametrize("schedule", [lambda step: jnp.ones(3), lambda step: None])
def test_schedules_that_are_no_number(as_users_run, schedule):
    with pytest.raises(TypeError, match="Anneal: the schedule"):
        start(update=elbax.wrappers.Anneal(EM, schedule))
    online = elbax.Chain(elbax.ExactEStep(MODEL), elbax.OnlineMStep(MODEL, schedule))
    with pytest.raises(TypeError, match="OnlineMStep: the schedule"):
        start(update=online)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("fit", lambda state, x: elbax.fit(EM, state, x).elbo),
        ("fit_restarts", lambda state, x: elbax.fit_restarts(EM, state, x).elbo),
        (
            "criteria",
            lambda state, x: elbax.diagnostics.information_criteria(MODEL, state.params, x).bic,
        ),
        (
            "information",
            lambda state, x: elbax.diagnostics.observed_information(MODEL, state.params, x).rate,
        ),
        (
            "standard_errors",
            lambda state, x: elbax.diagnostics.standard_errors(MODEL, state.params, x),
        ),
        ("convergence_rate", lambda state, x: elbax.diagnostics.convergence_rate(EM, state, x)),
        (
            "select",
            lambda state, x: elbax.diagnostics.select({"2": MODEL}, x, key=jax.random.key(0)).best,
        ),
    ],
)
def test_functions_that_decide_by_values_are_not_traced(as_users_run, name, function):
    with pytest.raises(TypeError, match=f"{name}: got traced arguments, .* not known inside jit"):
        jax.jit(function)(start(), X)
    with pytest.raises(TypeError, match=f"{name}: got traced arguments"):
        jax.vmap(function, (None, 0))(start(), X[None])


def test_once_is_no_repetition():
    assert elbax.wrappers.Repeat(elbax.Chain(elbax.IncrementalMStep(MODEL, 2)), 1).num_times == 1


def test_repeat_would_take_a_batch_for_the_next_one(as_users_run):
    incremental = elbax.Chain(elbax.ExactEStep(MODEL), elbax.IncrementalMStep(MODEL, 2))
    with pytest.raises(
        TypeError,
        match="IncrementalMStep, which would treat each repetition of a batch as the next",
    ):
        elbax.wrappers.Repeat(elbax.wrappers.Guard(incremental), 2)


@pytest.mark.parametrize("share", [0.0, 2.0])
def test_a_share_of_the_rows(as_users_run, share):
    with pytest.raises(ValueError, match=f"ReseedStep: share must be in .*, got {share}"):
        elbax.ReseedStep(MODEL, share=share)


@pytest.mark.parametrize(
    "posterior",
    [
        lambda encoder: elbax.posteriors.Importance(encoder, elbax.Exact(MODEL, PARAMS), 3),
        lambda encoder: elbax.posteriors.Local(jnp.zeros((40, 2)), MODEL.latent),
    ],
)
def test_dreams_need_a_density(as_users_run, posterior):
    network = elbax.Network(lambda w, x: w @ x, jnp.zeros((2, 2)))
    sleep = elbax.SleepEStep(MODEL, optax.sgd(0.1), lambda params, key: (jnp.zeros(2), 0))
    with pytest.raises(
        TypeError,
        match="SleepEStep: got (an Importance|a Local) posterior; expected one that knows log q",
    ):
        posterior = posterior(elbax.Amortized(network, MODEL.latent))
        sleep.init(PARAMS, posterior, key=jax.random.key(0))


def test_a_regression_has_no_gaps(as_users_run):
    model = elbax.MixtureOfExperts(components.LinearRegression(), 2)
    inputs = elbax.IncompleteRows(np.ones((6, 2)), np.ones((6, 2), bool))
    with pytest.raises(ValueError, match="a regression needs every input and target"):
        model.check((inputs, np.arange(6.0)))


def test_an_e_step_on_the_state_of_an_encoder_is_refused():
    """It would do nothing, and the M-step would follow an encoder that nobody trains."""
    x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    encoder = elbax.Amortized(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)), model.latent)
    params = model.init(jax.random.key(0), x)
    state = elbax.GradientEStep(model, optax.sgd(0.1)).init(params, encoder, key=jax.random.key(1))
    for run in (
        lambda: elbax.ExactEStep(model)(state.replace(memory=()), x),
        lambda: elbax.em(model)(state.replace(memory=((), ())), x),
        lambda: elbax.fit(elbax.em(model), state.replace(memory=((), ())), x),
    ):
        with pytest.raises(TypeError, match=r"an Amortized.* returns Exact\(model, params\)"):
            run()


def test_the_state_of_em_in_an_encoders_step_is_refused():
    x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    em = elbax.em(model)
    state = em.init(model.init(jax.random.key(0), x), key=jax.random.key(1))
    step = elbax.GradientEStep(model, optax.adam(0.1))
    with pytest.raises(
        TypeError, match="got an Exact posterior.*Then make a new state: update.init"
    ):
        step(state, x)


@pytest.mark.parametrize("family", [elbax.Categorical(3), elbax.DiagonalGaussian(2)])
def test_an_encoder_of_another_latent_is_refused_at_the_start(family):
    x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    encoder = elbax.Amortized(eqx.nn.MLP(2, 4, 4, 1, key=jax.random.key(0)), family)
    step = elbax.GradientEStep(model, optax.adam(0.1))
    with pytest.raises(TypeError, match=r"is over .*, but the latent of the model is Categorical"):
        step.init(model.init(jax.random.key(0), x), encoder, key=jax.random.key(1))


def test_a_bare_network_is_no_posterior():
    x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), x)
    network = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    step = elbax.GradientEStep(model, optax.adam(0.1))
    with pytest.raises(
        TypeError, match=r"use an encoder, elbax.Amortized\(network, model.latent\)"
    ):
        step.init(params, network, key=jax.random.key(1))
    with pytest.raises(TypeError, match=r"returned an array of shape \(2,\). For an encoder use"):
        elbax.elbo(model, params, elbax.Network(network), x)


def gradient_steps():
    adam, encoders = optax.adam(0.1), elbax.GradientEStep(MODEL, optax.adam(0.1))
    sleep = elbax.SleepEStep(MODEL, adam, lambda params, key: (jnp.zeros(2), 0))
    variational = elbax.Chain(encoders, elbax.ClosedFormMStep(MODEL))
    return {
        "gradient E": encoders,
        "gradient M": elbax.GradientMStep(MODEL, adam),
        "joint": elbax.JointGradientStep(MODEL, adam),
        "local": elbax.LocalGradientEStep(MODEL, adam),
        "sleep": sleep,
        "variational": variational,
        "wrapped": elbax.wrappers.Guard(elbax.wrappers.Every(variational, 2)),
        "annealed": elbax.wrappers.Anneal(variational, lambda step: 0.5),
    }


def other_steps():
    return {
        "em": EM,
        "online": elbax.Chain(elbax.ExactEStep(MODEL), elbax.OnlineMStep(MODEL, 0.1)),
        "incremental": elbax.IncrementalMStep(MODEL, 2),
        "mean field": elbax.Chain(elbax.MeanFieldEStep(MODEL), elbax.ClosedFormMStep(MODEL)),
        "averaged": elbax.wrappers.Averaged(EM),
        "accelerated": elbax.wrappers.Accelerate(EM),
        "certified": elbax.wrappers.Certify(EM, MODEL),
    }


@pytest.mark.parametrize("name", [*gradient_steps(), *other_steps()])
def test_the_state_of_any_other_update(as_users_run, name):
    """It does no harm, or is refused in words of ours, said once, with what to do; never in those of optax."""
    update = (gradient_steps() | other_steps())[name]
    network = elbax.Network(lambda w, x: w @ x, jnp.zeros((2, 2)))
    encoder = elbax.Amortized(network, MODEL.latent)
    table = elbax.posteriors.Local(jnp.zeros((40, 2)), MODEL.latent)
    adam = elbax.GradientMStep(MODEL, optax.adam(0.1))
    for other, posterior in (
        (EM, None),
        (adam, elbax.Exact(MODEL, PARAMS)),
        (adam, encoder),
        (elbax.GradientEStep(MODEL, optax.sgd(0.1)), encoder),
        (elbax.LocalGradientEStep(MODEL, optax.adam(0.1)), table),
        (elbax.wrappers.Averaged(EM), None),
    ):
        state = other.init(PARAMS, posterior, key=jax.random.key(0))
        try:
            moved, _ = jax.eval_shape(lambda state: update(state, X), state)
        except TypeError as error:
            words = str(error)
            assert re.search(r"update\.init\(|, to init", words), words
            assert not re.search(r"\b(\w+): \1:", words), words
        else:
            assert jax.tree.structure(moved) == jax.tree.structure(state)


class Around(elbax.AbstractUpdate):
    """A user's wrapper that makes no memory for the update inside."""

    update: elbax.AbstractUpdate
    ascends = False

    def __call__(self, state, batch):
        return self.update(state, batch)


@pytest.mark.parametrize("around", [lambda own: own, lambda own: elbax.Chain(own, own)])
@pytest.mark.parametrize(
    "inside", [EM, elbax.GradientMStep(MODEL, optax.adam(0.1)), elbax.wrappers.Guard(EM)]
)
def test_an_update_around_another_without_its_memory(as_users_run, inside, around):
    update = around(Around(inside))
    with pytest.raises(
        TypeError, match="^Around.*: it calls an update.*AbstractWrapper, or .*init_memory"
    ):
        update(start(update=update), X)


class Remembered(eqx.Module):
    update: tuple
    count: jax.Array


class Forgets(elbax.wrappers.AbstractRemembering):
    """A user's wrapper that leaves the inner update's memory in place of its own."""

    update: elbax.AbstractUpdate

    def init_memory(self, params, posterior):
        return Remembered(self.update.init_memory(params, posterior), jnp.zeros((), int))

    def __call__(self, state, batch):
        return self.update(self.inside(state), batch)


@pytest.mark.parametrize("around", [lambda own: own, elbax.Chain, elbax.wrappers.Guard])
def test_a_memory_that_is_not_put_back(as_users_run, around):
    update = around(Forgets(EM))
    state = start(update=update)
    for run in (
        lambda: update(state, X),
        lambda: jax.lax.scan(lambda s, _: update(s, X), state, length=2),
        lambda: elbax.fit(update, state, X),
    ):
        with pytest.raises(
            TypeError,
            match=r"^Forgets.*: .* returned a tuple .*expected a Remembered.*replace\(memory=",
        ):
            run()


def test_a_step_returns_a_pair(as_users_run):
    class Alone(elbax.AbstractUpdate):
        ascends = False

        def __call__(self, state, batch):
            return state

    with pytest.raises(
        TypeError, match=r"^Alone: its step must return \(state, info\), got an ELBO"
    ):
        Alone()(start(update=Alone()), X)


def test_a_scan_without_data(as_users_run):
    with pytest.raises(
        ValueError, match=r"got None.*close over .*jax.lax.scan\(lambda state, _: update"
    ):
        jax.lax.scan(EM, start(), None, length=3)
