"""A likelihood and a prior apart: divergences, what steps report, models without a family, keys for networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm

import elbax
from elbax.estimators import (
    DoublyReparameterized,
    GumbelSoftmax,
    ImportanceWeighted,
    Quadrature,
    ScoreFunction,
    StickingTheLanding,
)


KEYS = jax.random.split(jax.random.key(0), 8)
LOADINGS = jnp.array([[1.0, 0.5], [0.3, -0.8], [-0.6, 0.2]])
X = jax.random.normal(KEYS[0], (12, 3))
WEIGHTS = 0.3 * jax.random.normal(KEYS[1], (4, 3))
LATENT = elbax.DiagonalGaussian(2)
CENTER = jnp.array([0.3, -0.2])


def likelihood(params, x, z):
    return norm.logpdf(x, params @ z, 0.5).sum()


def natural(params, x):
    return CENTER, jnp.ones(2)


def density(params, x):
    return lambda z: norm.logpdf(z, CENTER).sum()


def member(params, x):
    return LATENT((CENTER, jnp.ones(2)))


def other_library(params, x):
    numpyro = pytest.importorskip("numpyro")
    return numpyro.distributions.Normal(CENTER, 1.0).to_event(1)


def joint(params, x, z):
    return likelihood(params, x, z) + norm.logpdf(z, CENTER).sum()


def linear(family=LATENT):
    return elbax.Amortized(elbax.Network(lambda w, x: w @ x, WEIGHTS), family)


def model_of(prior, **given):
    return elbax.Model(likelihood=likelihood, prior=prior, latent=LATENT, **given)


# --- the bound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [natural, density, member, other_library])
def test_the_bound_is_that_of_the_log_joint(prior):
    """By quadrature, exactly."""
    exact = Quadrature(8)
    apart, whole = model_of(prior, estimator=exact), elbax.Model(joint, LATENT, estimator=exact)
    x, z = X[0], jnp.array([0.4, 1.0])
    np.testing.assert_allclose(
        apart.log_joint(LOADINGS, x, z), whole.log_joint(LOADINGS, x, z), rtol=1e-12
    )
    ours, theirs = (elbax.elbo(model, LOADINGS, linear(), X) for model in (apart, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("prior", [natural, density, member, other_library])
def test_the_divergence_is_exact_where_both_are_known_and_sampled_elsewhere(prior):
    q = jax.vmap(linear())(X)
    mean, variance = q.natural[0] / q.natural[1], 1 / q.natural[1]
    terms = (variance + (mean - CENTER) ** 2 - 1 - jnp.log(variance)) / 2
    closed = terms.sum(1).mean()

    @jax.jit
    @jax.vmap
    def measured(key):
        return elbax.elbo_terms(model_of(prior), LOADINGS, linear(), X, key=key).kl_prior

    found = measured(jax.random.split(KEYS[2], 400))
    if prior in (natural, member):
        np.testing.assert_allclose(found, closed, rtol=1e-12)
    else:
        error = found.std() / 20
        assert 0 < error < 0.1 and abs(found.mean() - closed) < 5 * error


def test_a_latent_that_data_say_nothing_of_has_no_noise():
    model = elbax.Model(likelihood=lambda p, x, z: 0.0 * z.sum(), prior=natural, latent=LATENT)
    bounds = [elbax.elbo(model, (), linear(), X, key=key) for key in KEYS[:2]]
    assert bounds[0] == bounds[1] < 0


@pytest.mark.parametrize(
    "estimator",
    [StickingTheLanding(2), ScoreFunction(2), ImportanceWeighted(3), DoublyReparameterized(3)],
    ids=lambda e: type(e).__name__,
)
def test_other_estimators_take_the_log_joint_as_a_whole(estimator):
    apart, whole = (
        model_of(natural, estimator=estimator),
        elbax.Model(joint, LATENT, estimator=estimator),
    )
    ours, theirs = (elbax.elbo(m, LOADINGS, linear(), X, key=KEYS[3]) for m in (apart, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_relaxed_choice_keeps_its_exact_divergence():
    def of_one_hot(params, x, z):
        return norm.logpdf(x, z @ params).sum()

    def prior(params, x):
        return jnp.log(jnp.array([0.2, 0.3, 0.5]))

    means, family = jnp.eye(3), elbax.Categorical(3)
    logits = elbax.Amortized(elbax.Network(lambda w, x: w @ x, jnp.eye(3)), family)
    model = elbax.Model(
        likelihood=of_one_hot, prior=prior, latent=family, estimator=GumbelSoftmax(4)
    )
    step = elbax.GradientEStep(model, optax.sgd(0.1))
    _, info = step(step.init(means, logits, key=KEYS[0]), X)
    q = jax.vmap(logits)(X).mean()
    closed = (q * (jnp.log(q) - prior(None, None))).sum(1).mean()
    np.testing.assert_allclose(info.kl_prior, closed, rtol=1e-10)


# --- what steps report, and warm-up -------------------------------------------------------------------


@pytest.mark.parametrize("prior", [natural, density])
@pytest.mark.parametrize("beta", [None, 0.0, 0.4])
def test_a_step_reports_reconstruction_and_divergence(prior, beta):
    model = model_of(prior, log_prior=lambda params: -jnp.sum(params**2))
    step = elbax.JointGradientStep(model, optax.sgd(0.1))
    update = step if beta is None else elbax.wrappers.Anneal(step, lambda _: beta, "divergence")
    state = update.init(LOADINGS, linear(), key=KEYS[4])
    _, info = jax.jit(update)(state, X)
    weight = 1 if beta is None else beta
    global_term = -jnp.sum(LOADINGS**2) / len(X)
    expected = info.reconstruction - weight * info.kl_prior + global_term
    np.testing.assert_allclose(info.elbo, expected, rtol=1e-12)
    now = jax.random.split(KEYS[4])[1]
    terms = elbax.elbo_terms(model, LOADINGS, linear(), X, key=now)
    np.testing.assert_allclose(info.kl_prior, terms.kl_prior, rtol=1e-10)
    np.testing.assert_allclose(info.reconstruction, terms.reconstruction, rtol=1e-10)


@pytest.mark.parametrize(("prior", "parts"), [(natural, 2), (density, 1)])
@pytest.mark.parametrize("nats", [0.0, 0.15, 9.0])
def test_free_bits_floor_the_mean_divergence_of_each_part(prior, parts, nats):
    """The objective from what `elbo_terms` says; its slope in the encoder by automatic differentiation of it."""
    model = model_of(prior)
    step = elbax.GradientEStep(model, optax.sgd(1.0))
    update = elbax.wrappers.Anneal(step, lambda _: nats, "free_bits")
    state = update.init(LOADINGS, linear(), key=KEYS[4])
    now = jax.random.split(KEYS[4])[1]

    def objective(weights):
        encoder = eqx.tree_at(lambda q: q.network.weights, linear(), weights)
        terms = elbax.elbo_terms(model, LOADINGS, encoder, X, key=now)
        if parts == 1:
            return terms.reconstruction - jnp.maximum(nats, terms.kl_prior)
        linear_term, precision = jax.vmap(encoder)(X).natural
        mean = linear_term / precision
        each = (1 / precision + (mean - CENTER) ** 2 - 1 + jnp.log(precision)) / 2
        return terms.reconstruction - jnp.maximum(nats, each.mean(0)).sum()

    after, info = jax.jit(update)(state, X)
    value, slope = jax.jit(jax.value_and_grad(objective))(WEIGHTS)
    np.testing.assert_allclose(info.elbo, value, rtol=1e-10)
    moved = after.posterior.network.weights - WEIGHTS
    np.testing.assert_allclose(moved, slope, rtol=1e-8, atol=1e-10)


def test_free_bits_of_a_program_are_by_draw():
    """At the draws of the step; a floor far below all divergences is the bound, one far above counts the parts."""
    programs = elbax.programs

    def two(params, draw):
        a = draw("a", programs.Normal(jnp.zeros(2), 1.0))
        draw("b", programs.Normal(params @ a, 1.0))

    def infer(weights, x, draw):
        b = draw("b", programs.Normal(weights[:3] @ x, 0.5))
        draw("a", programs.Normal(weights[2:, :] @ b, 0.7))

    model = elbax.Model(
        likelihood=lambda params, x, z: norm.logpdf(x, z["b"], 0.5).sum(),
        prior=programs.prior(two),
        estimator=StickingTheLanding(),
    )
    encoder = programs.encoder(infer, 0.3 * jax.random.normal(KEYS[1], (4, 3)))
    step = elbax.JointGradientStep(model, optax.sgd(0.1))
    plain = jax.jit(step)(step.init(LOADINGS, encoder, key=KEYS[4]), X)[1]

    @jax.jit
    def annealed(nats):
        update = elbax.wrappers.Anneal(step, lambda _: nats, "free_bits")
        return update(update.init(LOADINGS, encoder, key=KEYS[4]), X)[1].elbo

    np.testing.assert_allclose(annealed(-1e6), plain.elbo, rtol=1e-12)
    np.testing.assert_allclose(annealed(1e4), plain.reconstruction - 2e4, rtol=1e-12)


def test_divergences_of_independent_latents_add_up():
    family = elbax.families.Product(
        a=elbax.families.Copies(elbax.Categorical(3)), b=LATENT, c=elbax.Gaussian(2)
    )
    key = iter(KEYS)
    outputs = [
        {"a": jax.random.normal(next(key), (4, 3)), "b": jnp.array([0.1, 1.0, -0.5, 0.2]), "c": c}
        for c in (jnp.zeros(5), jnp.linspace(-1.0, 1.0, 5))
    ]
    q, p = map(family.distribution, outputs)
    model = elbax.Model(lambda params, x, z: 0.0, family, estimator=ScoreFunction())
    each = model.divergences(q, p, KEYS[0])
    assert each["a"].shape == (4,) and (each["a"] > 0).all() and each["c"] > 0
    np.testing.assert_allclose(each["b"], [0, 0], atol=1e-12)
    total = sum(leaf.sum() for leaf in jax.tree.leaves(each))
    np.testing.assert_allclose(total, model.divergence(q, p, KEYS[0]), rtol=1e-12)


def test_free_bits_are_for_encoders(as_users_run):
    model = elbax.Model(
        likelihood=likelihood,
        prior=lambda p, x: (jnp.zeros(2), jnp.eye(2)),
        latent=elbax.Gaussian(2),
        conjugate=True,
    )
    em = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.sgd(0.1)))
    step = elbax.wrappers.Anneal(em, lambda _: 0.1, "free_bits")
    with pytest.raises(
        TypeError, match="Bayes' rule is not known for this objective. Use an encoder"
    ):
        step(step.init(LOADINGS, elbax.Exact(model, LOADINGS), key=KEYS[0]), X)


@pytest.mark.parametrize("targets", [("free_bits", "divergence"), ("divergence", "free_bits")])
def test_free_bits_and_warm_up_have_no_objective_in_common(targets, as_users_run):
    model = model_of(natural)
    step = elbax.JointGradientStep(model, optax.sgd(0.1))
    for target in targets:
        step = elbax.wrappers.Anneal(step, lambda _: 0.5, target)
    with pytest.raises(TypeError, match="inside of another Anneal or around one"):
        step.init(LOADINGS, linear(), key=KEYS[0])


def test_a_chain_hands_on_what_its_last_measured_part_saw():
    model = model_of(natural)
    steps = elbax.GradientEStep(model, optax.sgd(0.1)), elbax.GradientMStep(model, optax.sgd(0.1))
    update = elbax.Chain(*steps)
    _, info = update(update.init(LOADINGS, linear(), key=KEYS[4]), X)
    assert info.kl_prior == info.parts[1].kl_prior != info.parts[0].kl_prior


@pytest.mark.parametrize(
    "model", [elbax.Model(joint, LATENT), model_of(natural, estimator=ImportanceWeighted(3))]
)
def test_nothing_is_reported_where_it_is_not_known(model):
    step = elbax.JointGradientStep(model, optax.sgd(0.1))
    _, info = step(step.init(LOADINGS, linear(), key=KEYS[4]), X)
    assert info.kl_prior is None and info.reconstruction is None


def test_chunks_change_nothing():
    model = model_of(natural, estimator=Quadrature(6))
    infos = []
    for chunk_size in (None, 5):
        step = elbax.JointGradientStep(model, optax.sgd(0.1), chunk_size=chunk_size)
        infos.append(step(step.init(LOADINGS, linear(), key=KEYS[4]), X)[1])
    for left, right in zip(jax.tree.leaves(infos[0]), jax.tree.leaves(infos[1]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


CHOICE = elbax.Model(
    likelihood=lambda params, x, z: norm.logpdf(x, params[z]).sum(),
    prior=lambda params, x: np.log([0.2, 0.3, 0.5]),  # NumPy's numbers will do
    latent=elbax.Categorical(3),
)
CENTERS = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
QUADRATIC = elbax.Model(
    likelihood=likelihood,
    prior=lambda params, x: (CENTER, jnp.eye(2)),
    latent=elbax.Gaussian(2),
    conjugate=True,
)


@pytest.mark.parametrize(("model", "params"), [(CHOICE, CENTERS), (QUADRATIC, LOADINGS)])
def test_under_bayes_rule_a_step_reports_what_elbo_terms_do(model, params):
    update = elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.sgd(0.1)))
    _, info = jax.jit(update)(update.init(params, key=KEYS[0]), X)
    terms = elbax.elbo_terms(model, params, elbax.Exact(model, params), X)
    np.testing.assert_allclose(info.kl_prior, terms.kl_prior, rtol=1e-10)
    np.testing.assert_allclose(info.reconstruction, terms.reconstruction, rtol=1e-10)
    assert info.kl_prior > 0.01


def test_the_evidence_by_quadrature_is_the_exact_one():
    given = dict(likelihood=likelihood, prior=QUADRATIC.prior, latent=elbax.Gaussian(2))
    model = elbax.Model(**given, conjugate=True, estimator=Quadrature(20))
    expected = elbax.evidence(QUADRATIC, LOADINGS, X)
    np.testing.assert_allclose(elbax.evidence(model, LOADINGS, X), expected, rtol=1e-9)
    bound = elbax.elbo(model, LOADINGS, elbax.Exact(model, LOADINGS), X)
    np.testing.assert_allclose(bound, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["Importance", "MonteCarlo"])
def test_draws_are_not_drawn_of_again(kind):
    """The bound and its slope are those of the log-joint as a whole, draw by draw."""

    def bound(model, weights, key):
        encoder = elbax.Amortized(elbax.Network(linear().network.function, weights), LATENT)
        if kind == "Importance":
            q = elbax.posteriors.Importance(encoder, elbax.Exact(model, LOADINGS), 5)
        else:
            q = elbax.posteriors.MonteCarlo(encoder, 5)
        return elbax.elbo(model, LOADINGS, q, X, key=key)

    both = jax.jit(
        lambda weights: [
            jax.value_and_grad(lambda w, m=model: bound(m, w, KEYS[3]))(weights)
            for model in (model_of(natural), elbax.Model(joint, LATENT))
        ]
    )
    ours, theirs = both(WEIGHTS)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-10)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("estimator", [ImportanceWeighted(5), DoublyReparameterized(5)])
def test_under_a_tighter_bound_the_divergence_is_still_one(estimator):
    model = model_of(density, estimator=estimator)
    each = jax.jit(
        jax.vmap(lambda key: elbax.elbo_terms(model, LOADINGS, linear(), X, key=key).kl_prior)
    )
    found = each(jax.random.split(KEYS[2], 300))
    exact = elbax.elbo_terms(model_of(natural), LOADINGS, linear(), X).kl_prior
    assert abs(found.mean() - exact) < 5 * found.std() / 300**0.5 < 0.2
    terms = elbax.elbo_terms(model, LOADINGS, linear(), X)
    assert terms.reconstruction is None  # This bound is not reconstruction less KL.
    # So it is where the params are tied.
    tied = elbax.Tied(model, lambda params: params)
    again = elbax.elbo_terms(tied, LOADINGS, linear(), X)
    np.testing.assert_allclose(again.kl_prior, terms.kl_prior, rtol=1e-10)


def test_float32_data_with_a_prior_of_float64_numbers():
    x, loadings = X.astype(jnp.float32), LOADINGS.astype(jnp.float32)
    q = elbax.Amortized(elbax.Network(lambda w, x: w @ x, WEIGHTS.astype(jnp.float32)), LATENT)
    for estimator in (None, StickingTheLanding(2), ImportanceWeighted(2), Quadrature(4)):
        for prior in (natural, lambda p, x: lambda z: norm.logpdf(z).sum()):
            model = elbax.Model(
                likelihood=lambda p, x, z: -jnp.sum((x - p @ z) ** 2),
                prior=prior,
                latent=LATENT,
                estimator=estimator,
            )
            assert elbax.elbo(model, loadings, q, x).dtype == jnp.float32
    # Natural parameters of a choice, and of Bayes' rule.
    assert elbax.evidence(CHOICE, CENTERS.astype(jnp.float32), x).dtype == jnp.float32


def test_a_conditional_prior():
    """p(z | x): experts' gates, and a log-density; the bound is that of the log-joint."""

    def prior(params, x):
        return LOADINGS.T @ x, jnp.ones(2)

    def whole(params, x, z):
        return likelihood(params, x, z) + norm.logpdf(z, LOADINGS.T @ x).sum()

    exact = Quadrature(8)
    apart = elbax.Model(likelihood=likelihood, prior=prior, latent=LATENT, estimator=exact)
    theirs = elbax.elbo(elbax.Model(whole, LATENT, estimator=exact), LOADINGS, linear(), X)
    np.testing.assert_allclose(elbax.elbo(apart, LOADINGS, linear(), X), theirs, rtol=1e-12)

    u = jnp.linspace(-1, 1, 30)[:, None]
    data = (u, jnp.abs(u[:, 0]))
    experts = elbax.MixtureOfExperts(elbax.components.LinearRegression(), 2)
    params = experts.init(KEYS[0], data)
    params = params | {"gate": elbax.Network(lambda w, u: w @ u, jnp.array([[1.0], [-2.0]]))}
    terms = elbax.elbo_terms(experts, params, elbax.Exact(experts, params), data)
    q = np.asarray(jax.vmap(elbax.Exact(experts, params))(data).mean())
    gate = np.asarray(jax.jit(jax.vmap(lambda u: experts.gate(params, u)))(u))
    np.testing.assert_allclose(terms.kl_prior, (q * (np.log(q) - gate)).sum(1).mean(), rtol=1e-8)


# --- without a family --------------------------------------------------------------------------------


def of_numpyro(output):
    numpyro = pytest.importorskip("numpyro")
    return numpyro.distributions.Normal(output[:2], jnp.exp(output[2:])).to_event(1)


def test_without_a_family_the_encoder_says_what_the_latent_is():
    free, named = elbax.Model(joint), elbax.Model(joint, LATENT)
    q = linear(of_numpyro)
    for estimator in (None, StickingTheLanding(2), ImportanceWeighted(3), ScoreFunction(2)):
        models = [elbax.Model(joint, f, estimator=estimator) for f in (None, LATENT)]
        ours, theirs = (elbax.elbo(m, LOADINGS, q, X, key=KEYS[5]) for m in models)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    update = elbax.JointGradientStep(free, optax.adam(0.05))
    state = update.init(LOADINGS, q, key=KEYS[5])
    end, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: update(s, X), s, length=100))(state)
    keys = jax.random.split(KEYS[6], 50)
    mean = jax.jit(
        lambda s: jax.vmap(lambda k: elbax.elbo(free, s.params, s.posterior, X, key=k))(keys).mean()
    )
    assert mean(end) > mean(state) + 0.3
    terms = elbax.elbo_terms(elbax.Model(likelihood=likelihood, prior=density), LOADINGS, q, X)
    assert np.isfinite(terms.kl_prior) and terms.evidence is None
    weighted = elbax.posteriors.Importance(q, elbax.Exact(free, LOADINGS), 20)
    assert elbax.elbo(free, LOADINGS, weighted, X, key=KEYS[5]) > elbax.elbo(named, LOADINGS, q, X)


@pytest.mark.parametrize("ours", [False, True])
def test_without_a_family_a_discrete_encoder_learns_by_its_score(ours):
    """The mean slope is that of enumeration."""
    numpyro = pytest.importorskip("numpyro")
    centers = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    def chosen(params, x, z):
        return norm.logpdf(x, params[z]).sum() - jnp.log(3.0)

    of_theirs = lambda logits: numpyro.distributions.Categorical(logits=logits)
    of_theirs = elbax.Categorical(3) if ours else of_theirs
    network = elbax.Network(lambda w, x: w @ x, jnp.eye(3))

    def slope(model, family, key):
        def bound(weights):
            q = elbax.Amortized(elbax.Network(network.function, weights), family)
            return elbax.elbo(model, centers, q, X, key=key)

        return jax.grad(bound)(network.weights)

    exact = slope(elbax.Model(chosen, elbax.Categorical(3)), elbax.Categorical(3), KEYS[6])
    each = jax.jit(jax.vmap(lambda key: slope(elbax.Model(chosen), of_theirs, key)))
    found = each(jax.random.split(KEYS[7], 2000))
    error = found.std(0) / len(found) ** 0.5
    assert np.all(error < 0.05) and np.all(abs(found.mean(0) - exact) < 5 * error)


def test_without_a_family_a_latent_of_two_kinds_learns_by_its_score():
    """A choice and a number: the slope of the mean is known in closed form."""
    numpyro = pytest.importorskip("numpyro")

    class Both:
        def __init__(self, output):
            self.choice = numpyro.distributions.Bernoulli(logits=output[0])
            self.number = numpyro.distributions.Normal(output[1], 1.0)

        def sample(self, key):
            left, right = jax.random.split(key)
            return {"choice": self.choice.sample(left), "number": self.number.sample(right)}

        def log_prob(self, z):
            return self.choice.log_prob(z["choice"]) + self.number.log_prob(z["number"])

    def log_joint(params, x, z):
        return 2.0 * z["choice"].astype(float) + z["number"]

    def bound(output, key):
        q = elbax.Amortized(elbax.Network(lambda w, x: w, output), Both)
        return elbax.elbo(elbax.Model(log_joint), (), q, jnp.zeros((1, 1)), key=key)

    each = jax.jit(jax.vmap(jax.grad(bound), (None, 0)))
    with jax.numpy_dtype_promotion("standard"):  # numpyro relies on it
        found = each(jnp.zeros(2), jax.random.split(KEYS[7], 4000))
    # E[log joint] = 2 sigmoid(a) + m, and the entropy of the choice is flat at a = 0.
    error = found.std(0) / len(found) ** 0.5
    assert np.all(abs(found.mean(0) - np.array([0.5, 1.0])) < 5 * error) and np.all(error < 0.1)


def test_draws_that_do_not_move_with_q_take_the_score():
    """A mixture of numpyro: its own flag says that its draws are no function of noise."""
    numpyro = pytest.importorskip("numpyro")
    dist = numpyro.distributions

    def mixture(output):
        return dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.stack([output[0], jnp.zeros(())])),
            dist.Normal(jnp.array([-1.0, 2.0]), jnp.ones(2)),
        )

    def bound(model, output, key):
        q = elbax.Amortized(elbax.Network(lambda w, x: w, output), mixture)
        return elbax.elbo(model, (), q, jnp.zeros((1, 1)), key=key)

    model = elbax.Model(lambda params, x, z: norm.logpdf(z, 1.0, 1.0))
    z = jnp.linspace(-8, 9, 4001)

    def by_quadrature(output):
        log_q = mixture(output).log_prob(z)
        return jnp.sum(jnp.exp(log_q) * (norm.logpdf(z, 1.0, 1.0) - log_q)) * (z[1] - z[0])

    exact = jax.grad(by_quadrature)(jnp.zeros(1))
    each = jax.jit(jax.vmap(jax.grad(lambda w, key: bound(model, w, key)), (None, 0)))
    found = each(jnp.zeros(1), jax.random.split(KEYS[7], 4000))
    error = found.std(0) / len(found) ** 0.5
    assert np.all(abs(found.mean(0) - exact) < 5 * error) and np.all(error < 0.05)
    moving = elbax.Model(lambda params, x, z: -(z**2), estimator=StickingTheLanding(2))
    with pytest.raises(TypeError, match="draws of this MixtureSameFamily are not reparameterized"):
        bound(moving, jnp.zeros(1), KEYS[0])


def test_without_a_family_what_is_not_known_says_so():
    model = elbax.Model(joint)
    with pytest.raises(TypeError, match="without a latent family. Pass one"):
        elbax.evidence(model, LOADINGS, X)
    with pytest.raises(TypeError, match=r"has no latent family.*Amortized\(network, function\)"):
        elbax.Amortized(lambda x: x, model.latent)(X[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got none of them"),
        ({"log_joint": joint, "prior": natural}, "got log_joint and prior"),
        ({"likelihood": likelihood}, r"got likelihood"),
        (
            {"log_joint": joint, "likelihood": likelihood, "prior": natural},
            "got log_joint and likel",
        ),
        ({"log_joint": joint, "conjugate": True}, "Pass the family"),
        ({"likelihood": likelihood, "prior": lambda z: 0.0}, r"a function prior\(params, x\)"),
    ],
)
def test_which_functions_go_together(given, message):
    with pytest.raises(TypeError, match=message):
        elbax.Model(**given)


def test_warm_up_by_bayes_rule_needs_a_prior_of_the_family():
    model = elbax.Model(
        likelihood=likelihood, prior=density, latent=elbax.Gaussian(2), conjugate=True
    )
    update = elbax.wrappers.Anneal(elbax.ExactEStep(model), lambda _: 0.5, "divergence")
    chain = elbax.Chain(update, elbax.GradientMStep(model, optax.sgd(0.1)))
    annealed = elbax.wrappers.Anneal(
        elbax.Chain(elbax.ExactEStep(model), elbax.GradientMStep(model, optax.sgd(0.1))),
        lambda _: 0.5,
        "divergence",
    )
    assert chain.init(LOADINGS, key=KEYS[0])
    with pytest.raises(TypeError, match="prior .* natural parameters of the latent family"):
        annealed(annealed.init(LOADINGS, key=KEYS[0]), X)


# --- keys -----------------------------------------------------------------------------------------------


class Dropping(eqx.Module):
    inner: eqx.nn.MLP
    dropout: eqx.nn.Dropout

    def __init__(self, size_in, size_out, key):
        self.inner = eqx.nn.MLP(size_in, size_out, 8, 1, key=key)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key=None):
        return self.inner(self.dropout(x, key=key))


def decoded(decoder, x, z, key=None):
    return norm.logpdf(x, decoder(z, key=key), 0.5).sum()


def standard(params, x):
    return jnp.zeros(2), jnp.ones(2)


def test_dropout_is_on_in_steps_and_off_in_evaluation():
    model = elbax.Model(likelihood=decoded, prior=standard, latent=LATENT)
    encoder = elbax.Amortized(Dropping(3, 4, KEYS[0]), LATENT)
    decoder = elbax.Network(Dropping(2, 3, KEYS[1]))
    step = elbax.JointGradientStep(model, optax.adam(0.01))
    state = step.init(decoder, encoder, key=KEYS[2])
    end, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, X), s, length=3))(state)
    assert jax.tree.structure(end) == jax.tree.structure(state)

    # In evaluation the encoder answers alike, and as in equinox's own inference mode.
    q, other = encoder(X[0]), eqx.nn.inference_mode(encoder)(X[0], key=KEYS[3])
    for left, right in zip(q.natural, other.natural, strict=True):
        np.testing.assert_array_equal(left, right)
    dropped = [encoder(X[0], key=key).natural[0] for key in KEYS[:4]]
    assert len({tuple(np.asarray(leaf)) for leaf in dropped}) > 1

    evaluated = elbax.elbo(model, decoder, encoder, X)
    quiet = eqx.nn.inference_mode((decoder, encoder))
    np.testing.assert_array_equal(evaluated, elbax.elbo(model, *quiet, X, key=jax.random.key(0)))
    assert evaluated != elbax.elbo(model, decoder, encoder, X, key=jax.random.key(0))


def test_the_rows_of_a_batch_have_a_name():
    """Batch normalization: an encoder standardizes by the mean and variance of the rows that it is mapped over."""

    def normalized(weights, x):
        mean = jax.lax.pmean(x, "rows")
        variance = jax.lax.pmean((x - mean) ** 2, "rows")
        return weights @ ((x - mean) / jnp.sqrt(variance))

    model = model_of(natural, estimator=Quadrature(6))
    ours = elbax.Amortized(elbax.Network(normalized, WEIGHTS), LATENT)
    scaled = (X - X.mean(0)) / X.std(0)
    found = elbax.elbo(model, LOADINGS, ours, X)

    def bound(x, scaled):
        q = linear()(scaled)
        return model.elbo(LOADINGS, x, q, KEYS[0])

    np.testing.assert_allclose(found, jax.vmap(bound)(X, scaled).mean(), rtol=1e-10)


def test_who_takes_a_key():
    key = jax.random.key(0)

    class Handing(eqx.Module):
        inner: Dropping

        def __call__(self, x, **keywords):
            return self.inner(x, **keywords)

    ones = jnp.ones(2)
    plain = elbax.Network(lambda x, key=None: x if key is None else 0 * x)
    assert plain(ones, key=key).sum() == 0 and plain(ones).sum() == 2
    handing = elbax.Network(Handing(Dropping(2, 3, KEYS[0])))
    assert np.any(handing(ones, key=KEYS[1]) != handing(ones))
    positional = elbax.Network(lambda x, key=None, /: x)
    np.testing.assert_array_equal(positional(ones, key=key), ones)


def test_the_evidence_evaluates():
    """Dropout is off where a model is only looked at, by every function that looks."""

    def decoded_choice(decoder, x, z, key=None):
        return norm.logpdf(x, decoder(jax.nn.one_hot(z, 3), key=key)).sum()

    model = elbax.Model(
        likelihood=decoded_choice,
        prior=lambda params, x: jnp.zeros(3),
        latent=elbax.Categorical(3),
        estimator=elbax.estimators.Enumeration(),
    )
    decoder = elbax.Network(Dropping(3, 3, KEYS[0]))
    expected = elbax.evidence(model, eqx.nn.inference_mode(decoder), X)
    np.testing.assert_allclose(elbax.evidence(model, decoder, X), expected, rtol=1e-12)
    each = elbax.log_densities(model, decoder, X)
    np.testing.assert_allclose(each.mean(), expected, rtol=1e-12)


def test_natural_parameters_need_a_family():
    model = elbax.Model(likelihood=likelihood, prior=natural)
    with pytest.raises(TypeError, match="returned natural parameters, but the model has no latent"):
        elbax.elbo(model, LOADINGS, linear(), X)
