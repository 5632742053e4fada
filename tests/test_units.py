"""Floors are relative to the scale of the data, which params hold beside what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import regression, table

import elbax


components = elbax.components
X = table(dim=2)


def models():
    """One of each component that has a floor, with its data."""
    yield elbax.GaussianMixture(2), X
    yield elbax.Mixture(components.StudentT(), 2), X
    yield elbax.Mixture(components.FactorAnalyzer(1), 2), X
    yield elbax.Mixture(components.LinearRegression(), 2), regression()
    yield elbax.Mixture(components.GeneralizedLinear("normal"), 2), regression()
    yield elbax.FactorAnalysis(1), X


MODELS = list(models())
NAMES = [type(getattr(model, "component", model)).__name__ for model, _ in MODELS]


def block(params):
    return params.get("components", params)


def without(params, name="unit"):
    if "components" in params:
        return params | {"components": without(params["components"], name)}
    return {key: leaf for key, leaf in params.items() if key != name}


@pytest.mark.parametrize("model, x", MODELS, ids=NAMES)
def test_the_unit_is_the_datas(as_users_run, model, x):
    """Weights counted, and what is missing left out; nothing of it counts as a param."""
    params = model.init(jax.random.key(0), x)
    values = x[1] if isinstance(x, tuple) else x
    unit = block(params)["unit"]
    assert isinstance(unit, elbax.Reference)
    np.testing.assert_allclose(unit.value, np.std(values, 0), rtol=1e-6)
    number = model.num_free_params(params)
    assert model.num_free_params(without(params)) == number
    slope = jax.grad(model.log_prior)(params)
    np.testing.assert_array_equal(block(slope)["unit"].value, 0)
    weighted = model.init(jax.random.key(0), elbax.Batch(x, mask=jnp.arange(24) < 10))
    np.testing.assert_allclose(block(weighted)["unit"].value, np.std(values[:10], 0), rtol=1e-6)


@pytest.mark.parametrize("model, x", MODELS, ids=NAMES)
def test_params_without_a_unit(as_users_run, model, x):
    """Densities need none; a floor says what it lacks; off, it lacks nothing."""
    params = without(model.init(jax.random.key(0), x))
    assert np.isfinite(float(elbax.evidence(model, params, x)))
    with pytest.raises(ValueError, match="floor=1e-06 is relative to the data.s scale.*Reference"):
        model.log_prior(params)
    by_hand = elbax.Reference(jnp.ones(()) if isinstance(x, tuple) else jnp.ones(2))
    there = params | {"unit": by_hand}
    if "components" in params:
        there = params | {"components": params["components"] | {"unit": by_hand}}
    assert float(model.log_prior(there)) < 0


def test_a_model_without_a_floor_has_no_unit():
    """And keeps one that it is given."""
    model = elbax.GaussianMixture(2, floor=0.0)
    params = model.init(jax.random.key(0), X)
    assert "unit" not in params["components"]
    given = elbax.GaussianMixture(2).init(jax.random.key(0), X)
    em = elbax.em(model)
    state = em.init(given, key=jax.random.key(1))
    end, _ = jax.lax.scan(lambda state, _: em(state, X), state, length=2)
    np.testing.assert_array_equal(
        end.params["components"]["unit"].value, given["components"]["unit"].value
    )


def test_the_unit_of_a_description():
    """Given, or that of what is described: its round trip changes with the units as the data do."""
    model = elbax.GaussianMixture(2)
    described = {"weights": [0.5, 0.5], "means": [[0.0, 1.0], [2.0, 1.0]]}
    described["covariances"] = np.broadcast_to(np.diag([3.0, 4.0]), (2, 2, 2))
    params = model.from_description(**described)
    np.testing.assert_allclose(params["components"]["unit"].value, [2.0, 2.0], rtol=1e-12)
    params = model.from_description(**described, unit=[5.0, 7.0])
    np.testing.assert_allclose(params["components"]["unit"].value, [5.0, 7.0], rtol=1e-12)
    for bad in ([1.0, 2.0, 3.0], [1.0, 0.0], [1.0, np.nan], -1.0):
        with pytest.raises(ValueError, match=r"positive numbers of shape \(2,\); got"):
            model.from_description(**described, unit=bad)


def test_masks_and_flags_may_leave_the_unit_out(as_users_run):
    """`free` names blocks that may move."""
    model = elbax.GaussianMixture(2)
    params = model.init(jax.random.key(0), X)
    for free in (
        {"logits": True, "components": {"mean": True, "scale": False}},
        {"logits": True, "components": {"mean": True, "scale": False, "unit": True}},
    ):
        step = elbax.ClosedFormMStep(model, free=free)
        state = step.init(params, elbax.Exact(model, params), key=jax.random.key(0))
        state, _ = step(state, X)
        for name in ("scale", "unit"):
            ours, theirs = (jax.tree.leaves(p["components"][name]) for p in (state.params, params))
            np.testing.assert_array_equal(ours[0], theirs[0])


def test_a_state_spaces_units():
    """For R those of the columns, for the states' noise those that `init` gives the states."""
    x = jnp.asarray([100.0, 1.0]) * table(48).reshape(4, 12, 2)
    model = elbax.LinearGaussianStateSpace(1, offsets=True)
    params = model.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        params["emission"]["unit"].value, np.std(x.reshape(-1, 2), 0), rtol=1e-6
    )
    np.testing.assert_array_equal(params["transition"]["unit"].value, [1.0])
    told = model.describe(params) | {"transition_covariance": [[4.0]]}
    again = model.from_description(**told)
    np.testing.assert_allclose(again["transition"]["unit"].value, [2.0], rtol=1e-12)
    assert model.num_free_params(params) == model.num_free_params(again) == 2 + 3 + 6 - 2
