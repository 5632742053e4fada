"""What a posterior says of its latent: collapse by units, calibration, and the two gaps of an encoder."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import elbax
from elbax import programs
from elbax.diagnostics import calibration, collapse, inference_gap
from elbax.families import Bernoulli, Copies, Product


norm = jax.scipy.stats.norm
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 2))


def encoder_of(apply, family):
    return elbax.Amortized(elbax.Network(lambda weights, x: apply(x), ()), family)


def test_divergences_of_units_add_up():
    """Those of two normals by hand, of a choice and of switches by their sums; the total is the model's own."""
    family = Product(z=elbax.DiagonalGaussian(2), c=elbax.Categorical(3), b=Copies(Bernoulli()))

    def prior(params, x):
        normal = jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0])
        return {"z": normal, "c": jnp.array([0.5, 0.0, 0.0]), "b": jnp.array([0.0, 1.0])}

    def output(x):
        z = jnp.array([0.0, x[0], 0.0, -0.5])
        return {"z": z, "c": jnp.array([0.5, 0.0, 0.0]), "b": jnp.stack([x[1], 1 + 0 * x[1]])}

    model = elbax.Model(
        likelihood=lambda p, x, z: jnp.zeros(()),
        prior=prior,
        latent=family,
        estimator=elbax.estimators.Enumeration(),
    )
    weight = jnp.array([1.0, 2.0, 0.0, 1.0, 1.0, 1.0, 3.0])
    batch = elbax.Batch(X, weight=weight)
    found = collapse(model, (), encoder_of(output, family), batch)

    def mean(values):
        return float(values @ weight / weight.sum())

    variance = np.exp(-1.0)
    second = 0.5 * (2 * variance + 2 * (X[:, 0] - 0.5) ** 2 - 1 - np.log(2 * variance))
    share = jax.nn.sigmoid(X[:, 1])
    switch = share * jnp.log(2 * share) + (1 - share) * jnp.log(2 * (1 - share))
    np.testing.assert_allclose(found.kl_prior["z"], [0, mean(second)], atol=1e-12)
    np.testing.assert_allclose(found.kl_prior["c"], 0, atol=1e-12)
    np.testing.assert_allclose(found.kl_prior["b"], [mean(switch), 0], atol=1e-12)
    terms = elbax.elbo_terms(model, (), encoder_of(output, family), batch)
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(found.kl_prior))
    np.testing.assert_allclose(terms.kl_prior, total, rtol=1e-10)
    assert str(found) == (
        "3 of 5 units of the latent have collapsed to their prior (a KL below 0.01 nats): ['b']1; ['c']; ['z']0."
    )
    assert found.variance["z"].shape == (2,)


def normal_model(**options):
    given = dict(
        likelihood=lambda p, x, z: norm.logpdf(x, z).sum(),
        prior=lambda p, x: (jnp.zeros(2), jnp.ones(2)),
        latent=elbax.DiagonalGaussian(2),
    )
    return elbax.Model(**(given | options))


def test_a_posterior_that_ignores_the_data_is_told_what_to_do():
    model = normal_model()
    said = str(collapse(model, (), encoder_of(lambda x: jnp.zeros(4), model.latent), X))
    assert said.startswith("2 of 2 units") and "Anneal" in said and "goes-to-zero" in said
    used = encoder_of(lambda x: jnp.append(x, jnp.zeros(2)), model.latent)
    assert str(collapse(model, (), used, X)).startswith("0 of 2")


def test_draws_of_a_program_are_units():
    """Each given those before, by draws: the upper one is as in the prior, the lower one follows the datum."""

    def generate(params, draw):
        z2 = draw("z2", programs.Normal(jnp.zeros(()), 1.0))
        draw("z1", programs.Normal(z2, 1.0))

    def infer(weights, x, draw):
        draw("z2", programs.Normal(jnp.zeros(()), 1.0))
        draw("z1", programs.Normal(x[0], 0.5))

    model = elbax.Model(likelihood=lambda p, x, z: z["z1"], prior=programs.prior(generate))
    found = collapse(
        model, (), programs.encoder(infer, ()), jnp.tile(X, (600, 1)), key=jax.random.key(3)
    )
    expected = 0.5 * (0.25 + np.mean(X[:, 0] ** 2) - np.log(0.25))  # E z₂² − 1 is 0.
    assert found.kl_prior["z2"] == 0 and abs(found.kl_prior["z1"] - expected) < 0.1
    assert str(found).startswith("1 of 2 units") and str(found).endswith("['z2'].")


def test_what_does_not_split_into_units():
    q = encoder_of(lambda x: jnp.zeros(4), elbax.DiagonalGaussian(2))
    density = normal_model(prior=lambda p, x: lambda z: norm.logpdf(z).sum())
    with pytest.raises(TypeError, match=r"p\(z\) of the model is a LogDensity.*active_units"):
        collapse(density, (), q, X)
    joint = elbax.Model(lambda p, x, z: norm.logpdf(z).sum(), elbax.DiagonalGaussian(2))
    with pytest.raises(TypeError, match=r"Model does not know p\(z\).*active_units"):
        collapse(joint, (), q, X)


LOADINGS = jnp.array([[1.0, 0.8], [0.3, 1.0], [0.0, 0.5]])
PRECISION = jnp.eye(2) + LOADINGS.T @ LOADINGS


def linear(loadings, draw):
    z = draw("z", programs.Normal(jnp.zeros(2), 1.0))
    draw("x", programs.Normal(loadings @ z, 1.0))


class Named(eqx.Module):
    """A distribution of z under the name that the program gives it."""

    q: elbax.families.Distribution

    def sample(self, key):
        return {"z": self.q.sample(key)}


def bayes(scale=1.0, shift=0.0):
    """Bayes' rule of `linear`, with its precision times `scale` and its mean moved by `shift`."""

    def posterior(x):
        mean = jnp.linalg.solve(PRECISION, LOADINGS.T @ x) + shift
        return Named(elbax.Gaussian(2)((scale * PRECISION @ mean, scale * PRECISION)))

    return posterior


@pytest.mark.parametrize(
    ("posterior", "said"),
    [
        (bayes(), "ranks are uniform"),
        (bayes(scale=2.0), "too narrow"),
        (bayes(scale=0.5), "too wide"),
        (bayes(shift=0.5), "shifted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_ranks_are_uniform_for_bayes_rule_alone(posterior, said):
    found = calibration(programs.dream(linear), LOADINGS, posterior, key=KEY)
    assert said in str(found) and found.uniform == ("uniform" in said)
    assert found.ranks["z"].shape == (1000, 2) and found.ranks["z"].max() <= 99
    counts = np.bincount(np.asarray(found.ranks["z"][:, 0]) // 5, minlength=20)
    np.testing.assert_allclose(found.p_values["z"][0], scipy.stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("temper", [1.0, 2.0])
def test_ranks_of_choices_with_ties(temper):
    logits, means = jnp.log(jnp.array([0.2, 0.3, 0.5])), jnp.array([-1.0, 0.0, 1.5])

    def sample(params, key):
        keys = jax.random.split(key)
        z = jax.random.categorical(keys[0], logits)
        return means[z] + jax.random.normal(keys[1]), z

    def posterior(x):
        return elbax.Categorical(3)(temper * (logits + norm.logpdf(x, means)))

    found = calibration(sample, (), posterior, key=KEY, num_data=2000, num_draws=30)
    assert found.uniform == (temper == 1.0)


def test_the_two_gaps_of_an_encoder(as_users_run):
    """The best normal of independent coordinates has the mean of Bayes' rule and the diagonal of its precision."""
    model = elbax.Model(
        likelihood=lambda w, x, z: norm.logpdf(x, w @ z).sum(),
        prior=lambda w, x: (jnp.zeros(2), jnp.ones(2)),
        latent=elbax.DiagonalGaussian(2),
        estimator=elbax.estimators.StickingTheLanding(4),
    )
    x = jax.random.normal(KEY, (6, 3))
    poor = jnp.array([0.3, -0.2, -0.3, -0.3])  # the same q for all data
    found = inference_gap(
        model, LOADINGS, encoder_of(lambda x: poor, model.latent), x, key=KEY, num_samples=2000
    )
    covariance = np.eye(3) + LOADINGS @ LOADINGS.T
    evidence = scipy.stats.multivariate_normal(np.zeros(3), covariance).logpdf(x).mean()
    diagonal = jnp.diag(PRECISION)
    approximation = 0.5 * (jnp.log(diagonal).sum() - jnp.linalg.slogdet(PRECISION)[1])

    mean, variance = poor[:2], jnp.exp(2 * poor[2:])
    off = jax.vmap(lambda x: mean - jnp.linalg.solve(PRECISION, LOADINGS.T @ x))(x)
    moved = jnp.einsum("ni,ij,nj->n", off, PRECISION, off).mean()
    scaled = (diagonal * variance - 1 - jnp.log(diagonal * variance)).sum()
    amortization = 0.5 * (moved + scaled)

    np.testing.assert_allclose(found.evidence, evidence, atol=0.02)
    np.testing.assert_allclose(found.approximation, approximation, atol=0.02)
    np.testing.assert_allclose(found.amortization, amortization, atol=0.1)
    assert amortization > 0.5 > approximation > 0.1
    with pytest.raises(TypeError, match="encoder must be an elbax.Amortized"):
        inference_gap(model, LOADINGS, lambda x, key=None: None, x, key=KEY)
