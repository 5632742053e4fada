"""EM as reinforcement learning: log R(s, a) is a log-likelihood, the policy p(a | s) a prior of the latent a."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
import scipy.special

import elbax


REWARDS = jnp.array([[0.2, 1.0, 0.5, 0.9], [2.0, 0.1, 0.3, 0.4]])  # of each action in each state
STATES = jnp.arange(2)


def log_joint(logits, state, action):
    return jax.nn.log_softmax(logits[state])[action] + jnp.log(REWARDS[state, action])


MODEL = elbax.Model(log_joint, elbax.Categorical(4))
LOGITS = jnp.array([[0.3, -0.2, 0.1, 0.0], [-1.0, 0.5, 0.0, 0.2]])


def returns(logits):
    """E[R | s] of each state."""
    return jnp.sum(jax.nn.softmax(logits) * REWARDS, -1)


def test_the_return_never_falls_with_rewards_as_weights():
    """One state: the rows are its arms, the weight of each the reward that its share of the policy earns."""
    arms, reward = jnp.arange(4)[:, None], REWARDS[0]
    policy = elbax.Mixture(elbax.components.Categorical((4,)), 1)
    start = jnp.array([0.7, 0.05, 0.2, 0.05])
    params = policy.from_description(weights=[1.0], probabilities=start[None, None])
    m_step = elbax.ClosedFormMStep(policy)

    def step(state, _):
        shares = policy.describe(state.params)["probabilities"][0, 0]
        state, _ = m_step(state, elbax.Batch(arms, weight=shares * reward))
        return state, shares

    state = m_step.init(params, elbax.Exact(policy, params), key=jax.random.key(0))
    _, shares = jax.lax.scan(step, state, length=60)
    by_hand = start * reward ** jnp.arange(60.0)[:, None]
    np.testing.assert_allclose(shares, by_hand / by_hand.sum(1, keepdims=True), rtol=1e-6)
    earned = shares @ reward
    assert (jnp.diff(earned) >= 0).all()
    assert earned[0] < 0.35 and earned[-1] > 0.99


def test_the_exact_step_has_the_policy_gradient():
    """At q ∝ policy · reward the slope of the bound is that of log E[R | s]: the policy gradient over E[R | s]."""
    update = elbax.Chain(elbax.ExactEStep(MODEL), elbax.GradientMStep(MODEL, optax.sgd(1.0)))
    state = update.init(LOGITS, elbax.Exact(MODEL, LOGITS), key=jax.random.key(0))
    after, info = update(state, STATES)
    np.testing.assert_allclose(info.elbo, jnp.log(returns(LOGITS)).mean(), rtol=1e-12)

    shares = jax.nn.softmax(LOGITS)
    value = returns(LOGITS)[:, None]
    # The theorem of the policy gradient for a softmax: π (R − E[R | s]).
    policy_gradient = shares * (REWARDS - value)
    np.testing.assert_allclose(after.params - LOGITS, policy_gradient / value / 2, rtol=1e-9)


def old_policy(state, *, key=None):
    return elbax.Categorical(4)(LOGITS[state])


def test_the_bound_of_the_old_policys_draws_is_the_weighted_reward():
    """log of the mean over draws of R(s, a) p(a | s) / p_old(a | s), and its mean over all draws."""
    new = LOGITS + jnp.array([[0.0, 0.5, 0.0, -0.3], [0.4, 0.0, -0.2, 0.0]])
    q = elbax.posteriors.Importance(old_policy, elbax.Exact(MODEL, new), 2)
    keys = jax.random.split(jax.random.key(1), 4000)
    draw = lambda key: jax.vmap(lambda s: q(s, key=key))(STATES)
    drawn = jax.jit(jax.vmap(draw))(keys)
    old, now = scipy.special.softmax(LOGITS, 1), scipy.special.softmax(new, 1)
    weights = np.asarray(REWARDS) * now / old

    own = jax.vmap(lambda q, s: q.expect(lambda a: log_joint(new, s, a)) + q.entropy())
    bounds = jax.jit(jax.vmap(lambda q: own(q, STATES)))(drawn)
    by_hand = np.log(np.take_along_axis(weights[None], np.asarray(drawn.z), 2).mean(2))
    np.testing.assert_allclose(bounds, by_hand, rtol=1e-9)

    pairs = np.log((weights[:, :, None] + weights[:, None, :]) / 2)
    expected = (pairs * old[:, :, None] * old[:, None, :]).sum((1, 2))
    error = by_hand.std(0) / np.sqrt(len(by_hand))
    assert (np.abs(by_hand.mean(0) - expected) < 5 * error).all()
    assert (expected < np.log(np.asarray(returns(new)))).all()


A, B = jnp.array([[1.0, 0.1], [0.0, 1.0]]), jnp.array([0.0, 0.1])  # a cart: position, speed; force
COST, EFFORT = jnp.diag(jnp.array([1.0, 0.1])), 0.1
LINEAR = elbax.Mixture(elbax.components.LinearRegression(), 1)


def action_value(gain, state, action):
    """−(cost of the action, and of following `gain` from then on), by Lyapunov's equation."""
    closed = A + jnp.outer(B, gain)
    cost = COST + EFFORT * jnp.outer(gain, gain)
    ahead = jnp.linalg.solve(jnp.eye(4) - jnp.kron(closed.T, closed.T), cost.ravel())
    after = state @ A.T + action[..., None] * B
    quadratic = lambda s, matrix: jnp.sum(s @ matrix * s, -1)
    return -quadratic(state, COST) - EFFORT * action**2 - quadratic(after, ahead.reshape(2, 2))


def temperature(values, epsilon):
    """The minimum of MPO's convex dual: KL(q ‖ policy) is epsilon there."""
    candidates = jnp.logspace(-7, 2, 100)

    def dual(eta):
        return eta * (epsilon + jnp.mean(jax.nn.logsumexp(values / eta, 1, b=1 / values.shape[1])))

    return candidates[jnp.argmin(jax.vmap(dual)(candidates))]


def gains(eta_of, num_steps, number=12):
    """The policy's gain after each step: the E-step weighs its own draws, the M-step is a weighted regression."""
    m_step = elbax.ClosedFormMStep(LINEAR)

    def step(state, key):
        keys = jax.random.split(key)
        gain = state.params["components"]["coefficients"][0, 1:]
        at = jnp.repeat(jax.random.normal(keys[0], (300, 2)), number, 0)
        actions, _ = LINEAR.sample(state.params, keys[1], inputs=at)
        values = action_value(gain, at, actions).reshape(-1, number)
        weight = number * jax.nn.softmax(values / eta_of(values), 1).ravel()
        state, _ = m_step(state, elbax.Batch((at, actions), weight=weight))
        return state, state.params["components"]["coefficients"][0, 1:]

    start = LINEAR.from_description(
        weights=[1.0], coefficients=[[0.0, -1.0, -1.0]], deviations=[1.0]
    )
    state = m_step.init(start, elbax.Exact(LINEAR, start), key=jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), num_steps)
    return jax.jit(lambda state: jax.lax.scan(step, state, keys)[1])(state)


def test_policies_reach_riccatis_gain():
    """At a geometric rate with the temperature of MPO's dual. At a fixed one the policy's noise shrinks: after n
    steps its precision is that of n rewards, and a step moves the gain by 1 / n of the way.
    """
    matrices = [np.asarray(m, float) for m in (A, B[:, None], COST, [[EFFORT]])]
    cost = scipy.linalg.solve_discrete_are(*matrices)
    best = -(B @ cost @ A) / (EFFORT + B @ cost @ B)

    dual = gains(lambda values: temperature(values, 0.1), 30)
    gap = jnp.abs(dual - best).max(1)
    assert gap[0] > 1 and gap[9] < 0.1 and gap[-1] < 1e-3

    fixed = jnp.abs(gains(lambda values: 0.5, 30) - best).max(1)
    assert 0.02 < fixed[-1] < fixed[9] < fixed[0]
