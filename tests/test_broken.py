"""Every law can fail: a deliberately broken case is caught by it."""

import dataclasses
import itertools

import cases
import equinox as eqx
import jax
import jax.numpy as jnp
import laws
import pytest

import elbax


SYSTEM = cases.gaussian_mixture("full", "difference")
GOOD = cases.find("mixture-full-difference:exact/closed")


def with_m_step(m_step):
    def make(rate):
        return elbax.Chain(elbax.ExactEStep(SYSTEM.model), m_step)

    return cases.Case("broken", SYSTEM, make, lambda: elbax.Exact(SYSTEM.model, SYSTEM.params))


class Wrapped(elbax.AbstractUpdate):
    """The good M-step, with something done to it by a subclass."""

    m_step: elbax.AbstractUpdate = eqx.field(
        default_factory=lambda: elbax.ClosedFormMStep(SYSTEM.model)
    )

    @property
    def ascends(self):
        return True


class Falling(Wrapped):
    """Overshoots, yet promises to ascend."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        far = jax.tree.map(lambda new, old: new + 3 * (new - old), moved.params, state.params)
        return moved.replace(params=far), info


class Leaking(Wrapped):
    """An M-step that also moves the posterior."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        return moved.replace(posterior=elbax.Exact(SYSTEM.model, moved.params)), info


class LeakingMStep(Leaking):
    pass


class Weak(Wrapped):
    """Turns a shape: the carry would not keep its structure."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        params = moved.params | {"logits": moved.params["logits"].astype(jnp.float32)}
        return moved.replace(params=params), info


COUNTER = itertools.count()


class Impure(Wrapped):
    """Draws from a generator of its own instead of the state's key."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        noise = jax.random.normal(jax.random.key(next(COUNTER)), ())
        return moved.replace(params=jax.tree.map(lambda p: p + 1e-6 * noise, moved.params)), info


class Unweighted(Wrapped):
    """Forgets weights and masks."""

    def __call__(self, state, batch):
        x = batch.x if isinstance(batch, elbax.Batch) else batch
        return self.m_step(state, jnp.nan_to_num(x))


class Reckless(Wrapped):
    """Has a Python branch on a traced value: no scan body."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        return (moved if info.elbo > -1e9 else state), info


class Factoring(Wrapped):
    """Calls LAPACK, which under `vmap` takes a batch."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        one = jnp.linalg.cholesky(jnp.eye(2) + moved.params["logits"][0] ** 2)[0, 0]
        return moved.replace(params=jax.tree.map(lambda p: p + 0 * one, moved.params)), info


class Drifting(Wrapped):
    """Takes the scale of the data for a param."""

    def __call__(self, state, batch):
        moved, info = self.m_step(state, batch)
        return moved.replace(params=jax.tree.map(lambda leaf: 1.001 * leaf, moved.params)), info


@pytest.mark.parametrize(
    ("law", "update", "error"),
    [
        (laws.ascent, Falling, AssertionError),
        (laws.claims, LeakingMStep, AssertionError),
        (laws.claims, Drifting, AssertionError),
        (laws.structure, Weak, AssertionError),
        (laws.purity, Impure, AssertionError),
        (laws.weights, Unweighted, AssertionError),
        (laws.array_operations, Factoring, AssertionError),
        (laws.scan, Reckless, jax.errors.TracerBoolConversionError),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_broken_update_is_caught(law, update, error):
    with pytest.raises(error):
        law(with_m_step(update()))


def test_recompilation_is_caught():
    @dataclasses.dataclass(frozen=True)
    class Eager(cases.Case):
        def step(self, state, batch):
            return jax.jit(lambda state, batch: self.update(state, batch))(state, batch)

    broken = with_m_step(elbax.ClosedFormMStep(SYSTEM.model))
    eager = Eager(broken.name, broken.system, broken.make, broken.make_posterior)
    with pytest.raises(AssertionError, match="compiled again"):
        laws.one_trace(eager)


class HalfMStep(elbax.components.Normal):
    """Stops half way: it ascends all the same, so only stationarity tells."""

    def maximize(self, statistics, params, free):
        full = elbax.components.Normal.maximize(self, statistics, params, free)
        return jax.tree.map(lambda new, old: 0.5 * (new + old), full, params)


class OneSided(elbax.components.Normal):
    """The precision enters through its lower triangle alone: its gradient is not the statistic."""

    def log_densities(self, natural, x):
        lower = jnp.tril(natural["precision"], -1)
        once = 2 * lower + natural["precision"] * jnp.eye(lower.shape[-1])
        return elbax.components.Normal.log_densities(self, natural | {"precision": once}, x)


class Curved(elbax.components.Normal):
    """A log-density that is not linear in its natural coordinates."""

    def log_densities(self, natural, x):
        densities = elbax.components.Normal.log_densities(self, natural, x)
        return densities + 0.1 * (natural["count"] ** 2)


def broken_mixture(component):
    model = elbax.Mixture(component("full", form="difference", floor=0.01), 3)
    return cases.System("broken", model, lambda x: SYSTEM.params, lambda: SYSTEM.x)


def test_half_an_m_step_ascends_but_is_not_stationary():
    system = broken_mixture(HalfMStep)
    update = elbax.em(system.model)
    posterior = lambda: elbax.Exact(system.model, system.params)
    laws.ascent(cases.Case("half", system, lambda rate: update, posterior))
    with pytest.raises(AssertionError):
        laws.stationarity(system)


def test_a_one_sided_symmetric_leaf_is_caught():
    with pytest.raises(AssertionError):
        laws.statistics(broken_mixture(OneSided))


def test_curved_coordinates_are_caught():
    with pytest.raises(AssertionError):
        laws.statistics(broken_mixture(Curved))


class AbsoluteFloor(elbax.components.Normal):
    """A floor in squared units of the data."""

    def _floor(self, params):
        return self.floor**0.5 * jnp.eye(params["mean"].shape[-1])


def test_a_floor_in_units_is_caught():
    system = dataclasses.replace(broken_mixture(AbsoluteFloor), name=SYSTEM.name)
    update = elbax.em(system.model)
    posterior = lambda: elbax.Exact(system.model, system.params)
    with pytest.raises(AssertionError):
        laws.units(cases.Case("absolute", system, lambda rate: update, posterior))


class Careless(elbax.components.Normal):
    """Takes the first row of whatever comes."""

    def log_densities(self, natural, x):
        return elbax.components.Normal.log_densities(self, natural, x.reshape(-1, 2)[0])


class OverAll(elbax.Categorical):
    """Its entropy is that of all rows together."""


def entropy_over_all(self, natural):
    shares = jax.nn.softmax(natural)
    return -jnp.sum(shares * jnp.log(shares))


OverAll.entropy = entropy_over_all


class MixtureOverAll(elbax.Mixture):
    @property
    def latent(self):
        return OverAll(self.num_components)


def test_a_table_for_a_datum_is_caught():
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        laws.one_datum(broken_mixture(Careless))


def test_an_answer_over_all_rows_is_caught():
    model = MixtureOverAll(elbax.components.Normal("full", floor=0.01), 3)
    with pytest.raises(AssertionError):
        laws.batch(cases.System("broken", model, lambda x: SYSTEM.params, lambda: SYSTEM.x))


def test_the_good_case_passes():
    for law in (laws.ascent, laws.claims, laws.structure, laws.purity):
        law(GOOD)


class Forgetful(elbax.posteriors.Hard):
    """Does not bring what is inside of it up to new params."""

    def bind(self, model, params):
        return self


class Greedy(elbax.posteriors.Hard):
    """Trains the params of the snapshot inside of it."""

    def weights(self):
        return self


class Stale(elbax.posteriors.Hard):
    """Prepares another posterior for a pass than it is."""

    def prepare(self, at):
        params = at.params | {"logits": jnp.array([0.0, 0.0, 1e3])}
        return elbax.posteriors.Hard(elbax.Exact(at.model, params))


@pytest.mark.parametrize(
    ("law", "kind"), [(laws.follows, Forgetful), (laws.trains, Greedy), (laws.prepares, Stale)]
)
def test_a_broken_posterior_is_caught(law, kind):
    make = lambda: kind(elbax.Exact(SYSTEM.model, SYSTEM.params))
    step = lambda rate: elbax.ClosedFormMStep(SYSTEM.model)
    broken = cases.Case("broken", SYSTEM, step, make)
    with pytest.raises(AssertionError):
        law(broken)
