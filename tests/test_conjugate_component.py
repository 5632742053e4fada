"""Components from a log-density, against those that are written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import elbax
from elbax import components, families, priors


KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
COUNTS = jnp.asarray(RNG.poisson([[2.0, 9.0], [6.0, 3.0]], (15, 2, 2)).reshape(30, 2), float)
RATES = np.array([[3.0, 5.0], [4.0, 4.0]])


def log_mass(rates, x):
    return jnp.sum(jax.scipy.stats.poisson.logpmf(x, rates))


PRIOR = families.Gamma().from_description(shape=2.0, rate=0.5)
DERIVED = components.Conjugate(
    log_mass,
    families.Gamma(),
    2,
    prior=PRIOR,
    draw=lambda rates, key: jax.random.poisson(key, rates),
)
WRITTEN = components.Poisson(prior=priors.Gamma(2.0, 0.5))


def after(update, params, x, length=12):
    state = update.init(params, key=KEY)
    run = jax.jit(lambda state, x: jax.lax.scan(lambda s, _: update(s, x), state, length=length))
    state, info = run(state, x)
    return state.params, info.elbo


def both(make, start=lambda model, params, x: params):
    """The params and traces of EM in a model of either component, from the same start."""
    derived, written = make(DERIVED), make(WRITTEN)
    one = derived.from_description(weights=[0.4, 0.6], values=RATES)
    other = written.from_description(weights=[0.4, 0.6], rates=RATES)
    found = after(elbax.em(derived), one, COUNTS)
    expected = after(elbax.em(written), other, COUNTS)
    return derived.describe(found[0]), found[1], written.describe(expected[0]), expected[1]


def test_map_em_is_that_of_the_hand_written_component():
    found, elbo, expected, other = both(lambda one: elbax.Mixture(one, 2))
    np.testing.assert_allclose(found["values"], expected["rates"], rtol=1e-11)
    np.testing.assert_allclose(elbo, other, rtol=1e-12)


def test_variational_bayes_is_that_of_the_hand_written_component():
    ends = []
    for component, described in ((DERIVED, "values"), (WRITTEN, "rates")):
        model = elbax.Mixture(component, 2, prior=priors.Dirichlet(1.0))
        bayesian = elbax.Bayesian(model)
        params = model.from_description(weights=[0.4, 0.6], **{described: RATES})
        params, elbo = after(elbax.em(bayesian), bayesian.start(params, COUNTS), COUNTS, 150)
        assert np.all(np.diff(elbo) > -1e-10)
        drawn = bayesian.sample_params(params, KEY)
        assert jax.tree.structure(drawn) == jax.tree.structure(bayesian.inside(params))
        ends.append((elbo[-1], bayesian.describe(params)[described]))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-12)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-6)


def test_hidden_markov_models_take_it():
    def make(component):
        return elbax.HiddenMarkovModel(component, 2)

    x = elbax.sequences([COUNTS[:12], COUNTS[12:]])
    ends = []
    for component, described in ((DERIVED, "values"), (WRITTEN, "rates")):
        model = make(component)
        params = model.from_description(
            initial=[0.5, 0.5], transition=[[0.8, 0.2], [0.3, 0.7]], **{described: RATES}
        )
        ends.append(after(elbax.em(model), params, x, 3)[1])
    np.testing.assert_allclose(*ends, rtol=1e-12)


def test_a_normal_is_derived():
    x = elbax.datasets.old_faithful().astype(float)

    def log_density(theta, x):
        mean, precision = theta
        gap = x - mean
        half = jnp.linalg.slogdet(precision)[1] - gap @ precision @ gap
        return 0.5 * half - jnp.log(2 * jnp.pi)

    derived = elbax.Mixture(components.Conjugate(log_density, families.NormalWishart(2)), 2)
    written = elbax.Mixture(components.Normal("full", floor=0.0), 2)
    means = np.array([[2.0, 55.0], [4.0, 80.0]])
    covariances = np.array([[[0.1, 0.5], [0.5, 30.0]]] * 2)
    params = derived.from_description(
        weights=[0.5, 0.5], values={"mean": means, "precision": np.linalg.inv(covariances)}
    )
    found, _ = after(elbax.em(derived), params, x, 4)
    params = written.from_description(weights=[0.5, 0.5], means=means, covariances=covariances)
    expected, _ = after(elbax.em(written), params, x, 4)
    mean, precision = derived.describe(found)["values"].values()
    expected = written.describe(expected)
    np.testing.assert_allclose(mean, expected["means"], rtol=1e-8)
    np.testing.assert_allclose(np.linalg.inv(precision), expected["covariances"], rtol=1e-7)


def test_it_starts_from_data_and_samples():
    model = elbax.Mixture(DERIVED, 2)
    params = model.init(KEY, COUNTS)
    assert np.isfinite(elbax.evidence(model, params, COUNTS))
    drawn, _ = model.sample(params, KEY, 5)
    assert drawn.shape == (5, 2)


def test_a_component_without_data_keeps_its_params():
    component = components.Conjugate(log_mass, families.Gamma(), 2)
    params = component.from_description(values=RATES)
    nothing = jax.tree.map(jnp.zeros_like, component.natural(params))
    kept = component.maximize(nothing, params, {"unconstrained": True})
    np.testing.assert_array_equal(kept["unconstrained"], params["unconstrained"])


def test_a_datum_outside_of_the_support_is_impossible():
    component = components.Conjugate(log_mass, families.Gamma(), 2)
    natural = component.natural(component.from_description(values=RATES))
    assert np.all(component.log_densities(natural, jnp.array([-1.0, 2.0])) == -np.inf)


def test_refusals(as_users_run):
    def refused(log_density, family, **given):
        model = elbax.Mixture(components.Conjugate(log_density, family, **given), 2)
        model.init(KEY, COUNTS)

    with pytest.raises(ValueError, match=r"Conjugate: as a function of the block 'theta'.*Gamma"):
        refused(lambda theta, x: -jnp.sum(x) * theta**2, families.Gamma())
    with pytest.raises(ValueError, match="multiply each other"):
        refused(lambda theta, x: -(jnp.sum(x - jnp.prod(theta)) ** 2), families.Normal(), plate=2)
    with pytest.raises(ValueError, match="must return a single number"):
        refused(lambda theta, x: -x * theta, families.Gamma())
    with pytest.raises(TypeError, match="must be of a continuous"):
        components.Conjugate(log_mass, elbax.Categorical(2))
    with pytest.raises(TypeError, match="prior must be one member of"):
        components.Conjugate(log_mass, families.Gamma(), prior=priors.Gamma(2.0, 0.5))
    with pytest.raises(TypeError, match="prior must be one member of"):
        several = families.Gamma().from_description(shape=jnp.ones(2), rate=1.0)
        components.Conjugate(log_mass, families.Gamma(), 2, prior=several)
    with pytest.raises(ValueError, match=r"values must have shape \(2, 2\).*got \(2, 3\)"):
        DERIVED.from_description(values=np.ones((2, 3)))
    with pytest.raises(TypeError, match="no sampler"):
        component = components.Conjugate(log_mass, families.Gamma())
        component.sample(component.from_description(values=np.ones(2)), jnp.array(0), KEY)
    with pytest.raises(TypeError, match="has no prior"):
        elbax.Bayesian(
            elbax.Mixture(
                components.Conjugate(log_mass, families.Gamma()), 2, prior=priors.Dirichlet(1.0)
            )
        )
