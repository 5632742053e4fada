"""Complete conditionals read off a log-joint, against closed forms, NumPy, scikit-learn and quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special as special
import scipy.stats as stats
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture

import elbax
from elbax import families
from elbax.conjugacy import Block, BlockStep, conjugate_updates, ConjugateJoint, LocalBeliefs


KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def scanned(update, state, x, length):
    """The state and the ELBO of each step, by one compiled scan."""
    run = jax.jit(lambda state, x: jax.lax.scan(lambda s, _: update(s, x), state, length=length))
    state, info = run(state, x)
    return state, np.asarray(info.elbo)


def monotone(elbo):
    return np.all(np.diff(elbo) >= -1e-10 * (1 + np.abs(elbo[:-1])))


# ---- closed forms: one shared block, whose bound is the evidence ----


def test_a_gamma_rate_of_counts_has_the_closed_form_and_the_evidence():
    gamma = families.Gamma()
    prior = gamma.from_description(shape=2.0, rate=0.5)
    x = {"count": jnp.array([3.0, 0.0, 7.0]), "exposure": jnp.array([1.0, 0.5, 2.0])}

    def log_joint(shared, x):
        return jax.scipy.stats.poisson.logpmf(x["count"], x["exposure"] * shared["rate"])

    joint = ConjugateJoint(
        log_joint, {"rate": gamma}, log_prior=lambda shared: prior.log_prob(shared["rate"])
    )
    update = conjugate_updates(joint)
    state = update.init(*joint.init(KEY, x), key=KEY)
    state, _ = update(state, x)
    q = state.params["rate"].natural
    np.testing.assert_allclose([q[0] + 1, q[1]], [12.0, 4.0], rtol=1e-13)
    count, exposure = np.asarray(x["count"]), np.asarray(x["exposure"])
    of_rate = 2 * np.log(0.5) - special.gammaln(2) + special.gammaln(12) - 12 * np.log(4)
    of_counts = np.sum(count * np.log(exposure) - special.gammaln(count + 1))
    log_evidence = of_rate + of_counts
    np.testing.assert_allclose(3 * update(state, x)[1].elbo, log_evidence, rtol=1e-12)


def test_a_plate_of_beta_probabilities_has_the_closed_form_and_the_evidence():
    x = jnp.asarray(RNG.integers(0, 2, (9, 2)), float)
    joint = ConjugateJoint(
        lambda shared, x: jnp.sum(
            x * jnp.log(shared["share"]) + (1 - x) * jnp.log1p(-shared["share"])
        ),
        {"share": Block(families.Beta(), 2)},
    )
    update = conjugate_updates(joint)
    state = update.init(joint.init(KEY, x)[0], key=KEY)
    state, _ = update(state, x)
    ones = np.asarray(x.sum(0))
    np.testing.assert_allclose(state.params["share"].natural, [ones, 9 - ones], atol=1e-12)
    log_evidence = np.sum(special.betaln(ones + 1, 10 - ones))
    np.testing.assert_allclose(9 * update(state, x)[1].elbo, log_evidence, rtol=1e-12)


def test_linear_regression_has_the_closed_form_and_the_evidence():
    inputs, noise = RNG.normal(size=(12, 3)), 0.3
    target = inputs @ [1.0, -2.0, 0.5] + noise * RNG.normal(size=12)
    prior = elbax.Gaussian(3).from_description(mean=jnp.zeros(3), precision=2 * jnp.eye(3))

    def log_joint(shared, x):
        return jax.scipy.stats.norm.logpdf(x[3], x[:3] @ shared["slopes"], noise)

    joint = ConjugateJoint(
        log_joint,
        {"slopes": elbax.Gaussian(3)},
        log_prior=lambda shared: prior.log_prob(shared["slopes"]),
    )
    x = jnp.asarray(np.column_stack([inputs, target]))
    update = conjugate_updates(joint)
    state, _ = update(update.init(joint.init(KEY, x)[0], key=KEY), x)
    precision = 2 * np.eye(3) + inputs.T @ inputs / noise**2
    mean = np.linalg.solve(precision, inputs.T @ target / noise**2)
    np.testing.assert_allclose(state.params["slopes"].mode(), mean, rtol=1e-11)
    np.testing.assert_allclose(state.params["slopes"].natural[1], precision, rtol=1e-11)
    whole = stats.multivariate_normal(cov=inputs @ inputs.T / 2 + noise**2 * np.eye(12))
    np.testing.assert_allclose(12 * update(state, x)[1].elbo, whole.logpdf(target), rtol=1e-11)


def test_a_wishart_precision_has_the_closed_form_and_the_evidence():
    x = jnp.asarray(RNG.normal(size=(6, 2)) @ [[1.0, 0.4], [0.0, 2.0]])
    prior = families.Wishart(2).from_description(dof=4.0, inverse_scale=2 * jnp.eye(2))

    def log_joint(shared, x):
        log_determinant = jnp.linalg.slogdet(shared["precision"])[1]
        return 0.5 * (log_determinant - x @ shared["precision"] @ x) - jnp.log(2 * jnp.pi)

    joint = ConjugateJoint(
        log_joint,
        {"precision": families.Wishart(2)},
        log_prior=lambda shared: prior.log_prob(shared["precision"]),
    )
    update = conjugate_updates(joint)
    state, _ = update(update.init(joint.init(KEY, x)[0], key=KEY), x)
    scale = 2 * np.eye(2) + np.asarray(x.T @ x)
    np.testing.assert_allclose(state.params["precision"].natural[0], 4 + 6 - 3, rtol=1e-12)
    np.testing.assert_allclose(state.params["precision"].natural[1], scale, rtol=1e-12)
    half = lambda dof, scale: (
        special.multigammaln(dof / 2, 2) - dof / 2 * np.linalg.slogdet(scale)[1]
    )
    log_evidence = half(10, scale) - half(4, 2 * np.eye(2)) - 6 * np.log(np.pi)
    np.testing.assert_allclose(6 * update(state, x)[1].elbo, log_evidence, rtol=1e-12)


# ---- the library's models, derived ----


X = np.concatenate([RNG.normal([0, 0], 0.6, (14, 2)), RNG.normal([3, 1], [1.0, 0.4], (16, 2))])
NORMAL = families.NormalWishart(2).from_description(
    mean=jnp.asarray(X.mean(0)), shrinkage=0.5, dof=3.0, inverse_scale=jnp.asarray(np.cov(X.T))
)
SHARES = families.Dirichlet(3).from_description(concentration=0.4)


def mixture(shared, x, local):
    mean, precision = shared["normals"]
    gap = x - mean
    square = jnp.einsum("ki,kij,kj->k", gap, precision, gap)
    densities = 0.5 * (jnp.linalg.slogdet(precision)[1] - square) - jnp.log(2 * jnp.pi)
    return jnp.sum(local["component"] * (jnp.log(shared["weights"]) + densities))


def of_mixture(shared):
    return SHARES.log_prob(shared["weights"]) + jnp.sum(NORMAL.log_prob(shared["normals"]))


MIXTURE = ConjugateJoint(
    mixture,
    {"weights": families.Dirichlet(3), "normals": Block(families.NormalWishart(2), 3)},
    {"component": elbax.Categorical(3)},
    log_prior=of_mixture,
)
ORDER = "weights", "normals", "component"


class FromResponsibilities(BayesianGaussianMixture):
    def _initialize_parameters(self, X, *_, **__):
        self._initialize(X, START)


START = 0.2 + 0.4 * np.eye(3)[np.arange(30) % 3]


@pytest.fixture(scope="module")
def mixed():
    """The mixture after ten sweeps, with its trace."""
    update = conjugate_updates(MIXTURE, ORDER)
    params, posterior = MIXTURE.init(KEY, X, component=START)
    return scanned(update, update.init(params, posterior, key=KEY), jnp.asarray(X), 10)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_derived_gaussian_mixture_is_that_of_scikit_learn(mixed):
    state, elbo = mixed
    theirs = FromResponsibilities(
        n_components=3,
        max_iter=9,
        tol=0,
        reg_covar=0,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.4,
        mean_prior=X.mean(0),
        mean_precision_prior=0.5,
        degrees_of_freedom_prior=3.0,
        covariance_prior=np.cov(X.T),
    ).fit(X)
    found = families.NormalWishart(2).describe(state.params["normals"].natural)
    np.testing.assert_allclose(found["mean"], theirs.means_, rtol=1e-8)
    np.testing.assert_allclose(found["dof"], theirs.degrees_of_freedom_, rtol=1e-8)
    np.testing.assert_allclose(found["shrinkage"], theirs.mean_precision_, rtol=1e-8)
    covariances = found["inverse_scale"] / found["dof"][:, None, None]
    np.testing.assert_allclose(covariances, theirs.covariances_, rtol=1e-8)
    weights = state.params["weights"].natural + 1
    np.testing.assert_allclose(weights, theirs.weight_concentration_, rtol=1e-8)
    ours = state.posterior.blocks["component"].mean()
    np.testing.assert_allclose(ours, theirs.predict_proba(X), atol=1e-8)
    assert monotone(elbo)


def test_a_sweep_and_the_bound_are_those_of_the_hand_written_model():
    prior = elbax.priors.NormalInverseWishart(X.mean(0), 0.5, 3.0, np.cov(X.T))
    weights = elbax.priors.Dirichlet(0.4)
    model = elbax.GaussianMixture(3, prior=prior, weights_prior=weights)
    bayesian = elbax.Bayesian(model)
    start = model.from_description(
        weights=[0.3, 0.3, 0.4], means=X[:3], covariances=[np.eye(2)] * 3
    )
    written = elbax.em(bayesian)
    begun = written.init(bayesian.start(start, X), key=KEY)
    ended, elbo = scanned(written, begun, jnp.asarray(X), 5)

    def derived(q):
        """The same beliefs, in the coordinates of the families."""
        found, normals = bayesian.describe(q), q["components"]
        dof = jnp.exp(normals["scale"]["log_count"])[:, :, None]
        member = families.NormalWishart(2).from_description(
            mean=found["means"],
            shrinkage=jnp.exp(normals["mean"]["log_count"][:, 0]),
            dof=dof[:, 0, 0],
            inverse_scale=dof * found["covariances"],
        )
        return {"weights": families.Dirichlet(3)(jnp.exp(q["logits"]) - 1), "normals": member}

    update = conjugate_updates(MIXTURE, ("component", "weights", "normals"))
    params = derived(begun.params)
    posterior = LocalBeliefs({"component": elbax.Categorical(3)(jnp.zeros((30, 3)))})
    x = jnp.asarray(X)
    settle = BlockStep(MIXTURE, "component")
    first = settle.init(params, posterior, key=KEY)
    tight = jax.jit(lambda state: MIXTURE.elbo(state.params, settle(state, x)[0].posterior, x))
    np.testing.assert_allclose(tight(first), elbo[0], rtol=1e-11)
    state, _ = scanned(update, update.init(params, posterior, key=KEY), x, 5)
    for one, other in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(derived(ended.params)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-8)


@pytest.mark.slow
def test_factor_analysis_with_relevance_is_derived():
    """Against coordinate ascent written out in NumPy."""
    loadings = RNG.normal(size=(4, 2)) * [1.5, 0.5]
    x = RNG.normal(size=(20, 2)) @ loadings.T + 0.5 * RNG.normal(size=(20, 4))
    gamma = families.Gamma()

    def log_joint(shared, x, local):
        mean, precision = shared["loadings"] @ local["factors"], shared["precisions"]
        seen = 0.5 * jnp.sum(jnp.log(precision) - precision * (x - mean) ** 2)
        return seen - 0.5 * jnp.sum(local["factors"] ** 2) - 3 * jnp.log(2 * jnp.pi)

    def log_prior(shared):
        relevance = shared["relevance"]
        rows = 0.5 * jnp.sum(jnp.log(relevance) - relevance * shared["loadings"] ** 2)
        prior = gamma.from_description(shape=1.5, rate=1.0).log_prob
        rates = jnp.sum(prior(relevance)) + jnp.sum(prior(shared["precisions"]))
        return rows - 4 * jnp.log(2 * jnp.pi) + rates

    joint = ConjugateJoint(
        log_joint,
        {
            "loadings": Block(elbax.Gaussian(2), 4),
            "precisions": Block(gamma, 4),
            "relevance": Block(gamma, 2),
        },
        {"factors": elbax.Gaussian(2)},
        log_prior=log_prior,
    )
    start = RNG.normal(size=(4, 2))
    starts = {"loadings": start, "precisions": np.ones(4), "relevance": np.ones(2)}
    params, posterior = joint.init(KEY, x, check=False, **starts)
    update = conjugate_updates(joint)
    state, elbo = scanned(update, update.init(params, posterior, key=KEY), jnp.asarray(x), 4)
    assert monotone(elbo)

    mean, cov = start, np.tile(np.eye(2), (4, 1, 1))
    tau, alpha = np.ones(4), np.ones(2)
    for _ in range(4):
        square = cov + mean[:, :, None] * mean[:, None, :]
        spread = np.linalg.inv(np.eye(2) + np.einsum("j,jab->ab", tau, square))
        z = x @ (tau[:, None] * mean) @ spread
        second = 20 * spread + z.T @ z
        cov = np.linalg.inv(np.diag(alpha) + tau[:, None, None] * second)
        mean = np.einsum("jab,j,jb->ja", cov, tau, x.T @ z)
        square = cov + mean[:, :, None] * mean[:, None, :]
        residual = (
            (x**2).sum(0)
            - 2 * np.einsum("ij,ja,ia->j", x, mean, z)
            + np.einsum("jab,ab->j", square, second)
        )
        tau = (1.5 + 10) / (1 + 0.5 * residual)
        alpha = (1.5 + 2) / (1 + 0.5 * np.einsum("jaa->a", square))
    means = {name: joint.blocks[name].center(q) for name, q in state.params.items()}
    np.testing.assert_allclose(means["loadings"], mean, rtol=1e-8)
    np.testing.assert_allclose(means["precisions"], tau, rtol=1e-8)
    np.testing.assert_allclose(means["relevance"], alpha, rtol=1e-8)
    np.testing.assert_allclose(state.posterior.blocks["factors"].mode(), z, rtol=1e-8)


def test_a_topic_model_is_derived():
    """Against coordinate ascent written out in NumPy; two local blocks, a plate of words."""
    words = RNG.integers(0, 6, (5, 7))
    topics = families.Dirichlet(6).from_description(concentration=0.5)
    shares = families.Dirichlet(2).from_description(concentration=0.3)

    def log_joint(shared, x, local):
        table = jnp.log(shared["topics"][:, x]).T + jnp.log(local["shares"])
        return jnp.sum(local["topic"] * table) + shares.log_prob(local["shares"])

    joint = ConjugateJoint(
        log_joint,
        {"topics": Block(families.Dirichlet(6), 2)},
        {"topic": Block(elbax.Categorical(2), 7), "shares": families.Dirichlet(2)},
        log_prior=lambda shared: jnp.sum(topics.log_prob(shared["topics"])),
    )
    start = RNG.dirichlet(np.ones(6), 2)
    params, posterior = joint.init(KEY, words, topics=start, shares=np.full((5, 2), 0.5))
    update = conjugate_updates(joint)
    state, elbo = scanned(update, update.init(params, posterior, key=KEY), jnp.asarray(words), 5)
    assert monotone(elbo)

    log_mean = lambda a: special.digamma(a) - special.digamma(a.sum(-1, keepdims=True))
    lam, gamma = 6 * start, np.ones((5, 2))
    for _ in range(5):
        phi = special.softmax(
            log_mean(lam)[:, words].transpose(1, 2, 0) + log_mean(gamma)[:, None], -1
        )
        gamma = 0.3 + phi.sum(1)
        lam = 0.5 + np.einsum("dlk,dlv->kv", phi, np.eye(6)[words])
    np.testing.assert_allclose(state.params["topics"].natural + 1, lam, rtol=1e-8)
    np.testing.assert_allclose(state.posterior.blocks["shares"].natural + 1, gamma, rtol=1e-8)


# ---- modes and samples ----


def test_conditional_modes_of_a_mixture_are_k_means():
    def log_joint(shared, x, local):
        return -0.5 * jnp.sum(local["component"] * jnp.sum((x - shared["means"]) ** 2, -1))

    joint = ConjugateJoint(
        log_joint,
        {"means": Block(elbax.Gaussian(2), 3)},
        {"component": elbax.Categorical(3)},
    ).by("mode")
    update = conjugate_updates(joint)
    assert update.ascends
    params, posterior = joint.init(KEY, X, means=X[:3])
    state, elbo = scanned(update, update.init(params, posterior, key=KEY), jnp.asarray(X), 12)
    theirs = KMeans(3, init=X[:3], n_init=1, max_iter=50, tol=0, algorithm="lloyd").fit(X)
    np.testing.assert_allclose(state.params["means"], theirs.cluster_centers_, rtol=1e-10)
    labels = np.argmax(state.posterior.blocks["component"], -1)
    np.testing.assert_array_equal(labels, theirs.labels_)
    assert monotone(elbo)
    np.testing.assert_allclose(-30 * elbo[-1], theirs.inertia_ / 2, rtol=1e-10)


MEASURED = RNG.normal(1.0, 0.7, 8)
GAMMA = families.Gamma()


def semi_conjugate(shared, x):
    mean, precision = shared["mean"], shared["precision"]
    return 0.5 * (jnp.log(precision) - precision * (x - mean) ** 2) - 0.5 * jnp.log(2 * jnp.pi)


NORMAL_MODEL = ConjugateJoint(
    semi_conjugate,
    {"mean": families.Normal(), "precision": GAMMA},
    log_prior=lambda shared: (
        -0.5 * shared["mean"] ** 2
        + GAMMA.from_description(shape=2.0, rate=1.0).log_prob(shared["precision"])
    ),
)


def by_quadrature():
    """The log-evidence, and means and deviations of both blocks, on a grid."""
    mean, precision = np.linspace(-3, 4, 600), np.linspace(1e-3, 14, 900)
    log_p = sum(
        stats.norm.logpdf(x, mean[:, None], precision**-0.5) for x in MEASURED
    ) + stats.gamma.logpdf(precision, 2.0)
    log_p = log_p - 0.5 * mean[:, None] ** 2
    cell = (mean[1] - mean[0]) * (precision[1] - precision[0])
    p = np.exp(log_p) * cell
    moments = []
    for axis, grid in [(1, mean), (0, precision)]:
        mass = p.sum(axis) / p.sum()
        center = mass @ grid
        moments += [center, (mass @ (grid - center) ** 2) ** 0.5]
    return np.log(p.sum()), moments


def test_samples_are_of_the_posterior():
    _, (mean, mean_sd, precision, precision_sd) = by_quadrature()
    joint = NORMAL_MODEL.by("sample")
    gibbs = conjugate_updates(joint)
    assert not gibbs.ascends
    state = gibbs.init(joint.init(KEY, MEASURED)[0], key=jax.random.key(3))

    def step(state, _):
        state, _ = gibbs(state, jnp.asarray(MEASURED))
        return state, state.params

    _, draws = jax.jit(lambda state: jax.lax.scan(step, state, length=20_000))(state)
    draws = {name: np.asarray(found)[100:] for name, found in draws.items()}
    # Draws in a row depend on each other; the error of 100 means of 199 does not assume otherwise.
    for found, center, deviation in [
        (draws["mean"], mean, mean_sd),
        (draws["precision"], precision, precision_sd),
    ]:
        blocks = found.reshape(100, -1)
        assert abs(found.mean() - center) < 4 * blocks.mean(1).std() / 10
        second = ((blocks - center) ** 2).mean(1)
        assert abs(second.mean() - deviation**2) < 4 * second.std() / 10


def test_the_bound_is_below_the_evidence_and_forms_may_differ():
    log_evidence, _ = by_quadrature()
    x = jnp.asarray(MEASURED)
    update = conjugate_updates(NORMAL_MODEL)
    state = update.init(NORMAL_MODEL.init(KEY, x)[0], key=KEY)
    state, elbo = scanned(update, state, x, 30)
    assert monotone(elbo) and log_evidence - 0.2 < 8 * elbo[-1] < log_evidence
    # It is that of its definition, by draws of q.
    linear, precision = np.array(state.params["mean"].natural)
    exponent, rate = np.array(state.params["precision"].natural)
    of_mean = stats.norm(linear / precision, precision**-0.5)
    of_precision = stats.gamma(exponent + 1, scale=1 / rate)
    mean, precision = of_mean.rvs(20_000, random_state=1), of_precision.rvs(20_000, random_state=2)
    log_p = sum(stats.norm.logpdf(x, mean, precision**-0.5) for x in MEASURED)
    log_p += stats.gamma.logpdf(precision, 2.0) - 0.5 * mean**2
    draws = (log_p - of_mean.logpdf(mean) - of_precision.logpdf(precision)) / 8
    error = draws.std() / 20_000**0.5
    assert abs(draws.mean() - NORMAL_MODEL.elbo(state.params, state.posterior, x)) < 4 * error
    assert error < 1e-3
    # The mode of one block with the distribution of the other ascends too.
    joint = NORMAL_MODEL.by(precision="mode")
    update = conjugate_updates(joint)
    _, elbo = scanned(update, update.init(joint.init(KEY, x)[0], key=KEY), x, 30)
    assert monotone(elbo)


def test_bernoulli_switches_are_enumerated():
    """Noisy-or-free: a switch adds a known shift to a datum; q of it is Bayes' rule."""
    x = jnp.array([-0.5, 0.7, 2.2])

    def log_joint(shared, x, local):
        on = local["on"]
        at = lambda mean: jax.scipy.stats.norm.logpdf(x, mean, 1.0)
        return on * (at(2.0) + jnp.log(shared["share"])) + (1 - on) * (
            at(0.0) + jnp.log1p(-shared["share"])
        )

    joint = ConjugateJoint(
        log_joint, {"share": Block(families.Beta(), form="mode")}, {"on": families.Bernoulli()}
    )
    params, posterior = joint.init(KEY, x, share=0.3)
    step = BlockStep(joint, "on")
    state, _ = step(step.init(params, posterior, key=KEY), x)
    odds = 0.3 * stats.norm.pdf(x, 2) / (0.7 * stats.norm.pdf(x))
    np.testing.assert_allclose(state.posterior.blocks["on"].mean(), odds / (1 + odds), rtol=1e-12)
    log_evidence = np.log(0.3 * stats.norm.pdf(x, 2) + 0.7 * stats.norm.pdf(x)).mean()
    elbo = joint.elbo(state.params, state.posterior, x)
    np.testing.assert_allclose(elbo, log_evidence, rtol=1e-12)


# ---- batches ----


def sorted_counts(shared, x, local):
    densities = jax.scipy.stats.poisson.logpmf(x, shared["rates"])
    return jnp.sum(local["component"] * (jnp.log(shared["weights"]) + densities))


COUNTS = jnp.asarray(RNG.poisson([2.0, 9.0], (15, 2)).reshape(30), float)
POISSON = ConjugateJoint(
    sorted_counts,
    {"weights": families.Dirichlet(2), "rates": Block(GAMMA, 2)},
    {"component": elbax.Categorical(2)},
)


@pytest.fixture(scope="module")
def counted():
    return POISSON.init(KEY, COUNTS, rates=np.array([1.0, 5.0]))


def test_minibatches_move_their_own_rows_and_average(counted):
    params, posterior = counted
    update = conjugate_updates(POISSON, rate=0.5)
    start = update.init(params, posterior, key=KEY)
    number = np.arange(0, 30, 3)
    batch = elbax.Batch(COUNTS[number], weight=3.0, index=number)
    step = jax.jit(update)
    once, _ = step(start, batch)
    again, _ = step(once, batch)
    old = posterior.blocks["component"].natural
    new = once.posterior.blocks["component"].natural
    others = np.setdiff1d(np.arange(30), number)
    np.testing.assert_array_equal(new[others], old[others])
    assert not np.array_equal(new[number], old[number])
    # The first step takes the batch's conditional whole: 3 (statistics), of a prior of α = 1.
    counts = 1 + 3 * np.asarray(once.posterior.blocks["component"].mean())[number].sum(0)
    np.testing.assert_allclose(once.params["weights"].natural + 1, counts, rtol=1e-12)
    fresh = POISSON.complete_conditional("weights", once.params, again.posterior, batch)
    mean = 0.5 * (once.params["weights"].natural + fresh.natural)
    np.testing.assert_allclose(again.params["weights"].natural, mean, rtol=1e-12)


def test_padding_weights_and_chunks_agree(counted):
    params, posterior = counted
    padded = elbax.Batch(jnp.append(COUNTS, jnp.nan), mask=np.arange(31) < 30)

    @functools.partial(jax.jit, static_argnums=1)
    def answers(x, chunk_size):
        args, named = (params, posterior, x), {"chunk_size": chunk_size}
        rates = POISSON.complete_conditional("rates", *args, **named).natural
        local = POISSON.complete_conditional("component", *args, **named).natural[:30]
        return POISSON.elbo(*args, **named), rates, local

    for one, other in zip(
        jax.tree.leaves(answers(COUNTS, None)), jax.tree.leaves(answers(padded, 8))
    ):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_it_is_a_pure_step_under_vmap_and_fits():
    x = jnp.asarray(MEASURED)
    update = conjugate_updates(NORMAL_MODEL)
    starts = jax.vmap(lambda key: update.init(NORMAL_MODEL.init(key, x)[0], key=key))(
        jax.random.split(KEY, 3)
    )
    run = jax.jit(
        jax.vmap(lambda s: jax.lax.scan(lambda s, _: update(s, x), s, length=40)[1].elbo[-1])
    )
    ends = run(starts)
    np.testing.assert_allclose(ends, ends[0], rtol=1e-9)
    result = elbax.fit(update, jax.tree.map(lambda leaf: leaf[0], starts), x)
    assert result.code == "converged"
    np.testing.assert_allclose(result.elbo, ends[0], rtol=1e-5)


# ---- refusals ----


def refused(log_joint, shared, local=None, x=MEASURED, **given):
    joint = ConjugateJoint(log_joint, shared, local)
    return joint.init(KEY, jnp.asarray(x), **given)


def test_a_log_joint_outside_of_the_span_is_refused():
    with pytest.raises(ValueError, match=r"block 'mean'.*entries of Normal terms.*by 0\.\d+"):
        refused(
            lambda shared, x: -(jnp.abs(x - shared["mean"]) ** 1.5), {"mean": families.Normal()}
        )
    with pytest.raises(ValueError, match=r"block 'scale'.*Gamma.*Choose another family"):
        refused(
            lambda shared, x: jax.scipy.stats.norm.logpdf(x, 0.0, shared["scale"]),
            {"scale": families.Gamma()},
        )


def test_entries_of_a_plate_that_multiply_each_other_are_refused():
    def log_joint(shared, x):
        return -0.5 * (x - jnp.prod(shared["factors"])) ** 2 - 0.5 * jnp.sum(shared["factors"] ** 2)

    with pytest.raises(ValueError, match=r"block 'factors'.*multiply each other"):
        refused(log_joint, {"factors": Block(families.Normal(), 2)})


def test_labels_that_enter_nonlinearly_are_refused():
    def log_joint(shared, x, local):
        return -0.5 * (x - local["z"] @ shared["means"]) ** 2 - 0.5 * jnp.sum(shared["means"] ** 2)

    blocks = {"means": elbax.Gaussian(2)}, {"z": elbax.Categorical(2)}
    with pytest.raises(ValueError, match=r"block 'z'.*linear in the one-hot vector"):
        refused(log_joint, *blocks)


def test_a_dirichlet_is_not_evaluated_on_its_simplex():
    def log_joint(shared, x):
        return jax.scipy.stats.dirichlet.logpdf(shared["shares"], jnp.ones(2))

    with pytest.raises(ValueError, match=r"block 'shares'.*whose sum need not be 1"):
        refused(log_joint, {"shares": families.Dirichlet(2)})


def test_arguments_are_checked(as_users_run):
    good = NORMAL_MODEL
    with pytest.raises(ValueError, match=r"the block 'mean' must have shape \(\).*got \(2,\)"):
        good.init(KEY, MEASURED, mean=np.ones(2))
    with pytest.raises(ValueError, match=r"there are no blocks \['center'\]"):
        good.init(KEY, MEASURED, center=1.0)
    with pytest.raises(ValueError, match="there are no blocks"):
        good.by(center="mode")
    with pytest.raises(ValueError, match=r"'precision': \(3,\).*log_joint must return a single"):
        refused(semi_conjugate, {"mean": families.Normal(), "precision": Block(GAMMA, 3)})
    with pytest.raises(TypeError, match="family must be one whose members can be read"):
        Block(elbax.DiagonalGaussian(2))
    with pytest.raises(ValueError, match="form must be one of"):
        Block(GAMMA, form="draw")
    with pytest.raises(ValueError, match="different names"):
        ConjugateJoint(semi_conjugate, {"mean": GAMMA}, {"mean": GAMMA})
    with pytest.raises(ValueError, match="there is no block 'center'"):
        BlockStep(good, "center")
    with pytest.raises(TypeError, match="joint must be a ConjugateJoint"):
        BlockStep(lambda shared: 0.0, "mean")
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\]"):
        BlockStep(good, "mean", rate=2.0)
    with pytest.raises(ValueError, match="'mean' is a sample"):
        BlockStep(good.by("sample"), "mean", rate=0.5)
    with pytest.raises(TypeError, match="params must be beliefs"):
        conjugate_updates(good.by("mode")).init(good.init(KEY, MEASURED)[0], key=KEY)
    with pytest.raises(ValueError, match="order is empty"):
        conjugate_updates(good, [])
    with pytest.raises(TypeError, match="got no index"):
        LocalBeliefs({})(None)
    with pytest.raises(TypeError, match="joint.init"):
        conjugate_updates(MIXTURE).init(MIXTURE.init(KEY, X, check=False)[0], key=KEY)
