"""The loop: how it ends, what it says, what it hands back; updates refuse what they cannot serve."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import find, gaussian_mixture
from laws import assert_close, count_compilations, points

import elbax


CASE = find("mixture-full-auto:exact/closed")
X = CASE.system.x
MODEL = CASE.system.model


class Scripted(elbax.AbstractUpdate):
    """Reports the ELBOs of a script, one a step; the params count the steps."""

    script: jax.Array
    promises: bool = eqx.field(static=True, default=True)

    @property
    def ascends(self):
        return self.promises

    def __call__(self, state, batch):
        elbo = self.script[jnp.minimum(state.params, len(self.script) - 1)]
        return state.replace(params=state.params + 1), elbax.Info(elbo)


def scripted(*values, promises=True):
    update = Scripted(jnp.array(values, float), promises)
    return update, update.init(jnp.array(0), (), key=jax.random.key(0))


def test_converged():
    result = elbax.fit(CASE.update, CASE.state, X)
    assert result.code == "converged"
    assert result.converged
    assert result.model == MODEL
    assert result.message.startswith("Converged after")
    assert str(result) == f"{result.message} ELBO {float(result.elbo):.6f} nats per datum."
    assert len(result.trace) == result.num_steps
    assert bool(jnp.all(jnp.diff(result.trace) > -1e-12))
    bound = elbax.elbo(MODEL, result.state.params, result.state.posterior, X)
    np.testing.assert_allclose(result.elbo, bound, rtol=1e-12)
    assert_close(result.state.posterior.params, result.state.params)


def test_max_steps_equals_the_users_own_scan():
    result = elbax.fit(CASE.update, CASE.state, X, max_steps=3, tolerance=0.0)
    assert (result.code, result.num_steps) == ("max_steps", 3)
    assert "maximum allowed" in result.message
    state, _ = jax.lax.scan(lambda s, _: CASE.update(s, X), CASE.state, length=3)
    state = CASE.update.settle(state, X)  # The line of the documentation.
    assert_close(points(result.state), points(state), 1e-9)


def test_a_second_fit_compiles_nothing():
    first = elbax.fit(CASE.update, CASE.state, X, max_steps=60)
    again = gaussian_mixture("full").model
    em = elbax.em(again)
    other = CASE.state.replace(key=jax.random.key(3))
    bent = X + 0.1 * X**2
    with count_compilations() as compiled:
        second = elbax.fit(em, other, bent, max_steps=60)
    assert not compiled
    assert first.num_steps != second.num_steps


def test_slow_gains_are_no_convergence():
    """Gains of 1e-9 that shrink by a thousandth a step still have 1e-6 to come."""
    steps = np.arange(50)
    crawling = -(1e-6) * 0.999**steps
    assert elbax.fit(*scripted(*crawling), X, max_steps=50, tolerance=1e-8).code == "max_steps"
    quick = -(1e-6) * 0.1**steps
    assert elbax.fit(*scripted(*quick), X, max_steps=50, tolerance=1e-8).code == "converged"


def test_a_fall_is_no_convergence():
    result = elbax.fit(*scripted(-3.0, -2.0, -2.5, -2.0), X)
    assert (result.code, result.num_steps) == ("decreased", 3)
    assert "Step 2 of Scripted lowered the ELBO by 0.5" in result.message
    assert int(result.state.params) == 1  # Where the ELBO was highest.


def test_a_fall_that_rounding_explains_is_said_to_be_one():
    with jax.enable_x64(False):
        result = elbax.fit(*scripted(-3.0, -2.0, -2.0001, -2.0), jnp.asarray(X, jnp.float32))
        assert result.code == "decreased"
        assert "which is rounding: float32 has too little precision" in result.message
        assert "wrong M-step" in elbax.fit(*scripted(-3.0, -2.0, -2.01), X).message


def test_a_fall_is_allowed_without_the_promise():
    result = elbax.fit(*scripted(-3.0, -2.0, -2.5, -2.0, promises=False), X, max_steps=30)
    assert result.code == "converged"
    assert float(result.elbo) == -2.0


def test_nonfinite():
    result = elbax.fit(*scripted(-3.0, -2.0, np.nan), X)
    assert (result.code, result.num_steps) == ("nonfinite", 3)
    assert "Scripted measured at step 2 is not finite" in result.message
    assert int(result.state.params) == 1


def test_nonfinite_names_the_part():
    update, _ = scripted(-1.0, np.inf)
    plain = elbax.Model(lambda params, x, z: jnp.zeros(()), elbax.Categorical(2))
    chain = elbax.Chain(elbax.ExactEStep(plain), update)
    state = chain.init(jnp.array(0), elbax.Exact(plain, jnp.array(0)), key=jax.random.key(0))
    result = elbax.fit(chain, state, X)
    assert result.message.startswith("The ELBO that Scripted measured")


def test_a_move_that_no_step_measured_is_taken_back():
    result = elbax.fit(*scripted(-3.0, np.nan), X, max_steps=1)
    assert result.code == "nonfinite"
    assert float(result.elbo) == -3.0


def test_stream():
    halves = [elbax.Batch(X[:12], weight=2), elbax.Batch(X[12:], weight=2)]
    step = find("mixture-full-auto:exact/gradient")
    result = elbax.fit(step.update, step.state, iter(halves * 3))
    assert (result.code, result.num_steps) == ("max_steps", 6)
    assert result.message == "The batches ended after 6 steps; the ELBO may still rise."
    with pytest.raises(ValueError, match="the iterator of batches was empty"):
        elbax.fit(step.update, step.state, iter([]))


def test_a_prior_beside_batches_without_their_weight():
    """Two halves of the data count the prior twice, which only the message of a stream can say."""
    x = jnp.arange(24.0)[:, None] % 7
    halves = [x[:12], x[12:]]
    weighed = [elbax.Batch(half, weight=2) for half in halves]

    def message(component, batches):
        model = elbax.Mixture(component, 2)
        em = elbax.em(model)
        state = em.init(model.init(jax.random.key(0), x), key=jax.random.key(0))
        return elbax.fit(em, state, iter(batches)).message

    hint, prior = "pass elbax.Batch(x, weight=N / B)", elbax.priors.Gamma(2.0, 1.0)
    assert hint in message(elbax.components.Poisson(prior=prior), halves)
    assert hint not in message(elbax.components.Poisson(prior=prior), weighed)
    # The floor of variances is a prior that counts for nothing.
    assert hint not in message(elbax.components.Normal("full"), halves)


def test_a_step_takes_tables():
    rows = np.asarray(X).tolist()
    (ours, told), (theirs, expected) = CASE.update(CASE.state, rows), CASE.update(CASE.state, X)
    assert_close(ours.params, theirs.params)
    assert_close(told.elbo, expected.elbo)


def test_progress(capsys):
    result = elbax.fit(CASE.update, CASE.state, X, max_steps=20, progress=True)
    plain = elbax.fit(CASE.update, CASE.state, X, max_steps=20)
    assert "ELBO" in capsys.readouterr().err
    assert_close(result.state.params, plain.state.params)


def test_restarts():
    x = elbax.datasets.old_faithful()
    model = elbax.GaussianMixture(2)
    em = elbax.em(model)

    def start(key):
        params = model.init(key, x)
        return em.init(params, key=key)

    keys = jax.random.split(jax.random.key(0), 3)
    restarts = elbax.fit_restarts(em, jax.vmap(start)(keys), x, reject=model.collapsed)
    assert restarts.codes == ("converged",) * 3
    single = [elbax.fit(em, start(key), x) for key in keys]
    assert_close(restarts.elbo, jnp.stack([result.elbo for result in single]), 1e-9)
    assert restarts.num_steps.tolist() == [result.num_steps for result in single]
    for trace, result in zip(restarts.traces, single, strict=True):
        assert_close(trace[: result.num_steps], result.trace, 1e-9)
        assert np.isnan(trace[result.num_steps :]).all()
    assert float(restarts.best.elbo) == pytest.approx(max(float(r.elbo) for r in single), rel=1e-9)
    with pytest.raises(RuntimeError, match="3 were rejected"):
        elbax.fit_restarts(em, jax.vmap(start)(keys), x, reject=lambda params: jnp.array(True))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X.at[3, 1].set(jnp.nan), "fit: row 3, column 1 is nan"),
        (X[:0], "the batch is empty"),
        (elbax.Batch(X, weight=jnp.zeros(len(X))), "every row has weight 0 or is masked"),
        ({"a": X, "b": X[:3]}, "share one leading axis"),
    ],
)
def test_data_errors(batch, message):
    with pytest.raises(ValueError, match=message):
        elbax.fit(CASE.update, CASE.state, batch)


def test_bad_arguments(as_users_run):
    with pytest.raises(TypeError, match="expected an update"):
        elbax.fit(MODEL, CASE.state, X)
    with pytest.raises(TypeError, match="the state that update.init"):
        elbax.fit(CASE.update, CASE.system.params, X)
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        elbax.fit(CASE.update, CASE.state, X, max_steps=0)
    with pytest.raises(TypeError, match="ExactEStep does not measure the ELBO"):
        elbax.fit(elbax.ExactEStep(MODEL), CASE.state, X)
    with pytest.raises(TypeError, match="argument 1 must be an update"):
        elbax.Chain(elbax.ExactEStep(MODEL), "M")
    with pytest.raises(TypeError, match="at least one update"):
        elbax.Chain()
    with pytest.raises(TypeError, match="no field \\['theta'\\]"):
        CASE.state.replace(theta=1)


def test_bayes_rule_is_read_only():
    for step in (elbax.GradientEStep, elbax.JointGradientStep):
        update = step(MODEL, optax.adam(1e-2))
        with pytest.raises(TypeError, match="Bayes' rule at a snapshot .*Amortized"):
            update.init(CASE.system.params, CASE.posterior, key=jax.random.key(0))


def test_the_posterior_is_of_the_same_model():
    other = gaussian_mixture("tied")
    with pytest.raises(TypeError, match="an Exact of another model or other params"):
        posterior = elbax.Exact(other.model, other.params)
        CASE.update.init(CASE.system.params, posterior, key=jax.random.key(0))


def test_an_encoder_is_no_carry_of_an_exact_e_step():
    encoder = find("mixture-full-auto:joint").posterior
    with pytest.raises(TypeError, match="ExactEStep: the posterior is an Amortized"):
        CASE.update.init(CASE.system.params, encoder, key=jax.random.key(0))


def test_a_state_carries_arrays_only():
    case = find("plain-categorical:exact/gradient")
    em, system = case.update, case.system
    for leaf, hint in ((jax.nn.relu, "elbax.Network"), (0.5, "jnp.asarray")):
        params = system.params | {"more": {"deep": [leaf]}}
        with pytest.raises(TypeError, match=r"params\['more'\]\['deep'\]\[0\] is a .*" + hint):
            em.init(params, key=jax.random.key(0))


def test_weak_types_and_numpy_are_taken_in():
    case = find("plain-categorical:exact/gradient")
    em, system = case.update, case.system
    params = {"logits": np.zeros(3), "mean": system.params["mean"]}
    state = em.init(params, key=jax.random.key(0))
    jax.lax.scan(lambda s, _: em(s, system.x), state, length=2)


def test_chunk_size_is_positive():
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        elbax.evidence(MODEL, CASE.system.params, X, chunk_size=0)


def test_a_part_that_acts_now_and_then_is_waited_for():
    """One M-step in six is all that gains: the chain waits for its turn."""
    e_step, m_step = CASE.update.updates
    rare = elbax.Chain(e_step, elbax.wrappers.Every(m_step, 6))
    assert rare.patience == 6
    state = rare.init(CASE.system.params, CASE.posterior, key=jax.random.key(7))
    result = elbax.fit(rare, state, X)
    best = elbax.fit(CASE.update, CASE.state, X)
    np.testing.assert_allclose(result.elbo, best.elbo, rtol=1e-6)


def test_nothing_is_taken_for_a_failure_under_debug_nans():
    """No number that is not known yet is NaN: not in the trace, nor on a turn of `Every` that does nothing."""
    update = elbax.wrappers.Guard(elbax.wrappers.Every(CASE.update, 2, offset=1))
    with jax.debug_nans(True):
        state = update.init(CASE.system.params, CASE.posterior, key=jax.random.key(0))
        result = elbax.fit(update, state, X, max_steps=4)
    assert np.all(np.isfinite(result.trace))


def test_the_evidence_is_reported_beside_the_bound_of_an_encoder():
    """An encoder that is far from Bayes' rule shows in the result; under Bayes' rule there is nothing to add."""
    x, model = elbax.datasets.old_faithful(), elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), x)
    encoder = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.zeros(2)), model.latent)
    update = elbax.GradientEStep(model, optax.sgd(0.1))
    result = elbax.fit(update, update.init(params, encoder, key=jax.random.key(1)), x, max_steps=3)
    expected = elbax.evidence(model, params, x)
    np.testing.assert_allclose(result.evidence, expected, rtol=1e-12)
    assert result.evidence - result.elbo > 0.1
    assert f"evidence {float(expected):.6f} nats" in str(result)
    exact = elbax.fit(elbax.em(model), x, key=jax.random.key(0), restarts=1, max_steps=2)
    assert exact.evidence is None and "evidence" not in str(exact)


def test_no_evidence_where_exact_inference_is_out_of_reach():
    """Mean field is for such grids; a fit of it ends with its bound."""
    grid = elbax.families.GridGraph(20, 20, 2, limit=2**10)

    class Ising(elbax.AbstractExponentialFamilyModel):
        latent: elbax.families.GridGraph = grid

        def potentials(self, natural, x):
            pairs = lambda *shape: jnp.broadcast_to(natural["pair"] * jnp.eye(2), (*shape, 2, 2))
            unary = jnp.stack([-x, x], -1)
            return {"unary": unary, "below": pairs(19, 20), "beside": pairs(20, 19)}, jnp.zeros(())

    x = jax.random.normal(jax.random.key(0), (2, 20, 20))
    model, params = Ising(), {"pair": jnp.array(0.3)}
    family = elbax.families.factored(grid)
    start = jax.vmap(lambda x: family.start(model.potentials(params, x)[0]))(x)
    posterior = elbax.posteriors.MeanField(start, family)
    update = elbax.MeanFieldEStep(model)
    state = update.init(params, posterior, key=jax.random.key(1))
    result = elbax.fit(update, state, x, max_steps=2)
    assert result.evidence is None and np.isfinite(result.elbo)


def test_far_from_bayes_rule_the_result_says_what_to_do(as_users_run):
    said = str(
        elbax.Result(
            (), jnp.array(-5.0), np.zeros(1), 1, "converged", "Converged.", jnp.array(-3.0)
        )
    )
    assert "far from Bayes' rule" in said and "standardize=x" in said
    near = str(
        elbax.Result(
            (), jnp.array(-3.1), np.zeros(1), 1, "converged", "Converged.", jnp.array(-3.0)
        )
    )
    assert "far" not in near
