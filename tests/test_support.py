"""Outside of the support a density is −∞, of NaN it is NaN, and neither is ever a label."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from test_rowwise import FAMILIES, named

import elbax
from elbax import components as c, families
from elbax.posteriors._particles import Particles


NAN, INF = jnp.nan, jnp.inf


def described(component, **numbers):
    return component, component.from_description(**numbers)


BERNOULLI = described(c.Bernoulli(), probabilities=[[0.8], [0.3]])
CATEGORICAL = described(c.Categorical(3), probabilities=[[[0.2, 0.3, 0.5]], [[0.6, 0.3, 0.1]]])
POISSON = described(c.Poisson(), rates=[[2.0], [7.0]])
MULTINOMIAL = described(c.Multinomial(), probabilities=[[0.2, 0.8], [0.5, 0.5]])
GAMMA = described(c.Gamma(), shapes=[[0.5], [3.0]], rates=[[1.0], [2.0]])
COUNTS = described(c.GeneralizedLinear("poisson"), coefficients=[[0.1, 0.3], [1.0, 0.0]])
BITS = described(c.GeneralizedLinear("bernoulli"), coefficients=[[0.1, 0.3], [1.0, 0.0]])


CASES = {
    "bernoulli": (BERNOULLI, [[2.0], [-1.0], [0.5], [INF]], [[NAN]]),
    "categorical": (CATEGORICAL, [[3.0], [-1.0], [1.5], [INF]], [[NAN]]),
    "poisson": (POISSON, [[-1.0], [-3.0], [2.5], [-0.5], [INF]], [[NAN]]),
    "multinomial": (MULTINOMIAL, [[-1.0, 3.0], [-4.0, 2.0], [0.5, 0.5], [INF, 1.0]], [[NAN, 1.0]]),
    "gamma": (GAMMA, [[0.0], [-1.0], [INF]], [[NAN]]),
    "counts": (COUNTS, [-1.0, 0.5], [NAN]),
    "bits": (BITS, [2.0, 0.5], [NAN]),
}


@pytest.mark.parametrize("name", CASES)
def test_outside_of_the_support_a_density_is_zero_and_of_nan_it_is_nan(name):
    (component, params), outside, unknown = CASES[name]
    x = jnp.array(outside + unknown)
    if x.ndim == 1:
        x = (jnp.full((len(x), 1), 0.5), x)

    @jax.jit
    def densities(params, x):
        natural = component.prepare(component.natural(params))
        found = jax.vmap(lambda x: component.log_densities(natural, x))(x)
        return jnp.sum(jnp.maximum(found, -1e3)), found

    _, found = densities(params, x)
    expected = [[-np.inf] * 2] * len(outside) + [[np.nan] * 2] * len(unknown)
    np.testing.assert_array_equal(found, expected)
    first = jax.tree.map(lambda leaf: leaf[: len(outside)], x)
    slope, _ = jax.grad(densities, has_aux=True)(params, first)
    assert all(bool(jnp.all(leaf == 0)) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", ["multinomial", "gamma"])
def test_the_part_that_a_faster_form_leaves_out_says_so(name):
    (component, params), outside, unknown = CASES[name]
    found = component.shortcut(params, jnp.array(outside + unknown))
    values = [float(found.base(jnp.array(row))) for row in outside + unknown]
    np.testing.assert_array_equal(values, [-np.inf] * len(outside) + [np.nan] * len(unknown))


def test_whole_numbers_are_looked_at_too():
    for case, x in [(BERNOULLI, 2), (CATEGORICAL, 3), (POISSON, -1)]:
        np.testing.assert_array_equal(log_densities(case, jnp.array([x])), [-np.inf] * 2)


def log_densities(case, x):
    component, params = case
    return component.log_densities(component.natural(params), x)


def test_inside_of_the_support_nothing_changes():
    of = lambda case, x: log_densities(case, jnp.array(x))[0]
    np.testing.assert_allclose(of(BERNOULLI, [1]), np.log(0.8), rtol=1e-12)
    np.testing.assert_allclose(of(CATEGORICAL, [2]), np.log(0.5), rtol=1e-12)
    np.testing.assert_allclose(of(POISSON, [3]), scipy.stats.poisson(2).logpmf(3), rtol=1e-12)
    peer = scipy.stats.multinomial(5, [0.2, 0.8]).logpmf([1, 4])
    np.testing.assert_allclose(of(MULTINOMIAL, [1, 4]), peer, rtol=1e-12)
    np.testing.assert_allclose(of(GAMMA, [0.7]), scipy.stats.gamma(0.5).logpdf(0.7), rtol=1e-12)


def test_what_is_missing_may_be_anything():
    x = elbax.IncompleteRows(jnp.array([-5.0]), jnp.array([False]))
    for case in (BERNOULLI, CATEGORICAL, POISSON, GAMMA):
        np.testing.assert_array_equal(log_densities(case, x), [0.0, 0.0])


# --- mixtures: what no component can have made has no posterior ------------------------------------


def test_no_label_for_an_impossible_row_and_none_for_nan():
    model = elbax.Mixture(c.Poisson(), 2)
    params = model.from_description(weights=[0.4, 0.6], rates=[[1.0], [3.0]])
    x = jnp.array([[2.0], [-1.0], [NAN]])
    q = jax.jit(jax.vmap(elbax.Exact(model, params)))(x)
    assert q.mode().tolist()[1:] == q.sample(jax.random.key(0)).tolist()[1:] == [-1, -1]
    assert int(q.mode()[0]) in (0, 1)
    assert np.isnan(q.mean()).tolist() == [[False] * 2, [True] * 2, [True] * 2]
    rows = jax.vmap(lambda x, z: model.log_joint(params, x, z))(x, jnp.array([1, 1, 1]))
    assert np.isfinite(rows[0]) and rows[1] == -np.inf and np.isnan(rows[2])
    for label in (2, -1):
        assert model.log_joint(params, x[0], jnp.array(label)) == -np.inf


def test_params_of_nan_draw_nothing():
    mixture = elbax.Mixture(c.Categorical(2), 2)
    params = mixture.from_description(
        weights=[0.5, 0.5], probabilities=[[[0.3, 0.7]], [[0.5, 0.5]]]
    )
    params["logits"] = jnp.array([NAN, 0.0])
    x, z = jax.jit(lambda params, key: mixture.sample(params, key, 4))(params, jax.random.key(0))
    assert x.tolist() == [[-1]] * 4 and z.tolist() == [-1] * 4
    chain = elbax.HiddenMarkovModel(c.Poisson(), 2)
    params = chain.from_description(
        initial=[0.5, 0.5], transition=[[0.5, 0.5]] * 2, rates=[[1.0], [4.0]]
    )
    params["initial"] = jnp.array([NAN, 0.0])
    x, z = jax.jit(lambda params, key: chain.sample(params, key, 2, 3))(params, jax.random.key(0))
    assert bool(jnp.isnan(x).all()) and bool((z == -1).all())


def test_impossible_symbols_of_a_sequence():
    model = elbax.HiddenMarkovModel(c.Categorical(2), 2)
    params = model.from_description(
        initial=[0.5, 0.5],
        transition=[[0.9, 0.1], [0.2, 0.8]],
        probabilities=[[[0.3, 0.7]], [[0.6, 0.4]]],
    )
    q = elbax.Exact(model, params)
    x = jnp.array([[[0.0], [1.0], [0.0]], [[0.0], [5.0], [0.0]], [[0.0], [NAN], [0.0]]])
    evidence = jax.jit(jax.vmap(lambda x: q.model.latent.log_normalizer(q(x).natural)))(x)
    assert np.isfinite(evidence[0]) and evidence[1] == -np.inf and np.isnan(evidence[2])
    paths = jax.jit(lambda x: jax.vmap(q)(x).mode())(x)
    assert bool((paths[0] >= 0).all()) and paths[1:].tolist() == [[-1] * 3] * 2


@pytest.mark.slow
def test_impossible_words_of_a_grammar():
    model = elbax.ContextFreeGrammar(1, 2, 3)
    params = model.init(jax.random.key(0))
    q = elbax.Exact(model, params)
    x = elbax.Sequence(jnp.array([[0, 1, 2, 9], [0, 3, 1, 9], [0, -1, 1, 9]]), jnp.array([3, 3, 3]))
    potentials, mode = jax.jit(lambda x: (jax.vmap(q)(x).natural, jax.vmap(q)(x).mode()))(x)
    evidence = jax.jit(model.latent.log_normalizer)(potentials)
    assert np.isfinite(evidence[0]) and bool(jnp.all(evidence[1:] == -jnp.inf))
    assert mode.any((1, 2, 3)).tolist() == [True, False, False]


def test_impossible_values_of_a_network():
    model = elbax.BayesianNetwork((2, 3), ((), (0,)))
    q = elbax.Exact(model, model.init(jax.random.key(0)))
    x = jnp.array([[1.0, 2.0], [1.0, 3.0], [0.5, 2.0], [-1.0, 0.0], [NAN, 0.0]])

    @jax.jit
    def answers(x):
        found = jax.vmap(q)(x)
        return model.latent.log_normalizer(found.natural), found.mode()

    evidence, modes = answers(x)
    assert np.isfinite(evidence[0]) and bool(jnp.all(evidence[1:4] == -jnp.inf))
    assert np.isnan(evidence[4])
    assert modes.tolist() == [[1, 2], *[[-1, -1]] * 4]


def test_labels_that_a_recognizer_has_not():
    model = elbax.ConnectionistTemporalClassification()
    weights = elbax.Network(lambda weights, x: x @ weights, jnp.eye(3))
    frames = jnp.ones((4, 4, 3)).at[3, 2, 0].set(NAN)
    labels = jnp.array([[1], [3], [-1], [1]])

    @jax.jit
    def answers(frames, labels):
        q = jax.vmap(elbax.Exact(model, weights))((frames, labels))
        decoded = jax.vmap(lambda frames: model.decode(weights, frames))(frames)
        return model.latent.log_normalizer(q.natural), q.mode(), decoded

    evidence, modes, (decoded, number) = answers(frames, labels)
    assert np.isfinite(evidence[0]) and evidence[1] == evidence[2] == -np.inf
    assert np.isnan(evidence[3])
    assert bool((modes[0] >= 0).all()) and modes[1:].tolist() == [[-1] * 4] * 3
    assert decoded[3].tolist() == [-1] * 4 and number.tolist() == [0, 0, 0, -1]


# --- families --------------------------------------------------------------------------------------


def values_outside():
    """Values of z, one of each family, that it has not, or not there."""
    tree = jnp.zeros((4, 4, 3), bool).at[0, 3, 0].set(True)
    return {
        "categorical": [jnp.array(3), jnp.array(-1)],
        "chain": [jnp.array([0, 1, 2, 0]), jnp.array([0, -1, 0, 1])],
        "alignments": [jnp.array([0, 1, 2, 3, 5]), jnp.array([2, 2, 3, 4, 4])],
        "trees": [tree, jnp.zeros((4, 4, 3), bool), jnp.ones((4, 4, 3), bool)],
        "grid": [jnp.full((2, 3), 2), jnp.full((2, 3), -1)],
        "graph": [jnp.array([0, 3, 0]), jnp.array([2, 0, 0]), jnp.array([0, -1, 0])],
        "independent-states": [jnp.array([0, 2, 1, 1]), jnp.array([0, -1, 0, 1])],
        "independent-sites": [jnp.full((2, 3), 2), jnp.full((2, 3), -1)],
        "independent-variables": [jnp.array([0, 3, 0]), jnp.array([2, 0, 0])],
    }


def first(name):
    family, natural, *_ = FAMILIES[name]()
    return family, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[0]), natural)


@pytest.mark.parametrize("name", named(values_outside()))
def test_families_outside_of_their_support(name):
    family, natural = first(name)
    log_prob = eqx.filter_jit(family.log_prob)
    for z in values_outside()[name]:
        assert log_prob(natural, z) == -np.inf
    assert np.isfinite(log_prob(natural, family(natural).sample(jax.random.key(0))))


NUMBERS = {
    "truth values": (families.Bernoulli()(jnp.array(0.7)), [-1.0, 255.0], [0.0, 0.3, 1.0]),
    "truncated normal": (
        families.TruncatedNormal().from_description(mean=0.5, precision=2.0),
        [-0.1],
        [0.1],
    ),
    "gamma": (families.Gamma().from_description(shape=0.7, rate=2.0), [-1.0], [0.1]),
    "beta": (families.Beta().from_description(a=0.7, b=2.0), [-0.5, 1.5], [0.1]),
    "Dirichlet": (
        families.Dirichlet(2).from_description(concentration=jnp.array([0.7, 2.0])),
        [[-0.5, 1.5]],
        [[0.5, 0.5]],
    ),
    "proportions": (families.Proportions(2)(jnp.array([0.7, 2.0])), [[1.5, -0.5]], [[0.5, 0.5]]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_of_their_support(name):
    """Grey levels from 0 to 1 are expectations; those from 0 to 255 are none, and must not train a decoder."""
    q, outside, inside = NUMBERS[name]
    value_and_slope = jax.value_and_grad(lambda natural, z: q.family.log_prob(natural, z))
    for z in map(jnp.array, outside):
        value, slope = value_and_slope(q.natural, z)
        assert value == -np.inf
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    for z in map(jnp.array, inside):
        assert np.isfinite(q.log_prob(z))
        assert np.isnan(q.log_prob(jnp.full_like(z, jnp.nan)))


def test_grey_levels_are_expectations_of_black_and_white():
    log_prob = lambda z: families.Bernoulli().log_prob(jnp.array(0.7), z)
    mean = 0.25 * log_prob(jnp.array(1)) + 0.75 * log_prob(jnp.array(0))
    np.testing.assert_allclose(log_prob(jnp.array(0.25)), mean)


def test_fit_says_that_pixels_are_outside_of_the_support():
    def likelihood(bias, x, z):
        return elbax.families.Bernoulli()(bias + z).log_prob(x).sum()

    latent = elbax.DiagonalGaussian(1)
    prior = lambda bias, x: (jnp.zeros(1), jnp.ones(1))
    model = elbax.Model(likelihood=likelihood, prior=prior, latent=latent)
    encoder = elbax.Amortized(elbax.Network(lambda w, x: w, jnp.zeros(2)), latent)
    vae = elbax.JointGradientStep(model, optax.sgd(0.1))
    state = vae.init(jnp.zeros(3), encoder, key=jax.random.key(0))
    result = elbax.fit(vae, state, jnp.array([[0.0, 255.0, 3.0]]), max_steps=3)
    assert "(its reconstruction E_q[log p(x | z)] is -inf)" in result.message
    assert "outside the model's support" in result.message


@pytest.mark.parametrize("name", named(FAMILIES))
def test_families_of_nan(name):
    """Whatever number among the natural parameters is NaN."""
    family, natural = first(name)

    @jax.jit
    def answers(natural):
        q = family(natural)
        numbers = q.entropy(), family.log_normalizer(natural), q.log_prob(z)
        return q.mean(), numbers, q.mode(), q.sample(jax.random.key(0))

    z = family(natural).sample(jax.random.key(1))
    leaves, structure = jax.tree.flatten(natural)
    for i, leaf in enumerate(leaves):
        if not eqx.is_inexact_array(leaf):
            continue
        bad = leaf.at[(0,) * leaf.ndim].set(NAN)
        found = answers(jax.tree.unflatten(structure, [*leaves[:i], bad, *leaves[i + 1 :]]))
        mean, numbers, mode, drawn = found
        some = [
            jnp.isnan(leaf).any() for leaf in jax.tree.leaves(mean) if eqx.is_inexact_array(leaf)
        ]
        assert any(map(bool, some)), "the mean looks like an answer"
        assert bool(jnp.isnan(numbers[1])), "the log-normalizer looks like an answer"
        assert bool(jnp.isnan(numbers[2])), "the density looks like an answer"
        for z_of_nan in (mode, drawn):
            assert undefined(z_of_nan, whole=not name.startswith("independent"))


def undefined(z, whole):
    """Whether z says that there is none: labels all over, those of independent parts somewhere."""
    if z.dtype == bool:
        return not bool(z.any())
    if jnp.issubdtype(z.dtype, jnp.inexact):
        return bool(jnp.isnan(z).any())
    return bool((z == -1).all() if whole else (z == -1).any())


def test_draws_without_weights():
    z = jnp.array([3, 4])
    bad = Particles(z, jnp.array([NAN, 0.0]), jnp.zeros(2), elbax.Categorical(5))
    assert int(bad.mode()) == int(bad.sample(jax.random.key(0))) == -1
    assert bool(jnp.isnan(bad.mean()).any()) and np.isnan(bad.expect(lambda z: z.astype(float)))
    real = Particles(
        z.astype(float), jnp.array([NAN, 0.0]), jnp.zeros(2), elbax.DiagonalGaussian(1)
    )
    assert np.isnan(real.mode()) and np.isnan(real.sample(jax.random.key(0)))
