"""Ancestral programs: SciPy's densities, a linear-Gaussian hierarchy and enumeration as oracles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import elbax
from elbax import estimators, programs
from elbax.families import Bernoulli


KEYS = jax.random.split(jax.random.key(0), 8)

# z2 ~ N(0, I), z1 = A z2 + N(0, a²), x = B z1 + N(0, b²).
PARAMS = {
    "A": jnp.array([[1.0], [-0.5]]),
    "B": jnp.array([[0.5, 1.0], [1.0, 0.2], [-0.3, 0.7]]),
    "a": jnp.array(0.8),
    "b": jnp.array(0.6),
}
X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)))


def generate(params, draw):
    z2 = draw("z2", programs.Normal(jnp.zeros(1), 1.0))
    z1 = draw("z1", programs.Normal(params["A"] @ z2, params["a"]))
    draw("x", programs.Normal(params["B"] @ z1, params["b"]))


def moments():
    """The covariance of (z2, z1, x)."""
    root = np.zeros((6, 6))
    root[0, 0] = 1
    root[1:3, 0], root[1:3, 1:3] = PARAMS["A"][:, 0], PARAMS["a"] * np.eye(2)
    root[3:] = PARAMS["B"] @ root[1:3]
    root[3:, 3:] += PARAMS["b"] * np.eye(3)
    return root @ root.T


def conditional(covariance, of, given):
    """The matrix of the mean, and the covariance, of some entries given others."""
    gain = covariance[np.ix_(of, given)] @ np.linalg.inv(covariance[np.ix_(given, given)])
    return gain, covariance[np.ix_(of, of)] - gain @ covariance[np.ix_(given, of)]


class Joint(programs.Normal):
    """A normal with a full covariance, of a library outside."""

    root: jax.Array

    def __init__(self, mean, covariance):
        self.mean, self.deviation = mean, jnp.ones_like(mean)
        self.root = jnp.linalg.cholesky(covariance)

    def sample(self, key):
        return self.mean + self.root @ jax.random.normal(key, self.mean.shape)

    def log_prob(self, z):
        white = jax.scipy.linalg.solve_triangular(self.root, z - self.mean, lower=True)
        constant = jnp.sum(jnp.log(jnp.diagonal(self.root))) + 0.5 * len(z) * np.log(2 * np.pi)
        return -0.5 * jnp.sum(white**2) - constant


def bayes():
    """The weights of q(z1 | x) q(z2 | z1) by Bayes' rule."""
    up, spread = conditional(moments(), [1, 2], [3, 4, 5])
    top, rest = conditional(moments(), [0], [1, 2])
    return jax.tree.map(jnp.asarray, {"up": up, "spread": spread, "top": top, "rest": rest})


BAYES = bayes()


def infer(weights, x, draw):
    z1 = draw("z1", Joint(weights["up"] @ x, weights["spread"]))
    draw("z2", Joint(weights["top"] @ z1, weights["rest"]))


MODEL = elbax.Model(programs.log_joint(generate), estimator=estimators.StickingTheLanding())


def evidence(x):
    return scipy.stats.multivariate_normal(np.zeros(3), moments()[3:, 3:]).logpdf(x)


def test_the_density_is_that_of_all_draws():
    z = programs.Ancestral(generate, PARAMS).sample(KEYS[0])
    joint = np.concatenate([z["z2"], z["z1"], z["x"]])
    expected = scipy.stats.multivariate_normal(np.zeros(6), moments()).logpdf(joint)
    found = programs.Ancestral(generate, PARAMS).log_prob(z)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_samples_have_the_covariance_of_the_program():
    draw = lambda key: programs.Ancestral(generate, PARAMS).sample(key)
    z = jax.jit(jax.vmap(draw))(jax.random.split(KEYS[1], 40_000))
    drawn = np.concatenate([z["z2"], z["z1"], z["x"]], -1)
    np.testing.assert_allclose(np.cov(drawn.T), moments(), atol=0.05)


def test_bayes_rule_as_a_program_has_the_evidence_at_every_draw():
    """The bound is the evidence without noise, and sticking the landing leaves no noise in the slope of q."""
    posterior = programs.encoder(infer, BAYES)
    step = elbax.GradientEStep(MODEL, optax.sgd(1.0))
    state = step.init(PARAMS, posterior, key=KEYS[2])
    after, info = jax.jit(step)(state, X)
    np.testing.assert_allclose(info.elbo, evidence(X).mean(), rtol=1e-10)
    moved = jax.tree.leaves(after.posterior.network.weights)
    for new, old in zip(moved, jax.tree.leaves(BAYES), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-10)


def test_sleep_learns_bayes_rule():
    """Dreams (x, z) teach the encoder the conditional means, which are linear."""
    weights = {"up": jnp.zeros((2, 3)), "scale": jnp.zeros(2)}

    def program(weights, x, draw):
        z1 = draw("z1", programs.Normal(weights["up"] @ x, jnp.exp(weights["scale"])))
        draw("z2", Joint(BAYES["top"] @ z1, BAYES["rest"]))

    sleep = elbax.SleepEStep(MODEL, optax.adam(0.03), programs.dream(generate), num_samples=500)
    state = sleep.init(PARAMS, programs.encoder(program, weights), key=KEYS[3])
    run = jax.jit(lambda state: jax.lax.scan(lambda s, _: sleep(s, X), state, length=300))
    learned = run(state)[0].posterior.network.weights
    up, spread = conditional(moments(), [1, 2], [3, 4, 5])
    np.testing.assert_allclose(learned["up"], up, atol=0.05)
    np.testing.assert_allclose(np.exp(learned["scale"]), np.sqrt(np.diag(spread)), atol=0.05)


def switches(params, draw):
    """A Helmholtz machine: two switches, one above the other, and three observed ones."""
    top = draw("top", Bernoulli()(params["top"]))
    below = draw("below", Bernoulli()(params["below"] @ jnp.append(top, 1).astype(float)))
    draw("x", Bernoulli()(params["x"] @ jnp.append(below, 1).astype(float)))


def guess(weights, x, draw):
    below = draw("below", Bernoulli()(weights["below"] @ x))
    draw("top", Bernoulli()(weights["top"] @ below.astype(float)))


def machine():
    shapes = {"top": (1,), "below": (2, 2), "x": (3, 3)}
    params = {n: jax.random.normal(k, s) for (n, s), k in zip(shapes.items(), KEYS)}
    weights = {
        "below": jax.random.normal(KEYS[4], (2, 3)),
        "top": jax.random.normal(KEYS[5], (1, 2)),
    }
    return params, weights, jnp.array([1.0, 0.0, 1.0])


def test_the_score_of_a_discrete_program_is_unbiased():
    params, weights, x = machine()
    joint = programs.log_joint(switches)
    model = elbax.Model(joint, estimator=estimators.ScoreFunction(4))
    states = [
        {"top": jnp.array(bits[:1]), "below": jnp.array(bits[1:])}
        for bits in itertools.product([0, 1], repeat=3)
    ]
    every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def bound(weights):
        q = programs.Ancestral(guess, weights, x)
        logs = jax.vmap(q.log_prob)(every)
        values = jax.vmap(lambda z: joint(params, x, z))(every)
        return jnp.sum(jnp.exp(logs) * (values - logs))

    def estimate(weights, key):
        return model.elbo(params, x, programs.encoder(guess, weights)(x), key)

    assert not programs.encoder(guess, weights)(x).moves
    keys = jax.random.split(KEYS[6], 20_000)
    each = jax.jit(jax.vmap(jax.value_and_grad(estimate), (None, 0)))(weights, keys)
    exact = jax.value_and_grad(bound)(weights)
    for found, expected in zip(jax.tree.leaves(each), jax.tree.leaves(exact), strict=True):
        error = 5 * np.std(found, axis=0) / np.sqrt(len(keys))
        np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - expected), error + 1e-12)


def walk(params, x, draw):
    """A random walk that is observed with noise; x has padding, and gaps that a mask names."""
    steps = jnp.arange(len(x.values["y"]))

    def step(z, _, draw):
        z = draw("z", programs.Normal(params * z, 0.5))
        return z, z

    _, z = draw.scan(step, jnp.zeros(2), length=len(steps), where=steps < x.length)
    seen = x.values["seen"] & (steps < x.length)[:, None]
    draw("y", programs.Normal(z, 0.3), where=seen)


def test_a_scan_is_a_loop_and_padding_does_not_count():
    rng = np.random.default_rng(1)
    y, seen = rng.normal(size=(6, 2)), rng.random((6, 2)) < 0.7
    given = {"y": jnp.asarray(np.where(seen, y, np.nan)), "seen": jnp.asarray(seen)}
    x = elbax.Sequence(given, jnp.array(4))
    z = programs.Ancestral(walk, jnp.array(0.9), x).sample(KEYS[7])["z"]
    found = programs.log_joint(walk, ("y",))(jnp.array(0.9), x, {"z": z})
    before = np.concatenate([np.zeros((1, 2)), z[:3]])
    expected = scipy.stats.norm.logpdf(z[:4], 0.9 * before, 0.5).sum()
    each = scipy.stats.norm.logpdf(y, z, 0.3)
    expected += each[:4][seen[:4]].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_modes_follow_one_another():
    found = programs.Ancestral(generate, PARAMS | {"A": PARAMS["A"] + 1}).mode()
    assert {name: leaf.shape for name, leaf in found.items()} == {"z2": (1,), "z1": (2,), "x": (3,)}
    chain = programs.Ancestral(
        walk, jnp.array(0.9), elbax.Sequence({"y": X, "seen": X > 0}, jnp.array(7))
    )
    np.testing.assert_array_equal(chain.mode()["z"], np.zeros((7, 2)))


def test_a_prior_is_a_program():
    def prior(params, draw):
        z2 = draw("z2", programs.Normal(jnp.zeros(1), 1.0))
        draw("z1", programs.Normal(params["A"] @ z2, params["a"]))

    def likelihood(params, x, z):
        return programs.Normal(params["B"] @ z["z1"], params["b"]).log_prob(x)

    apart = elbax.Model(
        likelihood=likelihood,
        prior=programs.prior(prior),
        estimator=estimators.StickingTheLanding(),
    )
    posterior = programs.encoder(infer, BAYES)
    found = elbax.elbo(apart, PARAMS, posterior, X, key=KEYS[0])
    np.testing.assert_allclose(found, evidence(X).mean(), rtol=1e-10)
    terms = elbax.elbo_terms(apart, PARAMS, posterior, X, key=KEYS[0])
    np.testing.assert_allclose(terms.reconstruction - terms.kl_prior, found, rtol=1e-10)


def test_a_key_reaches_a_program():
    def noisy(weights, x, draw, key=None):
        noise = 0.0 if key is None else jax.random.normal(key)
        draw("z", programs.Normal(weights + noise, 1.0))

    posterior = programs.encoder(noisy, jnp.zeros(2))
    assert (posterior(X[0]).mode()["z"] == 0).all()
    assert (posterior(X[0], key=KEYS[0]).mode()["z"] != 0).all()


def test_equal_programs_make_equal_models():
    def make(scale):
        return elbax.Model(
            programs.log_joint(lambda params, draw: draw("x", programs.Normal(params, scale)))
        )

    assert make(1.0) == make(1.0) and hash(make(1.0)) == hash(make(1.0))
    assert make(1.0) != make(2.0)


NORMAL = programs.Normal(jnp.zeros(()), 1.0)


@pytest.mark.parametrize(
    ("program", "given", "error", "words"),
    [
        (lambda draw: draw("a", NORMAL), {"b": 0.0}, ValueError, "draws 'a', but.*of \\['b'\\]"),
        (
            lambda draw: draw("a", NORMAL),
            {"a": 0.0, "b": 0.0},
            ValueError,
            "\\['b'\\] are given, but",
        ),
        (
            lambda draw: (draw("a", NORMAL), draw("a", NORMAL)),
            None,
            ValueError,
            "'a' twice.*draw.scan",
        ),
        (
            lambda draw: draw("a", 1.0),
            None,
            TypeError,
            "sample\\(key\\) and log_prob\\(z\\), got a float",
        ),
        (
            lambda draw: draw.scan(lambda c, x, draw: (c, draw("a", NORMAL)), 0.0),
            None,
            ValueError,
            "pass xs with the steps",
        ),
    ],
)
def test_errors_teach(program, given, error, words):
    p = programs.Ancestral(program)
    with pytest.raises(error, match=words):
        p.sample(KEYS[0]) if given is None else p.log_prob(given)


def test_active_units_of_a_program():
    """The variance of each mean over the data, with weights; a whole number counts as a number."""

    def program(weights, x, draw):
        draw("used", programs.Normal(jnp.stack([weights * x[0], jnp.zeros(())]), 1.0))
        draw("kind", elbax.Categorical(2)(jnp.stack([x[1], jnp.zeros(())])))

    batch = elbax.Batch(X, weight=jnp.arange(1.0, 8.0))
    found = elbax.diagnostics.active_units(programs.encoder(program, jnp.array(2.0)), batch)
    weight = np.arange(1.0, 8.0)
    expected = np.cov(2 * np.asarray(X)[:, 0], ddof=0, aweights=weight)
    np.testing.assert_allclose(found["used"], [expected, 0.0], rtol=1e-10, atol=1e-15)
    kind = np.cov((np.asarray(X)[:, 1] <= 0).astype(float), ddof=0, aweights=weight)
    np.testing.assert_allclose(found["kind"], kind, rtol=1e-10)


def test_active_units_need_modes(as_users_run):
    class Draws:
        def sample(self, key):
            return jax.random.normal(key)

    with pytest.raises(TypeError, match="this Draws has no mode"):
        elbax.diagnostics.active_units(lambda x: Draws(), X)


def wide(weights, x, draw):
    """A posterior that is too wide, in both layers."""
    z1 = draw("z1", Joint(weights["up"] @ x, 2 * weights["spread"]))
    draw("z2", Joint(weights["top"] @ z1, 1.5 * weights["rest"]))


def test_the_evidence_by_importance_sampling():
    """Within its standard errors, which are those of repetitions; without noise by Bayes' rule."""
    estimate = lambda posterior, key, **options: elbax.diagnostics.importance_evidence(
        MODEL, PARAMS, posterior, X, key=key, **options
    )
    exact = evidence(X).mean()
    found = estimate(programs.encoder(infer, BAYES), KEYS[0], num_samples=3)
    np.testing.assert_allclose(found.evidence, exact, rtol=1e-10)
    assert found.standard_error < 1e-7 and abs(found.effective_samples - 3) < 1e-6
    posterior = programs.encoder(wide, BAYES)
    many = [estimate(posterior, key, num_samples=250) for key in jax.random.split(KEYS[1], 60)]
    values = np.array([one.evidence for one in many])
    errors = np.array([one.standard_error for one in many])
    assert abs(values.mean() - exact) < 5 * values.std() / np.sqrt(60) + 2 * errors.mean() ** 2
    np.testing.assert_allclose(errors.mean(), values.std(), rtol=0.3)
    # A datum has draws of its own, in whatever chunk it is.
    chunked = estimate(posterior, KEYS[1], num_samples=250, chunk_size=3)
    whole = estimate(posterior, KEYS[1], num_samples=250)
    np.testing.assert_allclose(chunked.evidence, whole.evidence, rtol=1e-12)
    assert "of 250 draws" in str(whole)


def test_importance_sampling_needs_a_density():
    model = elbax.GaussianMixture(2)
    params = model.init(KEYS[0], X)
    hard = elbax.posteriors.Hard(elbax.Exact(model, params))
    with pytest.raises(TypeError, match="has no log_prob"):
        elbax.diagnostics.importance_evidence(model, params, hard, X, key=KEYS[0])


def ladder(weights, params, x, draw):
    """q(z2 | x) q(z1 | z2, x), whose second factor is p(z1 | z2; θ) times what the network says of z1."""
    z2 = draw("z2", programs.Normal(weights["top"] @ x, jnp.exp(weights["scale"])))
    above, says = params["a"] ** -2, jnp.exp(weights["precision"])
    precision = above + says
    mean = (above * (params["A"] @ z2) + says * (weights["up"] @ x)) / precision
    draw("z1", programs.Normal(mean, precision**-0.5))


LADDER = {
    "top": jnp.array([[0.2, -0.1, 0.3]]),
    "scale": jnp.array([-0.3]),
    "up": 0.3 * jax.random.normal(KEYS[4], (2, 3)),
    "precision": jnp.array([0.1, -0.2]),
}


def climbing(model, params=PARAMS, weights=LADDER):
    return programs.encoder(ladder, weights, target=elbax.Exact(model, params))


@pytest.mark.parametrize("through", [True, False])
def test_the_gradient_through_an_encoder_that_reads_the_params(through):
    """With `through` it is that of the bound as one function of θ; without, θ inside of q stays."""
    step = elbax.JointGradientStep(MODEL, optax.sgd(1.0), through=through)

    def one_function(params, weights):
        inside = params if through else jax.lax.stop_gradient(params)
        posterior, key = climbing(MODEL, inside, weights), jax.random.split(KEYS[0])[1]
        return elbax.elbo(MODEL, params, posterior, X, key=key)

    @jax.jit
    def both(params, weights):
        state = step.init(params, climbing(MODEL, params, weights), key=KEYS[0])
        after, info = step(state, X)
        moved = after.params, after.posterior.network.weights
        steps = jax.tree.map(lambda new, old: new - old, moved, (params, weights))
        return (info.elbo, steps), jax.value_and_grad(one_function, (0, 1))(params, weights)

    ours, theirs = both(PARAMS, LADDER)
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_what_reads_the_params_sees_those_of_the_step_in_every_wrapper():
    """Tied, annealed and at draws of θ, the program gets the params that the log-joint has."""
    tied = elbax.Tied(MODEL, lambda params: params["all"])
    posterior = climbing(tied, {"all": PARAMS})
    found = elbax.elbo(tied, {"all": PARAMS}, posterior, X, key=KEYS[0])
    expected = elbax.elbo(MODEL, PARAMS, climbing(MODEL), X, key=KEYS[0])
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    step = elbax.JointGradientStep(MODEL, optax.sgd(0.1), through=True)
    annealed = elbax.wrappers.Anneal(step, optax.constant_schedule(1.0))
    ends = [
        jax.jit(update)(update.init(PARAMS, climbing(MODEL), key=KEYS[0]), X)[0]
        for update in (step, annealed)
    ]
    for found, expected in zip(
        *map(jax.tree.leaves, (ends[0].params, ends[1].params)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_reads_the_params_sees_the_draw_of_a_belief():
    """q(z) = p(z | θ) at the same θ: nothing is left of the bound but the global term."""
    joint = programs.log_joint(lambda params, x, draw: draw("z", programs.Normal(params, 1.0)), ())
    model = elbax.Model(joint)
    bayesian = elbax.Bayesian(model, elbax.beliefs.GaussianBelief(prior=1.0))
    belief = bayesian.start(jnp.zeros(2), X)
    same = lambda weights, params, x, draw: draw("z", programs.Normal(params, 1.0))
    posterior = programs.encoder(same, (), target=elbax.Exact(bayesian, belief))
    found = elbax.elbo(bayesian, belief, posterior, X, key=KEYS[0])
    np.testing.assert_allclose(found, bayesian.log_prior(belief) / len(X), rtol=1e-10)


def test_an_encoder_made_of_the_params_has_no_weights():
    """The encoder may be a part of θ; a joint step with `through` then trains it there."""

    def program(weights, params, x, draw):
        ladder(params["encoder"], params["model"], x, draw)

    joint = programs.log_joint(lambda params, draw: generate(params["model"], draw))
    model = elbax.Model(joint, estimator=estimators.StickingTheLanding())
    params = {"model": PARAMS, "encoder": LADDER}
    posterior = programs.encoder(program, (), target=elbax.Exact(model, params))
    step = elbax.JointGradientStep(model, optax.sgd(0.1), through=True)
    inside = jax.jit(step)(step.init(params, posterior, key=KEYS[0]), X)[0].params
    apart = elbax.JointGradientStep(MODEL, optax.sgd(0.1), through=True)
    state = jax.jit(apart)(apart.init(PARAMS, climbing(MODEL), key=KEYS[0]), X)[0]
    expected = {"model": state.params, "encoder": state.posterior.network.weights}
    for found, other in zip(*map(jax.tree.leaves, (inside, expected)), strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-12)
    with pytest.raises(TypeError, match="no weights to train"):
        elbax.JointGradientStep(model, optax.sgd(0.1)).init(params, posterior, key=KEYS[0])


def test_an_encoder_reads_the_params_of_its_own_model(as_users_run):
    other = elbax.Model(programs.log_joint(generate))
    step = elbax.JointGradientStep(other, optax.sgd(0.1), through=True)
    with pytest.raises(ValueError, match="reads the params of another model: a Model whose"):
        step.init(PARAMS, climbing(MODEL), key=KEYS[0])
    mixture = elbax.GaussianMixture(2)
    params = mixture.init(KEYS[0], X)
    with pytest.raises(TypeError, match="GaussianMixture: a pass over data sees its natural"):
        programs.encoder(ladder, LADDER, target=elbax.Exact(mixture, params))(X[0])
    with pytest.raises(TypeError, match="Amortized: target must be elbax.Exact"):
        programs.encoder(ladder, LADDER, target=PARAMS)


def test_a_joint_density_of_a_program_needs_names():
    def generate(params, draw):
        draw("x", elbax.programs.Normal(draw("z", elbax.programs.Normal(jnp.zeros(2), 1.0)), 1.0))

    log_joint = elbax.programs.log_joint(generate)
    with pytest.raises(
        TypeError, match=r"what the program draws, by name; got an array of shape \(2,\)"
    ):
        log_joint({}, jnp.zeros(2), jnp.zeros(2))


@pytest.mark.parametrize(
    ("distribution", "where", "message"),
    [
        (
            elbax.DiagonalGaussian(4)((jnp.zeros(4), jnp.ones(4))),
            jnp.array([True, True, False, True]),
            r"draws 'x' with `where` of shape \(4,\), but .* is a single number. Use a distribution of",
        ),
        (
            programs.Normal(jnp.zeros(4), 1.0),
            jnp.ones(3, bool),
            r"with `where` of shape \(3,\), but .* is numbers of shape \(4,\)",
        ),
        (
            programs.Normal(jnp.zeros(4), 1.0),
            jnp.ones((5, 4), bool),
            r"with `where` of shape \(5, 4\), but .* is numbers of shape \(4,\)",
        ),
    ],
)
def test_a_where_that_does_not_fit_is_refused(distribution, where, message):
    """A density of all entries would count once for each of them."""

    def program(_, draw):
        draw("x", distribution, where=where)

    with pytest.raises(ValueError, match=message):
        programs.Ancestral(program, ()).log_prob({"x": jnp.zeros(4)})


def test_missing_entries_have_no_slope():
    seen = jnp.array([True, False])

    def density(mean):
        draw = lambda _, draw: draw("x", programs.Normal(mean, 1.0), where=seen)
        return programs.Ancestral(draw, ()).log_prob({"x": jnp.array([1.0, jnp.nan])})

    assert jax.grad(density)(jnp.zeros(2)).tolist() == [1, 0]


def test_names_of_the_datum_are_checked():
    def program(_, draw):
        draw("x", programs.Normal(draw("z", programs.Normal(0.0, 1.0)), 1.0))

    z = {"z": jnp.array(0.0), "x": jnp.array(1.0)}
    with pytest.raises(ValueError, match=r"the latent has values of \['x'\], which are observed"):
        programs.log_joint(program)((), jnp.array(1.0), z)
    for x, given in ((jnp.zeros(3), "an array"), ({"y": 1.0}, r"a dictionary of \['y'\]")):
        with pytest.raises(ValueError, match=rf"a datum that is a dictionary; got .*{given}"):
            programs.log_joint(program, ("x",))((), x, {"z": jnp.array(0.0)})


def test_what_is_no_distribution_or_no_dictionary_is_refused(as_users_run):
    draw = lambda _, draw: draw("x", elbax.families.Bernoulli())
    with pytest.raises(TypeError, match="the family without its natural parameters"):
        programs.Ancestral(draw, ()).sample(jax.random.key(0))
    prior = programs.prior(lambda _, draw: draw("z", programs.Normal(jnp.zeros(2), 1.0)))
    latent = elbax.DiagonalGaussian(2)
    model = elbax.Model(likelihood=lambda p, x, z: jnp.sum(x), prior=prior, latent=latent)
    q = lambda x, key=None: latent((x, jnp.ones(2)))
    with pytest.raises(TypeError, match=r"a dictionary by name; got an array of shape \(2,\)"):
        elbax.elbo(model, (), q, jnp.zeros((3, 2)), key=jax.random.key(0))
