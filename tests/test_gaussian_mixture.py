"""The Gaussian mixture: against SciPy and published fits, and in float32 against float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import gaussian_mixture, sweeps
from hypothesis import given, settings, strategies as st
from laws import equations
from oracles import gaussian_mixture_log_joint, log_sum
from sklearn.datasets import load_iris

import elbax
from elbax._pass import expected_statistics
from elbax._reference import split_coordinates


pytestmark = pytest.mark.usefixtures("both_forms")


COVARIANCES = ["full", "tied", "diagonal", "spherical"]


def start(model, x, seed=0):
    params = model.init(jax.random.key(seed), x)
    em = elbax.em(model)
    return em, em.init(params, key=jax.random.key(1))


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)


@pytest.mark.parametrize("covariance", [*COVARIANCES, "tied_diagonal", "tied_spherical"])
@pytest.mark.parametrize("form", ["difference", "expanded"])
def test_evidence_is_scipys(covariance, form):
    system = gaussian_mixture(covariance, form)
    described = system.model.describe(system.params)
    theirs = log_sum(gaussian_mixture_log_joint(described, system.x)).mean()
    ours = elbax.evidence(system.model, system.params, system.x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@eqx.filter_jit
def bound_and_statistics(model, params, x):
    exact = elbax.Exact(model, params)
    return expected_statistics(model, params, exact, x, key=jax.random.key(0))[:2]


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(dim=st.integers(1, 7), num_components=st.integers(1, 4), seed=st.integers(0, 99))
def test_forms_agree(dim, num_components, seed):
    """Squares expanded about a center or taken as differences: one function, one set of statistics."""
    x = np.random.default_rng(seed).normal(size=(20, dim)) + 2
    models = [
        elbax.GaussianMixture(num_components, COVARIANCES[seed % 4], form=form)
        for form in ("difference", "expanded")
    ]
    params = models[0].init(jax.random.key(seed), x)
    results = [bound_and_statistics(model, params, x) for model in models]
    for ours, theirs in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_old_faithful():
    """mclust's VVV,2; mixtools' two normals for the waiting times."""
    x = elbax.datasets.old_faithful()
    assert x.shape == (272, 2)
    result = elbax.fit(*start(elbax.GaussianMixture(2, floor=0.0), x), x)
    assert result.code == "converged"
    assert float(result.elbo) * 272 == pytest.approx(-1130.264, abs=5e-4)

    model = elbax.GaussianMixture(2, floor=0.0)
    result = elbax.fit(*start(model, x[:, 1:]), x[:, 1:], tolerance=1e-12)
    described = model.describe(result.state.params)
    order = jnp.argsort(described["weights"])
    assert float(result.elbo) * 272 == pytest.approx(-1034.002, abs=5e-4)
    np.testing.assert_allclose(described["weights"][order], [0.36089, 0.63911], atol=5e-6)
    np.testing.assert_allclose(described["means"][order, 0], [54.615, 80.091], atol=5e-4)
    deviations = jnp.sqrt(described["covariances"][order, 0, 0])
    np.testing.assert_allclose(deviations, [5.871, 5.868], atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_components", "covariance", "value"), [(3, "tied", -1126.316), (2, "full", -1130.264)]
)
def test_old_faithful_best_of_restarts(num_components, covariance, value):
    x = elbax.datasets.old_faithful()
    model = elbax.GaussianMixture(num_components, covariance)
    keys = jax.random.split(jax.random.key(0), 16)
    states = jax.vmap(lambda key: start_state(model, x, key))(keys)
    em, _ = start(model, x)
    best = elbax.fit_restarts(em, states, x, reject=model.collapsed, tolerance=1e-9).best
    assert float(elbax.evidence(model, best.state.params, x)) * 272 >= value - 5e-4


def start_state(model, x, key):
    params = model.init(key, x)
    em = elbax.em(model)
    return em.init(params, key=key)


@pytest.mark.slow
def test_iris_from_the_k_means_start():
    x = jnp.asarray(load_iris().data)
    result = elbax.fit(*start(elbax.GaussianMixture(3, floor=0.0), x), x, tolerance=1e-10)
    assert float(result.elbo) * 150 == pytest.approx(-180.1858, abs=5e-4)


@pytest.mark.slow
def test_collapsed_restarts_are_flagged_not_returned():
    """Without a floor some random starts of Iris end in a component on a few points, higher and wrong."""
    x = jnp.asarray(load_iris().data)
    model = elbax.GaussianMixture(3, floor=0.0)
    em, _ = start(model, x)

    def random_start(key):
        params = model.init(key, x)
        rows = jax.random.choice(key, x, (3,), replace=False)
        params["components"]["mean"] = rows
        return em.init(params, key=key)

    states = jax.vmap(random_start)(jax.random.split(jax.random.key(3), 48))
    restarts = elbax.fit_restarts(em, states, x, reject=model.collapsed, max_steps=400)
    bad = restarts.rejected | (jnp.array([code == "nonfinite" for code in restarts.codes]))
    assert 0 < int(bad.sum()) < 24
    astray = [code == "nonfinite" for code in restarts.codes]
    np.testing.assert_array_equal(jnp.isnan(restarts.elbo), astray)
    assert float(restarts.best.elbo) * 150 == pytest.approx(-180.1858, abs=1e-2)
    assert not bool(jnp.any(model.collapsed(restarts.best.state.params)))


def hard_data(name, num_data=3000, dim=3):
    """Unit-spread clusters at an offset of 1e4, and clusters 1e3 standard deviations apart."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(num_data, dim))
    direction = rng.normal(size=(3, dim))[np.arange(num_data) % 3]
    x = 1e4 + 3 * direction + x if name == "offset" else 1000 * direction + x
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("name", [pytest.param("offset", marks=pytest.mark.slow), "apart"])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_float32_against_float64(name, covariance):
    """Evidence within 1e-4, means and covariances within 1e-3 relative, from the same start."""
    model = elbax.GaussianMixture(3, covariance)
    narrow = hard_data(name)
    wide = narrow.astype(jnp.float64)
    params = model.init(jax.random.key(0), wide)
    em, ends = elbax.em(model), {}
    for x in (narrow, wide):
        state = em.init(cast(params, x.dtype), key=jax.random.key(1))
        end, _ = sweeps(em, state, x, 8)
        ends[x.dtype] = (
            cast(model.describe(end.params), float),
            elbax.evidence(model, end.params, x),
            end.params["logits"].dtype,
        )
    (ours, evidence, kind), (truth, reference, _) = ends[narrow.dtype], ends[wide.dtype]
    assert kind == jnp.float32
    np.testing.assert_allclose(evidence, reference, rtol=1e-4)
    np.testing.assert_allclose(ours["means"], truth["means"], rtol=1e-3)
    scale = np.sqrt(np.diagonal(truth["covariances"], axis1=1, axis2=2))
    error = (ours["covariances"] - truth["covariances"]) / (scale[:, :, None] * scale[:, None, :])
    assert np.abs(error).max() < 1e-3


def clusters(name):
    """Ordinary data with a cluster that is far too narrow for the first sweep's units, as float64."""
    x = np.asarray(elbax.datasets.old_faithful(), float)
    noise = np.random.default_rng(0).normal(size=(40, 2))
    if name == "duplicates":
        return np.concatenate([x, np.tile([[10.0, 120.0]], (40, 1))])
    if name == "narrow":
        return np.concatenate([x, np.array([10.0, 120.0]) + 1e-3 * noise])
    return x[:1]


@pytest.mark.parametrize(
    "name",
    ["duplicates", *(pytest.param(n, marks=pytest.mark.slow) for n in ("narrow", "one row"))],
)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_float32_shrinks_as_far_as_it_sees(name, covariance):
    """A variance that falls below the rounding of its own squares at once: no NaN, no fall, EM's end."""
    x = clusters(name)
    model = elbax.GaussianMixture(3 if len(x) > 1 else 2, covariance)
    params = model.init(jax.random.key(0), x if len(x) > 1 else elbax.datasets.old_faithful())
    em = elbax.em(model)

    def run(dtype):
        state = em.init(cast(params, dtype), key=jax.random.key(0))
        return np.asarray(sweeps(em, state, cast(x, dtype), 150)[1].elbo, float)

    narrow, wide = run(np.float32), run(float)
    assert (np.diff(narrow) > -1e-5 * (1 + np.abs(narrow[:-1]))).all()
    np.testing.assert_allclose(narrow[-1], wide[-1], atol=2e-3)


def test_the_form_follows_the_data():
    """Clusters 1e3 sd apart are not expanded, clusters at a common offset are."""
    model = elbax.GaussianMixture(3)
    for name, expected in (("offset", True), ("apart", False)):
        x = hard_data(name).astype(jnp.float64)
        em, state = start(model, x)
        found = model.shortcut(em(state, x)[0].params, x)
        assert bool(found.allowed) is expected
        assert found.form.component.form == "expanded"
    assert elbax.GaussianMixture(3, form="difference").shortcut(state.params, x) is None


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_precision_is_highest(covariance):
    """Accelerators multiply float32 in fewer bits unless every product says otherwise."""
    system = gaussian_mixture(covariance)
    em, state = start(system.model, system.x)
    program = jax.make_jaxpr(em)(state, system.x).jaxpr
    found = [step for step in equations(program) if step.primitive.name == "dot_general"]
    highest = jax.lax.Precision.HIGHEST
    assert len(found) > 4
    for equation in found:
        assert equation.params["precision"] in (highest, (highest, highest))


@pytest.mark.slow
def test_nothing_is_stored_per_datum_and_component():
    """The compiled sweep's memory does not grow with the data when it is chunked."""
    model = elbax.GaussianMixture(4)
    em = elbax.Chain(elbax.ExactEStep(model), elbax.ClosedFormMStep(model, chunk_size=500))
    _, state = start(model, jax.random.normal(jax.random.key(0), (50, 3)))
    sizes = []
    for num_data in (10_000, 80_000):
        x = jax.ShapeDtypeStruct((num_data, 3), jnp.float64)
        compiled = jax.jit(lambda s, x: em(s, x)).lower(state, x).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    per_row = (sizes[1] - sizes[0]) / 70_000
    assert per_row <= 3 * 8  # Weights and row numbers: never K or D numbers a row.


def test_components_permute():
    system = gaussian_mixture("full")
    order = np.array([2, 0, 1])
    em, _ = start(system.model, system.x)
    ends = []
    coordinates, rest = split_coordinates(system.params)
    permuted = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[order]), coordinates)
    permuted = eqx.combine(permuted, rest)
    for params in (system.params, permuted):
        state = em.init(params, key=jax.random.key(1))
        ends.append(split_coordinates(em(state, system.x)[0].params)[0])
    for ours, theirs in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(np.asarray(ours)[order], theirs, rtol=1e-10, atol=1e-12)


def test_units_do_not_matter():
    """Another unit of a column changes the start and the fit only by that unit."""
    x = elbax.datasets.old_faithful()
    unit = jnp.array([60.0, 1e-3])
    model = elbax.GaussianMixture(2, floor=0.0)
    ends = [elbax.fit(*start(model, data), data).state.params for data in (x, x * unit)]
    means = [model.describe(params)["means"] for params in ends]
    np.testing.assert_allclose(means[0] * unit, means[1], rtol=1e-6)


def test_an_emptied_component_stays():
    system = gaussian_mixture("full")
    params = system.params | {"logits": system.params["logits"].at[1].set(-1e6)}
    em, _ = start(system.model, system.x)
    state = em.init(params, key=jax.random.key(1))
    end, info = em(state, system.x)
    assert bool(jnp.isfinite(info.elbo))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(end.params))
    for name in ("mean", "scale"):
        old, new = (p["components"][name][1] for p in (params, end.params))
        np.testing.assert_array_equal(new, old)


def test_restarts_differ():
    x = elbax.datasets.old_faithful()
    model = elbax.GaussianMixture(4)
    starts = jax.vmap(lambda key: model.init(key, x))(jax.random.split(jax.random.key(0), 2))
    first, second = starts["components"]["mean"]
    assert not np.allclose(np.sort(first, 0), np.sort(second, 0))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_samples_have_the_described_moments(covariance):
    system = gaussian_mixture(covariance)
    described = cast(system.model.describe(system.params), float)
    x, z = map(np.asarray, system.model.sample(system.params, jax.random.key(0), 20_000))
    assert x.shape == (20_000, 2)
    for k in range(3):
        rows = x[z == k]
        share = len(rows) / len(x)
        assert share == pytest.approx(float(described["weights"][k]), abs=0.02)
        sd = np.sqrt(np.diagonal(described["covariances"][k]))
        np.testing.assert_allclose((rows.mean(0) - described["means"][k]) / sd, 0, atol=0.08)
        ratio = np.cov(rows.T) / np.outer(sd, sd)
        np.testing.assert_allclose(ratio, described["covariances"][k] / np.outer(sd, sd), atol=0.08)


@pytest.mark.parametrize(
    ("covariance", "count"),
    [
        ("full", 2 + 6 + 9),
        ("tied", 2 + 6 + 3),
        ("diagonal", 2 + 6 + 6),
        ("spherical", 2 + 6 + 3),
        ("tied_diagonal", 2 + 6 + 2),
        ("tied_spherical", 2 + 6 + 1),
    ],
)
def test_number_of_free_params(covariance, count):
    system = gaussian_mixture(covariance)
    assert system.model.num_free_params(system.params) == count


@pytest.mark.parametrize(
    ("covariance", "average"),
    [
        ("tied_diagonal", lambda squares: np.diag(squares)),
        ("tied_spherical", lambda squares: squares.mean() * np.eye(len(squares))),
    ],
)
def test_one_variance_of_all_components(covariance, average):
    """Sweeps equal those of EM with one covariance, written in NumPy: mclust's EEI and EII."""
    x = np.asarray(elbax.datasets.old_faithful())
    model = elbax.GaussianMixture(3, covariance, floor=0.0)
    em, state = start(model, x)
    described = model.describe(state.params)
    end, _ = sweeps(em, state, x, 5)
    for _ in range(5):
        log_joint = gaussian_mixture_log_joint(described, x)
        shares = np.exp(log_joint - log_sum(log_joint)[:, None])
        means = shares.T @ x / shares.sum(0)[:, None]
        squares = np.einsum("nk,nkd->d", shares, (x[:, None] - means) ** 2) / len(x)
        covariances = np.broadcast_to(average(squares), (3, 2, 2))
        described = {
            "weights": shares.mean(0),
            "means": means,
            "covariances": covariances,
        }
    for name, value in model.describe(end.params).items():
        np.testing.assert_allclose(value, described[name], rtol=1e-9, atol=1e-12)


def test_weighted_start():
    """Rows of weight 0 are not seen, whatever they hold."""
    x = elbax.datasets.old_faithful()
    padded = jnp.concatenate([x, jnp.full((5, 2), jnp.nan)])
    batch = elbax.Batch(padded, mask=jnp.arange(277) < 272)
    params = elbax.GaussianMixture(2).init(jax.random.key(0), batch)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params))


ROWS = np.random.default_rng(0).normal(size=(6, 2))


def spoiled(row, column, value):
    table = ROWS.copy()
    table[row, column] = value
    return table


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (spoiled(4, 1, np.nan), "row 4, column 1 is nan"),
        (spoiled(0, 0, np.inf), "row 0, column 0 is inf"),
        (ROWS[:2], "3 components need at least 3 rows of positive weight, got 2"),
        (np.column_stack([ROWS[:, 0], np.ones(6)]), "column 1 is constant"),
        (ROWS[:, 0], "expected data of shape .*x\\[:, None\\]"),
        (ROWS[:0], "both at least 1; got \\(0, 2\\)"),
        (elbax.Batch(ROWS, weight=-np.ones(6)), "weights must be finite and not negative"),
        (elbax.Batch(ROWS, mask=np.zeros(6, bool)), "every row has weight 0 or is masked"),
    ],
)
def test_data_errors(as_users_run, x, message):
    with pytest.raises(ValueError, match=message):
        elbax.GaussianMixture(3).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_components": 0}, ValueError, "num_components must be at least 1, got 0"),
        ({"num_components": 2, "covariance": "round"}, ValueError, "'tied', 'diagonal'"),
        ({"num_components": 2, "floor": -1.0}, ValueError, "floor must be finite and not negative"),
        ({"num_components": 2, "form": "fast"}, ValueError, "'auto', 'difference' or 'expanded'"),
    ],
)
def test_bad_arguments(as_users_run, arguments, error, message):
    with pytest.raises(error, match=message):
        elbax.GaussianMixture(**arguments)


def test_a_mixture_is_of_components(as_users_run):
    with pytest.raises(TypeError, match="Mixture: expected a component such as"):
        elbax.Mixture(elbax.Gaussian(2), 3)
