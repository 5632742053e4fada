"""Components that have emptied or collapsed begin again where the data are worst explained."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import elbax


def data(num_data=90):
    """Three clusters."""
    rng = np.random.default_rng(0)
    center = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 12.0]])
    return jnp.asarray(center[np.arange(num_data) % 3] + rng.normal(size=(num_data, 2)))


X = data()


def described(weights=(0.5, 0.3, 0.2), third=(20.0, 20.0), scale=1.0):
    return {
        "weights": np.asarray(weights),
        "means": np.array([[0.0, 0.0], [10.0, 0.0], third]),
        "covariances": np.stack([np.eye(2), 1.5 * np.eye(2), scale * np.eye(2)]),
    }


EMPTIED = described((0.5, 0.5 - 1e-9, 1e-9))
COLLAPSED = described(scale=1e-9, third=(0.1, 0.1))
WELL = described(third=(0.0, 12.0))


def model_of(covariance="full"):
    return elbax.GaussianMixture(3, covariance, floor=1e-6)


def chain(model):
    return elbax.Chain(
        elbax.ExactEStep(model), elbax.ClosedFormMStep(model), elbax.ReseedStep(model)
    )


def reseed(model, params, batch, **arguments):
    step = elbax.ReseedStep(model, **arguments)
    state = step.init(params, elbax.Exact(model, params), key=jax.random.key(0))
    return jax.jit(lambda state, batch: step(state, batch)[0].params)(state, batch)


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("diagonal", "spherical")]


@pytest.mark.parametrize("covariance", ["full", "tied", *SLOW])
@pytest.mark.parametrize("given", [EMPTIED, COLLAPSED], ids=["emptied", "collapsed"])
def test_it_moves_to_the_worst_explained(covariance, given):
    """To the mean of the sixth of the rows of lowest evidence, by SciPy; the others stay to the bit."""
    if given is COLLAPSED and covariance == "tied":
        return  # One covariance for all does not collapse alone.
    model = model_of(covariance)
    params = model.from_description(**given)
    end = reseed(model, params, X)
    assert finite(end)
    worst = np.argsort(
        oracles.log_sum(oracles.gaussian_mixture_log_joint(model.describe(params), X))
    )
    expected = np.asarray(X)[worst[:15]].mean(0)
    np.testing.assert_allclose(end["components"]["mean"][2], expected, rtol=1e-9)
    for name in ("mean", "scale"):
        leaf = end["components"][name]
        shared = name == "scale" and covariance == "tied"
        stays = slice(None) if shared else slice(2)
        np.testing.assert_array_equal(leaf[stays], params["components"][name][stays])
    old, new = (np.asarray(model.describe(p)["weights"]) for p in (params, end))
    np.testing.assert_allclose(new[2], 1 / 3, rtol=1e-9)
    np.testing.assert_allclose(new[0] / new[1], old[0] / old[1], rtol=1e-9)


def test_what_all_components_share_stays():
    """A tied covariance of 2 columns has 3 numbers, as many as there are components here."""
    model = model_of("tied")
    params = model.from_description(**EMPTIED)
    assert params["components"]["scale"].shape == (3,)
    end = reseed(model, params, X)
    np.testing.assert_array_equal(end["components"]["scale"], params["components"]["scale"])


def test_share():
    """A tenth of the rows, if told so."""
    model = model_of()
    params = model.from_description(**EMPTIED)
    end = reseed(model, params, X, share=0.1)
    worst = np.argsort(
        oracles.log_sum(oracles.gaussian_mixture_log_joint(model.describe(params), X))
    )
    np.testing.assert_allclose(
        end["components"]["mean"][2], np.asarray(X)[worst[:9]].mean(0), rtol=1e-9
    )


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_nothing_happens_otherwise(covariance):
    """To the bit: a chain with it is the chain without."""
    model = model_of(covariance)
    params = model.from_description(**WELL)
    for new, old in zip(*map(jax.tree.leaves, (reseed(model, params, X), params)), strict=True):
        np.testing.assert_array_equal(new, old)


def test_two_are_gone():
    """Each takes a lot of its own, the worse the first."""
    model = model_of()
    given = described((1 - 2e-9, 1e-9, 1e-9), third=(30.0, 30.0))
    params = model.from_description(**given)
    end = reseed(model, params, X)
    worst = np.argsort(oracles.log_sum(oracles.gaussian_mixture_log_joint(given, X)))
    for k, lot in ((1, worst[:15]), (2, worst[15:30])):
        np.testing.assert_allclose(
            end["components"]["mean"][k], np.asarray(X)[lot].mean(0), rtol=1e-9
        )
    np.testing.assert_allclose(model.describe(end)["weights"], 1 / 3, rtol=1e-6)


@pytest.mark.slow
def test_em_goes_on_from_there():
    """In a scan, and under vmap beside a lane that needs none: three clusters are found, never NaN."""
    model = model_of()
    em = chain(model)
    starts = [model.from_description(**given) for given in (EMPTIED, COLLAPSED, WELL)]
    states = [em.init(p, key=jax.random.key(0)) for p in starts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def run(state):
        return jax.lax.scan(lambda s, _: em(s, X), state, length=60)

    ends, infos = jax.jit(jax.vmap(run))(stacked)
    assert finite(ends.params)
    assert finite(infos.elbo)
    _, info = jax.jit(run)(states[0])
    np.testing.assert_allclose(infos.elbo[0], info.elbo, rtol=1e-9)
    centers = np.array([[0.0, 0.0], [0.0, 12.0], [10.0, 0.0]])
    for lane in range(3):
        means = np.asarray(ends.params["components"]["mean"][lane])
        means = means[np.lexsort((means[:, 1].round(), means[:, 0].round()))]
        np.testing.assert_allclose(means, centers, atol=1.0)
    assert not em.ascends
    plain = elbax.em(model)
    well, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: plain(s, X), s, length=60))(
        plain.init(starts[2], elbax.Exact(model, starts[2]), key=jax.random.key(0))
    )
    for new, old in zip(*map(jax.tree.leaves, (ends.params, well.params)), strict=True):
        np.testing.assert_allclose(new[2], old, rtol=1e-9, atol=1e-12)


def test_a_component_that_is_not_finite_is_gone_too():
    """NaN in one component makes all evidence NaN; it begins anew all the same."""
    model = model_of()
    params = model.from_description(**WELL)
    scale = params["components"]["scale"].at[2].set(jnp.nan)
    broken = params | {"components": params["components"] | {"scale": scale}}
    step = elbax.ReseedStep(model)
    state = step.init(params, elbax.Exact(model, params), key=jax.random.key(0))
    end = step(state.replace(params=broken), X)[0].params
    assert finite(end)
    for name in ("mean", "scale"):
        np.testing.assert_array_equal(end["components"][name][:2], params["components"][name][:2])


def test_rows_that_do_not_count_are_not_taken():
    """Padding is never the worst explained, whatever it holds, nor does it count in the share."""
    model = model_of()
    params = model.from_description(**EMPTIED)
    padded = jnp.concatenate([X, jnp.full((90, 2), jnp.nan)])
    batch = elbax.Batch(padded, mask=jnp.arange(180) < 90)
    end = reseed(model, params, batch)
    assert finite(end)
    worst = np.argsort(oracles.log_sum(oracles.gaussian_mixture_log_joint(EMPTIED, X)))
    np.testing.assert_allclose(
        end["components"]["mean"][2], np.asarray(X)[worst[:15]].mean(0), rtol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poisson", "student", "incomplete", "float32"])
def test_other_components_and_batches(name):
    """Counts, t distributions, missing columns, float32: finite, and the component has data again."""
    if name == "poisson":
        rng = np.random.default_rng(1)
        x = jnp.asarray(rng.poisson([[1.0], [9.0]] * 30), float)
        model = elbax.Mixture(elbax.components.Poisson(), 2)
        params = model.from_description(weights=[1 - 1e-9, 1e-9], rates=[[1.0], [500.0]])
    elif name == "student":
        x, model = X, elbax.Mixture(elbax.components.StudentT(), 3)
        given = {"means": EMPTIED["means"], "scales": EMPTIED["covariances"]}
        params = model.from_description(weights=EMPTIED["weights"], dofs=[5.0] * 3, **given)
    else:
        model = model_of()
        params, x = model.from_description(**EMPTIED), X
        if name == "incomplete":
            holes = np.array(X)
            holes[::7, 0] = np.nan
            x = elbax.incomplete(holes)
        else:
            params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, X))
    step = chain(model)
    end = reseed(model, params, x)
    assert finite(end)
    state = step.init(end, elbax.Exact(model, end), key=jax.random.key(0))
    state, _ = jax.jit(step)(state, x)
    assert finite(state.params)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state.params)}
    assert dtypes == {jnp.dtype("float32" if name == "float32" else "float64")}
    assert float(model.describe(state.params)["weights"].min()) > 0.02


def test_errors(as_users_run):
    model = elbax.FactorAnalysis(1)
    params = model.init(jax.random.key(0), X)
    with pytest.raises(
        TypeError, match="ReseedStep: FactorAnalysis has no components to restart. Use a Mixture"
    ):
        step = elbax.ReseedStep(model)
        step.init(params, elbax.Exact(model, params), key=jax.random.key(0))


def test_a_model_without_components_inside_of_anneal(as_users_run):
    model = elbax.FactorAnalysis(1)
    params = model.init(jax.random.key(0), elbax.datasets.old_faithful())
    update = elbax.Chain(elbax.ExactEStep(model), elbax.ReseedStep(model))
    with pytest.raises(TypeError, match="ReseedStep: FactorAnalysis has no components"):
        elbax.wrappers.Anneal(update, lambda step: 1.0).init(params, key=jax.random.key(1))
