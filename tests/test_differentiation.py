"""A sweep is a differentiable, shardable function like any other."""

import re

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from cases import find, gaussian_mixture
from laws import assert_close, on_two_devices

import elbax
from elbax._math.algebra import difference


@pytest.mark.slow
@pytest.mark.parametrize("form", ["difference", "expanded"])
def test_the_jacobian_of_a_sweep(form):
    """Forward, reverse and finite differences agree: nothing is cut from the graph."""
    system = gaussian_mixture("full", form)
    em = elbax.em(system.model)
    flat, restore = jax.flatten_util.ravel_pytree(system.params)

    @jax.jit
    def sweep(flat):
        params = restore(flat)
        state = em.init(params, key=jax.random.key(0))
        return jax.flatten_util.ravel_pytree(em(state, system.x)[0].params)[0]

    forward = jax.jit(jax.jacfwd(sweep))(flat)
    step = 1e-6
    for i in (0, 4, len(flat) - 1):
        nudge = jnp.zeros_like(flat).at[i].set(step)
        difference = (sweep(flat + nudge) - sweep(flat - nudge)) / (2 * step)
        np.testing.assert_allclose(forward[:, i], difference, rtol=1e-4, atol=1e-6)
    weight = jnp.linspace(-1, 1, len(flat))
    reverse = jax.jit(jax.grad(lambda flat: weight @ sweep(flat)))(flat)
    np.testing.assert_allclose(reverse, weight @ forward, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_the_rate_of_em_is_the_spectral_radius():
    """At the fixed point of EM the error shrinks by the largest eigenvalue of the sweep's Jacobian."""
    x = elbax.datasets.old_faithful()[:, 1:]
    model = elbax.GaussianMixture(2, floor=0.0, form="difference")
    em = elbax.em(model)
    params = model.init(jax.random.key(0), x)
    state = em.init(params, key=jax.random.key(0))

    def sweep(flat):
        theta = restore(flat)
        return jax.flatten_util.ravel_pytree(em(state.replace(params=theta), x)[0].params)[0]

    _, restore = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def iterates(state):
        def step(state, _):
            state, _ = em(state, x)
            return state, jax.flatten_util.ravel_pytree(state.params)[0]

        return jax.lax.scan(step, state, length=400)[1]

    path = iterates(state)
    radius = float(jnp.abs(jnp.linalg.eigvals(jax.jacfwd(sweep)(path[-1]))).max())
    error = jnp.linalg.norm(path - path[-1], axis=1)
    observed = float((error[60] / error[20]) ** (1 / 40))
    assert observed == pytest.approx(radius, rel=1e-2)


def test_a_search_has_derivatives_forward_alone():
    case = find("mixture-full-auto:exact/numerical")
    # Made here: what a registry makes inside of a trace, it would keep.
    state, x = case.state, case.system.x

    def moved(scale):
        params = jax.tree.map(lambda leaf: scale * leaf, state.params)
        return case.update(state.replace(params=params), x)[0].params["logits"][0]

    with pytest.raises(TypeError, match="NumericalMStep: reverse-mode .* is not supported"):
        jax.make_jaxpr(jax.grad(moved))(1.0)
    assert jax.eval_shape(jax.jacfwd(moved), 1.0).shape == ()


COLLECTIVES = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


@pytest.mark.parametrize("axis_type", [jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto])
def test_sharded_data(axis_type):
    """A batch over two devices: the same step, whose devices meet once, to add up their statistics."""
    assert len(jax.devices()) == 2
    case = find("mixture-full-auto:exact/closed")
    x, state = on_two_devices(case.system.x, axis_type), case.state
    model = case.system.model
    single, seen = case.step(state, case.system.x)
    for chunk_size in (None, 8):
        em = elbax.Chain(
            elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size=chunk_size)
        )
        compiled = jax.jit(lambda s, x, em=em: em(s, x)).lower(state, x).compile()
        end, info = compiled(state, x)
        assert_close(info.elbo, seen.elbo, 1e-12)
        assert_close(end.params, single.params, 1e-9)
        # No device sees another's rows.
        assert set(COLLECTIVES.findall(compiled.as_text())) == {"all-reduce"}
        if chunk_size is None:
            assert COLLECTIVES.findall(compiled.as_text()) == ["all-reduce"]


def test_sharded_data_everywhere():
    """Whatever takes data takes them from several devices."""
    case = find("mixture-full-auto:exact/closed")
    model, params, state, update = case.system.model, case.system.params, case.state, case.update
    key = jax.random.key(0)

    def everything(x):
        exact = elbax.Exact(model, params)
        table = elbax.posteriors.MeanField.init(model, params, x)
        local = elbax.posteriors.Local(jnp.zeros((len(x), 3)), model.latent)
        padded = elbax.Batch(x, mask=jnp.arange(len(x)) > 2)
        return (
            model.init(key, x),
            model.init(key, x, init="hierarchical"),
            elbax.initial_states(update, x, key=key, num_restarts=3).params,
            elbax.evidence(model, params, x, chunk_size=5),
            elbax.elbo_terms(model, params, exact, padded),
            [elbax.elbo(model, params, q, x) for q in (table, local)],
            jax.jit(lambda x: jax.vmap(exact)(x).mean())(x),
            elbax.fit(update, state, x, max_steps=3).state.params,
            elbax.fit(update, state, iter([x, x])).state.params,
            update.settle(state, x).posterior,
            elbax.diagnostics.observed_information(model, params, x).observed,
        )

    assert_close(everything(on_two_devices(case.system.x)), everything(case.system.x), 1e-8)


def test_a_sharded_table_stays_sharded():
    """A posterior of each row's own lies where the rows are, after steps as before."""
    case = find("mixture-full-auto:local/closed")
    x, table = on_two_devices((case.system.x, case.posterior.table))
    posterior = elbax.posteriors.Local(table, case.posterior.family)
    state = case.update.init(case.system.params, posterior, key=jax.random.key(7))
    end, _ = jax.lax.scan(lambda state, _: case.update(state, x), state, length=2)
    assert jax.typeof(end.posterior.table) == jax.typeof(table)


def test_the_slope_of_a_difference_of_equal_values():
    """A change of coordinates to the point where they are has the slope of any other one."""
    slope = lambda value: jax.grad(difference)(jnp.array(value), jnp.array(value))
    assert slope(2.0) == 1
    assert slope(jnp.inf) == 0
