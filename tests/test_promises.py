"""What a composition promises: never more than holds, and no less than can be told from its parts."""

import cases
import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import elbax


SYSTEM = cases.find("factors-diagonal:ecme").system
MODEL, PARAMS, X = SYSTEM.model, SYSTEM.params, SYSTEM.x
E, M, V, N = (
    step(MODEL)
    for step in (elbax.ExactEStep, elbax.ClosedFormMStep, elbax.EvidenceMStep, elbax.NewtonMStep)
)
G = elbax.GradientMStep(MODEL, optax.sgd(0.1))


def chain(*updates):
    return elbax.Chain(*updates)


def guard(*updates):
    return elbax.wrappers.Guard(elbax.Chain(*updates), falling=True)


class Own(elbax.AbstractUpdate):
    """A user's step: no more than the documented methods."""

    update: elbax.Chain
    ascends = False

    def __call__(self, state, batch):
        return self.update(state, batch)

    def settle(self, state, batch):
        return self.update.settle(state, batch)


class Cautious(elbax.Chain):
    ascends = False


PROMISED = {
    "the M-step of ECME comes last": chain(E, M, V),
    "it comes first, and the posterior after it": chain(V, E, M),
    "twice": elbax.wrappers.Repeat(chain(E, M, V), 2),
    "now and then, all together": elbax.wrappers.Every(chain(E, M, V), 2),
    "an evidence never falls": chain(V),
    "variational EM": chain(elbax.MeanFieldEStep(MODEL), M),
    "all that may move moves": elbax.wrappers.Only(chain(E, M)),
    "nothing moves": elbax.wrappers.Only(chain(E, G), params=False, posterior=False),
    "a guarded M-step, then another at its posterior": chain(
        E, elbax.wrappers.Guard(G, falling=True), M
    ),
    "a guarded chain, and the posterior after it": chain(guard(E, G), E, M),
    "extrapolated": elbax.wrappers.Accelerate(chain(E, M)),
    "averaged beside": elbax.wrappers.Averaged(chain(E, M)),
    "a frozen part before it is left behind": chain(
        E, M, elbax.wrappers.Only(G, params=False, posterior=False), V
    ),
}
NOT_PROMISED = {
    "an M-step at a posterior that lags behind": chain(E, V, N),
    "which lags behind from the step before": chain(M, V),
    "the same within one step": elbax.wrappers.Repeat(chain(M, V), 2),
    "the posterior is brought up now and then": chain(elbax.wrappers.Every(E, 2), M, V),
    "a gradient step": chain(E, G),
    "a part is put back": elbax.wrappers.Only(chain(E, M), posterior=False),
    "a guarded chain leaves its posterior behind": chain(guard(E, G), M),
    "an annealed objective": elbax.wrappers.Anneal(chain(E, M), lambda step: 0.5),
    "guarded, part of its posterior settles": chain(
        elbax.wrappers.Guard(
            elbax.wrappers.Only(chain(E, G), posterior=elbax.Exact(MODEL, True)), falling=True
        ),
        M,
    ),
    "what measures a posterior that lags behind": chain(
        guard(E, G), elbax.wrappers.Only(M, params=False, posterior=False)
    ),
    "one's own step that settles": chain(elbax.wrappers.Guard(Own(chain(E, G)), falling=True), M),
    "a subclass that takes its promise back": elbax.wrappers.Repeat(Cautious(E, M), 2),
    "draws": chain(elbax.MonteCarloEStep(MODEL), M),
}


@pytest.mark.parametrize("name", PROMISED)
def test_is_promised(name):
    assert PROMISED[name].ascends


@pytest.mark.parametrize("name", NOT_PROMISED)
def test_is_not_promised(name):
    assert not NOT_PROMISED[name].ascends


@eqx.filter_jit
def evidences(update, state):
    def body(state, _):
        moved, info = update(state, X)
        settled = update.settle(moved, X)
        return moved, (elbax.elbo(MODEL, settled.params, settled.posterior, X), info.elbo)

    return jax.lax.scan(body, state, length=8)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["the M-step of ECME comes last", "a guarded M-step, then another at its posterior"]
)
def test_a_promise_holds(name):
    update = PROMISED[name]
    state = update.init(PARAMS, elbax.Exact(MODEL, PARAMS), key=jax.random.key(0))
    for values in evidences(update, state):
        assert np.all(np.diff(values) >= -1e-12)


@pytest.mark.slow
def test_what_is_not_promised_may_fall():
    """A Newton step after the evidence's own maximum: at the posterior of the params before it leads down."""
    update = chain(E, V, N)
    state = update.init(PARAMS, elbax.Exact(MODEL, PARAMS), key=jax.random.key(0))
    settled, _ = evidences(update, state)
    assert np.any(np.diff(settled) < -1e-6)


def test_under_draws_nothing_is_a_fall():
    """`fit` takes no estimate that falls for a wrong M-step, nor one that gains nothing for the end."""
    system = cases.of("counts", elbax.Mixture(elbax.components.Poisson(), 2), cases.counts)
    update = elbax.Chain(elbax.ClosedFormMStep(system.model))
    posterior = elbax.posteriors.MonteCarlo(elbax.Exact(system.model, system.params), 2)
    state = update.init(system.params, posterior, key=jax.random.key(1))
    result = elbax.fit(update, state, system.x, max_steps=40)
    assert update.ascends and np.any(np.diff(result.trace) < -1e-3)
    assert result.code == "max_steps"
