"""What each wrapper means: against the same done by hand."""

import functools
import json
import pathlib

import cases
import equinox as eqx
import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
from test_broken import Falling
from test_golden import DAYS

import elbax
from elbax._tempered import Tempered


DATA = pathlib.Path(__file__).parent / "data"
# Of little to compile; the laws hold the wrappers to more.
SYSTEM = cases.of("counts", elbax.Mixture(elbax.components.Poisson(), 3), cases.counts)
FULL = cases.find("mixture-full-auto:exact/closed").system
MODEL, PARAMS = SYSTEM.model, SYSTEM.params
E_STEP, M_STEP = elbax.ExactEStep(MODEL), elbax.ClosedFormMStep(MODEL)
EM = elbax.Chain(E_STEP, M_STEP)


def start(update, params=PARAMS, posterior=None, seed=0):
    posterior = elbax.Exact(MODEL, params) if posterior is None else posterior
    return update.init(params, posterior, key=jax.random.key(seed))


@eqx.filter_jit
def scan(update, state, batch, num_steps):
    """(end, infos, the states after each step)."""

    def body(state, _):
        state, info = update(state, batch)
        return state, (info, state)

    end, (infos, states) = jax.lax.scan(body, state, length=num_steps)
    return end, infos, states


@eqx.filter_jit
def scan_over(update, state, batches):
    return jax.lax.scan(update, state, batches)


@functools.cache
def em_path():
    return scan(EM, start(EM), SYSTEM.x, 9)


def pick(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


# --- Repeat, Every, Only ---------------------------------------------------------------------------


def test_repeat():
    """Three sweeps as one."""
    _, infos, states = em_path()
    update = elbax.wrappers.Repeat(EM, 3)
    _, ours, ends = scan(update, start(update), SYSTEM.x, 3)
    for i in range(3):
        laws.assert_close(laws.points(pick(ends, i)), laws.points(pick(states, 3 * i + 2)), 1e-12)
        laws.assert_close(ours.elbo[i], infos.elbo[3 * i + 2], 1e-12)


def test_every():
    """Steps 1, 4, 7 are those of EM; the others leave the state to the bit, and the last ELBO."""
    _, infos, states = em_path()
    update = elbax.wrappers.Every(EM, 3, offset=1)
    first = start(update)
    _, ours, ends = scan(update, first, SYSTEM.x, 9)
    before = first
    for t in range(9):
        after = pick(ends, t)
        if t % 3 == 1:
            laws.assert_close(laws.points(after), laws.points(pick(states, t // 3)), 1e-12)
            laws.assert_close(ours.elbo[t], infos.elbo[t // 3], 1e-12)
            assert np.isfinite(ours.parts[1].elbo[t])
        else:
            laws.assert_equal((laws.points(after), after.key), (laws.points(before), before.key))
            # The first step measures, though it does not act.
            np.testing.assert_array_equal(ours.elbo[t], ours.elbo[t - 1] if t else infos.elbo[0])
            assert np.isneginf(ours.parts[1].elbo[t]) == (t > 0)
        assert after.memory.step == t + 1
        before = after


@pytest.mark.slow
def test_a_turn_that_has_not_come_is_no_failure():
    """Neither for `fit` nor for `Guard`."""
    late = elbax.wrappers.Every(EM, 2, offset=1)
    result = elbax.fit(late, start(late), SYSTEM.x)
    assert result.code == "converged"
    np.testing.assert_allclose(result.elbo, elbax.fit(EM, start(EM), SYSTEM.x).elbo, rtol=1e-10)
    guarded = elbax.wrappers.Guard(late)
    state, _ = guarded(start(guarded), SYSTEM.x)
    assert state.memory.skipped == 0


def test_every_keeps_none():
    update = elbax.wrappers.Every(E_STEP, 2)
    info = jax.eval_shape(lambda s: update(s, SYSTEM.x)[1], start(update))
    assert info.elbo is None


def test_every_under_vmap():
    """Lanes out of step with each other: each acts at its own turn."""
    update = elbax.wrappers.Every(EM, 2)
    state = start(update)
    later = eqx.tree_at(lambda s: s.memory.step, state, state.memory.step + 1)
    later = eqx.tree_at(lambda s: s.memory.elbo, later, jnp.asarray(-7.0))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, later)
    ends, infos = jax.jit(jax.vmap(lambda s: update(s, SYSTEM.x)))(both)
    laws.assert_equal(laws.points(pick(ends, 1)), laws.points(later))
    _, _, states = em_path()
    laws.assert_close(laws.points(pick(ends, 0)), laws.points(pick(states, 0)), 1e-12)
    assert np.isfinite(infos.elbo[0]) and infos.elbo[1] == -7.0


def test_only():
    mask = jnp.array([True, False, True])
    update = elbax.wrappers.Only(EM, params={"logits": mask, "components": False}, posterior=True)
    end, info, _ = scan(update, start(update), SYSTEM.x, 1)
    _, infos, states = em_path()
    laws.assert_equal(end.params["components"], PARAMS["components"])
    moved = pick(states, 0).params["logits"]
    np.testing.assert_allclose(
        end.params["logits"], jnp.where(mask, moved, PARAMS["logits"]), rtol=1e-12
    )
    assert end.params["logits"][1] == PARAMS["logits"][1]
    laws.assert_close(info.elbo[0], infos.elbo[0], 1e-12)


def test_only_params_or_only_the_posterior():
    moved, _, _ = scan(EM, start(EM), SYSTEM.x, 2)
    state = start(EM).replace(params=moved.params)
    for arguments, kept in (
        ({"posterior": False}, "posterior"),
        ({"params": False}, "params"),
    ):
        update = elbax.wrappers.Only(EM, **arguments)
        end, _, _ = scan(update, state, SYSTEM.x, 1)
        laws.assert_equal(getattr(end, kept), getattr(state, kept))
    settled = elbax.wrappers.Only(EM, posterior=False).settle(state, SYSTEM.x)
    laws.assert_equal(settled, state)


def test_only_promises_what_it_can():
    assert elbax.wrappers.Only(EM).ascends
    assert elbax.wrappers.Only(EM, params=False, posterior=False).ascends
    assert not elbax.wrappers.Only(EM, posterior=False).ascends
    assert not elbax.wrappers.Only(EM, params={"logits": True, "components": False}).ascends


# --- Averaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "first"), [(None, 4), (0.7, 0)])
def test_averaged(decay, first):
    _, infos, states = em_path()
    update = elbax.wrappers.Averaged(EM, decay, first)
    end, ours, ends = scan(update, start(update), SYSTEM.x, 9)
    laws.assert_close(ours.elbo, infos.elbo, 1e-12)
    laws.assert_close(laws.points(ends), laws.points(states), 1e-12)
    used = np.arange(first, 9)
    share = np.ones(len(used)) if decay is None else decay ** (8.0 - used)
    share = share / share.sum()
    average = jax.tree.map(lambda leaf: jnp.tensordot(share, leaf[first:], 1), states.params)
    laws.assert_close(update.averaged(end), average, 1e-10)
    # Before its start it is the params themselves.
    for t in range(first + 1):
        laws.assert_equal(update.averaged(pick(ends, t)), pick(ends, t).params)
    settled = update.settle(end, SYSTEM.x)
    laws.assert_close(settled.params, average, 1e-10)
    laws.assert_equal(settled.posterior, elbax.Exact(MODEL, settled.params))


def test_averaged_keeps_whole_numbers():
    class Count(elbax.AbstractUpdate):
        ascends = False

        def __call__(self, state, batch):
            return state.replace(params=jax.tree.map(lambda n: n + 1, state.params)), elbax.Info()

    update = elbax.wrappers.Averaged(Count())
    state = update.init({"n": jnp.array(0), "a": jnp.array(0.0)}, (), key=jax.random.key(0))
    end, _, _ = scan(update, state, None, 3)
    laws.assert_equal(update.averaged(end), {"n": jnp.array(3), "a": jnp.array(2.0)})


# --- Guard -----------------------------------------------------------------------------------------


class Unreliable(elbax.AbstractUpdate):
    """Shifts a number by a draw, of which the low ones break something."""

    breaks: str = eqx.field(static=True)

    @property
    def ascends(self):
        return False

    def init_memory(self, params, posterior):
        return jnp.full((2,), jnp.inf)

    def __call__(self, state, batch):
        key, now = jax.random.split(state.key)
        draw = jax.random.uniform(now)
        bad = jnp.where(draw < 0.4, jnp.nan, 0.0)
        params = state.params + draw + (bad if self.breaks == "params" else 0)
        memory = state.memory.at[0].set(state.params + (bad if self.breaks == "memory" else 0))
        elbo = state.params + (bad if self.breaks == "elbo" else 0)
        return state.replace(params=params, memory=memory, key=key), elbax.Info(elbo)


@pytest.mark.parametrize("breaks", ["params", "memory", "elbo"])
def test_guard(breaks):
    update = elbax.wrappers.Guard(Unreliable(breaks))
    state = update.init(jnp.array(0.0), (), key=jax.random.key(3))
    end, _, states = scan(update, state, None, 30)
    key, total, skipped = state.key, 0.0, 0
    for _ in range(30):
        key, now = jax.random.split(key)
        draw = float(jax.random.uniform(now))
        total, skipped = (total, skipped + 1) if draw < 0.4 else (total + draw, skipped)
    assert 0 < skipped < 30
    assert end.memory.skipped == skipped
    np.testing.assert_allclose(end.params, total, rtol=1e-12)
    assert np.all(np.isfinite(states.params))
    # What was never finite may stay so.
    assert np.all(np.isinf(states.memory.update[:, 1]))


@pytest.mark.parametrize("rate", [0.01, 30.0])
def test_guard_against_falling(rate):
    """The first rate is small enough for every step, the second too large for most."""
    step = elbax.Chain(E_STEP, elbax.GradientMStep(MODEL, optax.sgd(rate)))
    plain = scan(step, start(step), SYSTEM.x, 20)[1].elbo
    update = elbax.wrappers.Guard(step, falling=True)
    end, infos, _ = scan(update, start(update), SYSTEM.x, 20)
    assert np.all(np.diff(infos.elbo) >= -1e-14)
    if rate == 0.01:
        assert end.memory.skipped == 0
        np.testing.assert_allclose(infos.elbo, plain, rtol=1e-12)
    else:
        assert end.memory.skipped > 0
        assert np.any(~(np.diff(plain) > 0))


STRIDES = elbax.Chain(E_STEP, elbax.GradientMStep(MODEL, optax.sgd(30.0)))


@pytest.mark.parametrize(
    "update",
    [
        elbax.wrappers.Every(STRIDES, 2),
        elbax.wrappers.Every(STRIDES, 3, offset=1),
        elbax.Chain(E_STEP, elbax.OnlineMStep(MODEL, 0.3), STRIDES.updates[1]),
        elbax.wrappers.Anneal(STRIDES, optax.linear_schedule(0.2, 1.0, 6)),
        elbax.Chain(STRIDES.updates[1], E_STEP),
    ],
)
def test_guarded_against_falling_the_evidence_never_does(update):
    """Whatever the update measures, and where: on turns that do nothing, in the middle, at a temperature."""
    guarded = elbax.wrappers.Guard(update, falling=True)
    end, infos, states = scan(guarded, start(guarded), SYSTEM.x, 12)
    params = jax.tree.map(lambda first, rest: jnp.stack([first, *rest]), PARAMS, states.params)
    evidence = jax.vmap(lambda params: elbax.evidence(MODEL, params, SYSTEM.x))(params)
    assert np.all(np.diff(evidence) >= -1e-13)
    np.testing.assert_allclose(infos.elbo, evidence[:-1], rtol=1e-12)
    assert guarded.ascends and end.memory.skipped > 0


def test_what_counts_steps_goes_on_where_a_step_is_skipped():
    """The schedule comes to its end, the turns come by, and a batch keeps its place in the cycle."""
    schedule = optax.linear_schedule(0.01, 1.0, 6)
    guarded = elbax.wrappers.Guard(
        elbax.wrappers.Every(elbax.wrappers.Anneal(EM, schedule), 2), falling=True
    )
    end, _, _ = scan(guarded, start(guarded), SYSTEM.x, 12)
    turns = end.memory.update
    assert (end.memory.skipped > 0) and (turns.step, turns.update.step) == (12, 6)

    incremental = elbax.Chain(E_STEP, elbax.IncrementalMStep(MODEL, 2))
    guarded = elbax.wrappers.Guard(incremental)
    one, other = SYSTEM.x[::2], SYSTEM.x[1::2]
    end, _ = scan_over(guarded, start(guarded), jnp.stack([one, other * jnp.nan, one]))
    plain, _ = incremental(start(incremental), one)
    # The first batch, seen again, has the place that it had; the second has none yet.
    assert end.memory.skipped == 1 and end.memory.update[1].step == 3
    laws.assert_close(end.memory.update[1].kept, plain.memory[1].kept, 1e-12)


def test_guard_compares_one_model_where_the_update_stands():
    with pytest.raises(TypeError, match="but Chain.Unreliable. has no model"):
        elbax.wrappers.Guard(elbax.Chain(Unreliable("elbo")), falling=True)
    with pytest.raises(TypeError, match=r"Put Averaged around the Guard"):
        elbax.wrappers.Guard(elbax.Chain(elbax.wrappers.Averaged(EM)), falling=True)
    assert elbax.wrappers.Averaged(elbax.wrappers.Guard(STRIDES, falling=True)).ascends


def test_guard_promises_no_more_than_estimates_allow():
    sampled = cases.find("autoencoder:joint").system.model
    guarded = lambda model: elbax.wrappers.Guard(
        elbax.JointGradientStep(model, optax.sgd(0.1)), falling=True
    )
    assert guarded(MODEL).ascends and not guarded(sampled).ascends
    assert elbax.wrappers.Guard(EM).ascends


# --- Certify ---------------------------------------------------------------------------------------


def test_certified_gains_are_those_of_the_parts():
    update = elbax.wrappers.Certify(EM, MODEL)
    first = start(update)
    _, infos, states = scan(update, first, SYSTEM.x, 3)
    assert np.all(infos.broken == -1) and np.all(infos.gains >= -1e-12)
    _, plain, _ = em_path()
    laws.assert_close(infos.elbo, plain.elbo[:3], 1e-12)
    before, after = pick(states, 0), pick(states, 1)
    value = lambda params, q: elbax.elbo(MODEL, params, q, SYSTEM.x)
    exact = elbax.Exact(MODEL, before.params)
    values = [
        value(before.params, before.posterior),
        value(before.params, exact),
        value(after.params, exact),
    ]
    np.testing.assert_allclose(infos.gains[1], np.diff(values), rtol=1e-9, atol=1e-13)


class Stale(elbax.AbstractUpdate):
    """An E-step, so it says, from which the posterior is another step behind."""

    e_step: elbax.ExactEStep
    ascends = True

    def __call__(self, state, batch):
        behind = jax.tree.map(lambda leaf: leaf - 0.5, state.params)
        moved, info = self.e_step(state.replace(params=behind), batch)
        return moved.replace(params=state.params), info


@pytest.mark.parametrize(
    ("broken", "parts"), [(1, [E_STEP, Falling(M_STEP), M_STEP]), (0, [Stale(E_STEP), M_STEP])]
)
def test_certify_names_the_broken_part(broken, parts):
    update = elbax.wrappers.Certify(elbax.Chain(*parts), MODEL)
    _, infos, _ = scan(update, start(update), SYSTEM.x, 6)
    assert broken in infos.broken and set(np.asarray(infos.broken)) <= {-1, broken}
    fell = infos.gains[infos.broken == broken][:, broken]
    assert np.all(fell < -1e-10)


def test_certify_judges_no_estimates():
    """Each part draws for itself: what it raised may fall under the draws that measure it."""
    update = elbax.wrappers.Certify(elbax.Chain(M_STEP, M_STEP), MODEL)
    first = start(update, posterior=elbax.posteriors.MonteCarlo(elbax.Exact(MODEL, PARAMS), 1))
    _, infos, _ = scan(update, first, SYSTEM.x, 6)
    assert np.any(infos.gains < -1e-6) and np.all(infos.broken == -1)


@pytest.mark.slow
def test_certify_under_fit():
    update = elbax.wrappers.Certify(EM, MODEL)
    result = elbax.fit(update, start(update), SYSTEM.x, max_steps=20)
    plain = elbax.fit(EM, start(EM), SYSTEM.x, max_steps=20)
    assert result.code == plain.code
    np.testing.assert_allclose(result.elbo, plain.elbo, rtol=1e-12)


def test_a_turn_that_was_skipped_breaks_no_promise():
    update = elbax.wrappers.Every(elbax.wrappers.Certify(EM, MODEL), 2)
    _, infos, _ = scan(update, start(update), SYSTEM.x, 4)
    assert infos.broken.tolist() == [-1] * 4


def test_fit_names_what_is_wrapped():
    broken = elbax.wrappers.Repeat(elbax.Chain(E_STEP, Falling(M_STEP)), 2)
    result = elbax.fit(broken, start(broken), SYSTEM.x, max_steps=30)
    assert "Repeat(Chain(ExactEStep, Falling(ClosedFormMStep)))" in result.message


# --- Accelerate ------------------------------------------------------------------------------------


def flat(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def test_accelerate_is_scheme_s3():
    """Each step against the formula, with EM by itself for the map."""
    update = elbax.wrappers.Accelerate(EM)
    unflatten = jax.flatten_util.ravel_pytree(PARAMS)[1]
    first = start(update)
    _, infos, states = scan(update, first, SYSTEM.x, 10)

    @jax.jit
    def sweep(vector):
        end, info = EM(start(EM, unflatten(vector)), SYSTEM.x)
        return jax.flatten_util.ravel_pytree(end.params)[0], info.elbo

    last = here = flat(PARAMS)
    longest, evaluations, kinds = 1.0, 0, set()
    # Later an extrapolation gains no more than rounding.
    for t in range(10):
        second, elbo = map(np.asarray, sweep(here))
        r = here - last
        v = second - here - r
        whole = np.linalg.norm(r) / np.linalg.norm(v)
        length = np.clip(whole, 1, longest)
        end, last_now, good = second, here, True
        if length > 1.01:
            point = np.asarray(sweep(last + 2 * length * r + length**2 * v)[0])
            moved, there = map(np.asarray, sweep(point))
            good = there >= elbo
            if good:
                end, last_now = moved, point
        kinds.add((bool(length > 1.01), bool(good)))
        evaluations += 3 if length > 1.01 else 1
        longest = longest * 4 if whole >= longest else longest
        longest = longest if good else max(length / 1.2, 1)
        here, last = end, last_now
        state = pick(states, t)
        np.testing.assert_allclose(flat(state.params), here, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(state.memory.longest, longest, rtol=1e-5)
        np.testing.assert_allclose(infos.elbo[t], elbo, rtol=1e-10)
        assert state.memory.evaluations == evaluations
        # The path goes on from what was computed, so that rounding does not add up to a difference.
        here, last = flat(state.params), flat(state.memory.last)
        longest = float(state.memory.longest)
    assert kinds >= {(False, True), (True, True)}


@pytest.mark.parametrize("spoil", [pytest.param(np.nan, marks=pytest.mark.slow), -50.0])
def test_a_bad_extrapolation_is_not_taken(spoil):
    """Whatever `back` does to it, the path is EM's then."""
    _, infos, states = em_path()
    bad = lambda params: jax.tree.map(lambda leaf: leaf * 0 + spoil, params)
    update = elbax.wrappers.Accelerate(EM, to=lambda params: params, back=bad)
    end, ours, ends = scan(update, start(update), SYSTEM.x, 9)
    laws.assert_close(ends.params, states.params, 1e-12)
    laws.assert_close(ours.elbo, infos.elbo, 1e-12)
    assert end.memory.evaluations > 9


def test_an_extrapolation_without_its_test_is_caught():
    class Trusting(elbax.wrappers.Accelerate):
        def _rises(self, before, after):
            return jnp.ones((), bool)

    update = Trusting(EM, to=lambda p: p, back=lambda p: jax.tree.map(lambda leaf: leaf - 2, p))
    case = cases.Case("trusting", SYSTEM, lambda rate: update, lambda: elbax.Exact(MODEL, PARAMS))
    with pytest.raises(AssertionError, match="fell from"):
        laws.ascent(case)


@pytest.mark.slow
def test_accelerate_under_vmap():
    """Lanes that extrapolate at different steps, with counts of their own."""
    update = elbax.wrappers.Accelerate(EM)
    nudged = lambda size: jax.tree.map(lambda leaf: leaf + size * jnp.cos(leaf), PARAMS)
    states = [start(update, nudged(size)) for size in (0.0, 0.3, -0.3)]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    run = jax.jit(jax.vmap(lambda s: jax.lax.scan(lambda s, _: update(s, SYSTEM.x), s, length=10)))
    ends, infos = run(both)
    assert np.all(np.diff(infos.elbo, axis=1) > -1e-13)
    for i, state in enumerate(states):
        end, info, _ = scan(update, state, SYSTEM.x, 10)
        assert end.memory.evaluations == ends.memory.evaluations[i]
        laws.assert_close(info.elbo, infos.elbo[i], 1e-9)


def evaluations(em, params, model, batch, to=lambda params: params, fast=None, most=40_000):
    """(params, evaluations of the map) once it moves them by less than 1e-8, the rule of R's SQUAREM."""
    state = (fast or em).init(params, key=jax.random.key(0))

    def distance(a, b):
        return jnp.sqrt(sum(jnp.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (a, b)))))

    def plain(carry):
        state, count, _, last, fall = carry
        moved, info = em(state, batch)
        step = distance(to(moved.params), to(state.params))
        return moved, count + 1, step, info.elbo, jnp.minimum(fall, info.elbo - last)

    def accelerated(carry):
        state, _, _, last, fall = carry
        moved, info = fast(state, batch)
        memory = moved.memory
        step = distance(to(moved.params), memory.last)
        fall = jnp.minimum(fall, info.elbo - last)
        return moved, memory.evaluations, step, info.elbo, fall

    @jax.jit
    def run(state):
        return jax.lax.while_loop(
            lambda carry: (carry[2] >= 1e-8) & (carry[1] < most),
            accelerated if fast else plain,
            (state, jnp.array(0), jnp.array(1.0), jnp.array(-jnp.inf), jnp.array(jnp.inf)),
        )

    state, count, _, _, fall = run(state)
    # Not once lower, to rounding.
    assert fall > -1e-13
    return state.params, int(count)


def hasselblad():
    model = elbax.Mixture(elbax.components.Poisson(), 2)
    params = model.from_description(weights=[0.5, 0.5], rates=[[1.0], [3.0]])
    em = elbax.em(model)
    batch = elbax.Batch(jnp.arange(10.0)[:, None], weight=DAYS)

    def to(params):
        described = model.describe(params)
        return described["weights"][0], described["rates"][:, 0]

    def back(coordinates):
        share, rates = coordinates
        share = jnp.clip(share, 1e-6, 1 - 1e-6)
        log_rates = jnp.log(jnp.maximum(rates, 1e-6))[:, None]
        logits = jnp.log(jnp.stack([share, 1 - share]))
        return {"logits": logits, "components": {"log_rates": log_rates}}

    return model, params, em, batch, to, back


def test_hasselblads_deaths_by_squarem():
    """The Times's deaths: R's EM takes 2643 evaluations of the map in (p, λ₁, λ₂), its SQUAREM 66."""
    model, params, em, batch, to, back = hasselblad()
    run = functools.partial(evaluations, em, params, model, batch)
    assert run(to)[1] == 2643
    for arguments, most in (
        ({"to": to, "fast": elbax.wrappers.Accelerate(em, to, back)}, 66),
        ({"fast": elbax.wrappers.Accelerate(em)}, 100),
    ):
        end, count = run(**arguments)
        assert count <= most
        ours = -DAYS.sum() * float(elbax.evidence(model, end, batch))
        assert ours == pytest.approx(1989.945859883, abs=1e-7)


@pytest.mark.slow
def test_joreskogs_factors_by_squarem():
    """Nine tests, four factors with zeros: R's EM takes 14 659 evaluations, its SQUAREM 876, to 327.6906.

    Some accelerators end at 328.140 instead, in a Heywood case.
    """
    given = json.loads((DATA / "joreskog.json").read_text())
    correlation = np.eye(9)
    correlation[np.tril_indices(9, -1)] = given["upper_triangle_by_column"]
    correlation = np.tril(correlation) + np.tril(correlation, -1).T
    loadings = np.array(given["start_loadings_by_factor"]).T
    model = elbax.FactorAnalysis(4, pattern=loadings != 0, floor=0.0)
    params = model.from_description(mean=np.zeros(9), loadings=loadings, noise=np.full(9, 1e-8))
    batch = elbax.from_moments(jnp.zeros(9), jnp.asarray(correlation), 145)
    em = elbax.em(model)

    def to(params):
        return params["loadings"], jnp.exp(2 * params["log_noise"])

    def back(coordinates):
        loadings, noise = coordinates
        log_noise = 0.5 * jnp.log(jnp.maximum(noise, 1e-12))
        return {"mean": jnp.zeros(9), "loadings": loadings, "log_noise": log_noise}

    def objective(params):
        constant = 4.5 * np.log(2 * np.pi)
        return -145 * (float(elbax.evidence(model, params, batch)) + constant)

    run = functools.partial(evaluations, em, params, model, batch)
    for coordinates, fast in (
        (to, elbax.wrappers.Accelerate(em, to, back)),
        (None, elbax.wrappers.Accelerate(em)),
    ):
        arguments = {} if coordinates is None else {"to": coordinates}
        plain, sweeps = run(**arguments)
        end, count = run(**arguments, fast=fast)
        assert sweeps > 14_000
        assert count <= sweeps / 10
        assert objective(plain) == pytest.approx(327.6906, abs=5e-5)
        assert objective(end) == pytest.approx(objective(plain), abs=1e-6)
        assert not bool(model.heywood(end).any())


# --- Anneal ----------------------------------------------------------------------------------------


PLAIN = cases.find("plain-categorical:joint").system
FACTORS = cases.find("plain-gaussian:joint").system


def log_joints(system):
    """log p(x, z), all data by all values."""
    model, params = system.model, system.params
    values = jnp.arange(3)
    row = lambda x: jax.vmap(lambda z: model.log_joint(params, x, z))(values)
    return np.asarray(jax.vmap(row)(system.x))


def logsumexp(a):
    top = a.max(1)
    return top + np.log(np.exp(a - top[:, None]).sum(1))


@pytest.mark.parametrize(
    "system", [PLAIN, pytest.param(FULL, marks=pytest.mark.slow)], ids=lambda s: s.name
)
@pytest.mark.parametrize("target", ["entropy", "divergence"])
@pytest.mark.parametrize("beta", [0.3, 2.5])
def test_the_tempered_bound_by_enumeration(system, target, beta):
    """At its own best q it is a log-normalizer, at any other q lower, as sums over z have it."""
    model, params, x = system.model, system.params, system.x
    joint = log_joints(system)
    prior = np.asarray(jax.nn.log_softmax(params["logits"]))
    tempered = Tempered(model, jnp.asarray(beta), target)
    encoder = cases.encoder(system, 3)

    @jax.jit
    def bounds():
        exact = elbax.Exact(tempered, params)
        ours = [elbax.elbo(tempered, params, q, x) for q in (exact, encoder)]
        return ours, [jax.vmap(lambda x, q=q: q(x).mean())(x) for q in (exact, encoder)]

    (best, other), shares = bounds()
    if target == "entropy":
        normalizer = logsumexp(beta * joint) / beta
    else:
        normalizer = beta * logsumexp(prior + (joint - prior) / beta)
    global_term = float(model.log_prior(params)) / system.num_data
    np.testing.assert_allclose(best, normalizer.mean() + global_term, rtol=1e-12)
    for q, ours in zip(map(np.asarray, shares), (best, other)):
        if target == "entropy":
            brute = (q * (joint - np.log(q) / beta)).sum(1)
        else:
            brute = (q * (joint - prior) - beta * q * (np.log(q) - prior)).sum(1)
        np.testing.assert_allclose(ours, brute.mean() + global_term, rtol=1e-10)
    assert other < best


@pytest.mark.parametrize("target", [pytest.param("entropy", marks=pytest.mark.slow), "divergence"])
def test_the_tempered_bound_of_a_gaussian(target):
    """By the family's own terms, as `elbo_terms` takes them apart; q is its best: no slope in it."""
    model, params, x, beta = FACTORS.model, FACTORS.params, FACTORS.x, 0.4
    tempered = Tempered(model, jnp.asarray(beta), target)
    exact = elbax.Exact(tempered, params)

    @jax.jit
    def both():
        return elbax.elbo(tempered, params, exact, x), elbax.elbo_terms(model, params, exact, x)

    ours, terms = both()
    if target == "entropy":
        theirs = terms.expected_log_joint + terms.entropy / beta
    else:
        theirs = terms.reconstruction - beta * terms.kl_prior
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    @jax.jit
    @jax.grad
    def slope(shift):
        def moved(x, *, key=None):
            (linear, precision), (a, b) = exact(x).natural, shift
            return model.latent((linear + a, precision + b + b.T))

        return elbax.elbo(tempered, params, moved, x)

    for leaf in jax.tree.leaves(slope((jnp.zeros(2), jnp.zeros((2, 2))))):
        np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_annealed_em_by_hand():
    """Weights and rates of responsibilities to the power β, as Ueda and Nakano have them."""
    beta = 0.35
    update = elbax.wrappers.Anneal(EM, optax.constant_schedule(beta))
    end, info, _ = scan(update, start(update), SYSTEM.x, 1)
    powers = beta * log_joints(SYSTEM)
    q = np.exp(powers - logsumexp(powers)[:, None])
    described = MODEL.describe(end.params)
    np.testing.assert_allclose(described["weights"], q.mean(0), rtol=1e-10)
    rates = (q.T @ np.asarray(SYSTEM.x)) / q.sum(0)[:, None]
    np.testing.assert_allclose(described["rates"], rates, rtol=1e-10)
    np.testing.assert_allclose(info.elbo[0], (logsumexp(powers) / beta).mean(), rtol=1e-12)
    # The posterior that is carried is the plain one.
    laws.assert_equal(end.posterior, elbax.Exact(MODEL, PARAMS))
    assert jax.tree.structure(end.posterior) == jax.tree.structure(elbax.Exact(MODEL, PARAMS))


@pytest.mark.parametrize("target", ["entropy", pytest.param("divergence", marks=pytest.mark.slow)])
def test_at_one_annealing_is_the_plain_update(target):
    update = elbax.wrappers.Anneal(EM, lambda step: 1.0, target)
    _, ours, ends = scan(update, start(update), SYSTEM.x, 9)
    _, infos, states = em_path()
    laws.assert_close(ours.elbo, infos.elbo, 1e-12)
    laws.assert_close(ends.params, states.params, 1e-10)


@pytest.mark.parametrize("target", ["entropy", pytest.param("divergence", marks=pytest.mark.slow)])
def test_at_a_constant_temperature_annealing_ascends(target):
    """Its own objective; under the E-step's own, lower bounds."""
    update = elbax.wrappers.Anneal(EM, lambda step: 0.5, target)
    _, infos, _ = scan(update, start(update), SYSTEM.x, 9)
    assert np.all(np.diff(infos.elbo) > -1e-12) and infos.elbo[-1] > infos.elbo[0]
    assert not update.ascends


def test_warm_up_from_nothing():
    """β = 0, where a VAE often begins: only the reconstruction counts, and all is finite."""
    posterior = cases.encoder(FACTORS, 4)
    step = elbax.JointGradientStep(FACTORS.model, optax.adam(0.05))
    update = elbax.wrappers.Anneal(step, optax.linear_schedule(0.0, 1.0, 4), "divergence")
    state = start(update, FACTORS.params, posterior)
    _, infos, states = scan(update, state, FACTORS.x, 5)
    before = jax.tree.map(lambda first, rest: jnp.stack([first, *rest[:-1]]), state, states)

    @jax.jit
    @jax.vmap
    def expected(state, beta):
        bound = elbax.elbo(FACTORS.model, state.params, state.posterior, FACTORS.x)
        divergence = jax.vmap(lambda x: kl_from_prior(state.posterior(x)))(FACTORS.x)
        return bound + (1 - beta) * jnp.mean(divergence)

    theirs = expected(before, jnp.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    np.testing.assert_allclose(infos.elbo, theirs, rtol=1e-10)


def kl_from_prior(q):
    """KL(N(m, C) ‖ N(0, I))."""
    linear, precision = q.natural
    covariance = jnp.linalg.inv(precision)
    mean = covariance @ linear
    log_determinant = jnp.linalg.slogdet(covariance)[1]
    return 0.5 * (jnp.trace(covariance) + mean @ mean - len(mean) - log_determinant)


def test_annealing_escapes_where_em_does_not():
    """Two components on one of three clusters, the third between the other two: EM stays there."""
    center = jnp.array([[-5.0, 0.0], [0.0, 4.0], [5.0, 0.0]])
    noise = jax.random.normal(jax.random.key(1), (90, 2))
    x = center[jnp.arange(90) % 3] + noise
    model = elbax.GaussianMixture(3, "spherical", floor=0.01)
    em = elbax.em(model)
    described = {"weights": [1 / 3] * 3, "covariances": [np.eye(2)] * 3, "unit": np.std(x, 0)}
    bad = model.from_description(means=[[-5.5, 0.0], [-4.5, 0.0], [2.5, 2.0]], **described)
    good = model.from_description(means=center, **described)

    @jax.jit
    @jax.vmap
    def evidence(first, params):
        annealed = elbax.wrappers.Anneal(em, lambda step: jnp.minimum(1.0, first * 1.03**step))
        state = annealed.init(params, key=jax.random.key(0))
        state, _ = jax.lax.scan(lambda s, _: annealed(s, x), state, length=300)
        return elbax.evidence(model, state.params, x)

    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), bad, bad, good)
    stuck, escaped, best = evidence(jnp.array([1.0, 0.3, 1.0]), starts)
    assert stuck < best - 0.5
    np.testing.assert_allclose(escaped, best, rtol=1e-9)


@pytest.mark.slow
def test_annealing_depends_less_on_its_start():
    """Five clusters on a circle from 40 random starts: how many end at the best."""
    angle = 2 * jnp.pi * jnp.arange(5.0) / 5
    center = 6 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    x = center[jnp.arange(100) % 5] + jax.random.normal(jax.random.key(2), (100, 2))
    model = elbax.GaussianMixture(5, "spherical", floor=0.01)
    em = elbax.em(model)

    def ends(first):
        annealed = elbax.wrappers.Anneal(em, lambda step: jnp.minimum(1.0, first * 1.02**step))

        def one(key):
            rows = jax.random.choice(key, 100, (5,), replace=False)
            params = model.from_description(
                weights=[0.2] * 5, means=x[rows], covariances=[np.eye(2)] * 5
            )
            state = annealed.init(params, key=key)
            state, _ = jax.lax.scan(lambda s, _: annealed(s, x), state, length=300)
            return elbax.evidence(model, state.params, x)

        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 40)))

    plain, annealed = ends(1.0), ends(0.5)
    best = max(plain.max(), annealed.max()) - 1e-3
    assert (annealed > best).sum() >= (plain > best).sum() + 5


@pytest.mark.slow
def test_a_tempered_chain():
    """A hidden Markov model's bound at its own best q is A(βλ)/β."""
    system = cases.find("hidden-markov:exact/closed").system
    model, params = system.model, system.params
    tempered = Tempered(model, jnp.asarray(0.4), "entropy")
    ours = elbax.elbo(tempered, params, elbax.Exact(tempered, params), system.x)
    prepared = model.prepare(model.natural(params))

    def normalizer(x):
        potentials, constant = model.potentials(prepared, x)
        scaled = jax.tree.map(
            lambda leaf: 0.4 * leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            potentials,
        )
        return model.latent.log_normalizer(scaled) / 0.4 + constant

    theirs = jnp.mean(jax.vmap(normalizer)(system.x))
    theirs += model.log_prior(params) / system.num_data
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# --- errors, and one wrapper in another ------------------------------------------------------------


@pytest.mark.slow
def test_wrappers_nest():
    update = elbax.wrappers.Averaged(
        elbax.wrappers.Guard(elbax.wrappers.Accelerate(elbax.wrappers.Certify(EM, MODEL))), start=1
    )
    end, infos, _ = scan(update, start(update), SYSTEM.x, 4)
    assert np.all(infos.broken == -1) and np.all(np.diff(infos.elbo) > 0)
    assert update.ascends and end.memory.update.skipped == 0
    assert end.memory.update.update.evaluations > 4
    laws.assert_equal(
        update.settle(end, SYSTEM.x).posterior, elbax.Exact(MODEL, update.averaged(end))
    )


GRADIENT = elbax.GradientMStep(MODEL, optax.adam(0.1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: elbax.wrappers.Repeat(MODEL, 2),
            TypeError,
            "Repeat: update must be an update such as Chain",
        ),
        (lambda: elbax.wrappers.Repeat(EM, 0), ValueError, "num_times must be at least 1, got 0"),
        (lambda: elbax.wrappers.Every(EM, 0), ValueError, "period must be at least 1, got 0"),
        (lambda: elbax.wrappers.Every(EM, 2, -1), ValueError, "offset must be at least 0, got -1"),
        (lambda: elbax.wrappers.Averaged(EM, 1.0), ValueError, "at least 0 and below 1, got 1.0"),
        (
            lambda: elbax.wrappers.Averaged(EM, None, -1),
            ValueError,
            "start must be at least 0, got -1",
        ),
        (
            lambda: elbax.wrappers.Certify(M_STEP, MODEL),
            TypeError,
            "update must be a Chain, .*; got ClosedFormMStep",
        ),
        (lambda: elbax.wrappers.Accelerate(EM, to=flat), ValueError, "pass both `to` and `back`"),
        (
            lambda: elbax.wrappers.Accelerate(EM, growth=1.0),
            ValueError,
            "growth must be above 1, got 1",
        ),
        (
            lambda: elbax.wrappers.Anneal(EM, 0.5),
            TypeError,
            r"For a constant use optax.constant_schedule\(value\)",
        ),
        (
            lambda: elbax.wrappers.Anneal(EM, abs, "heat"),
            ValueError,
            "'entropy', 'divergence' or 'free_bits'; got 'heat'",
        ),
    ],
)
def test_errors_at_construction(make, error, message, as_users_run):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        (
            elbax.wrappers.Only(EM, params={"logits": True}),
            ValueError,
            "params: expected True or False",
        ),
        (
            elbax.wrappers.Only(EM, posterior=3),
            ValueError,
            "posterior: expected True, False or a boolean array",
        ),
        (
            elbax.wrappers.Accelerate(M_STEP),
            TypeError,
            "posterior that it does not compute from them",
        ),
        (elbax.wrappers.Accelerate(elbax.Chain(E_STEP, GRADIENT)), TypeError, "or on a memory"),
        (elbax.wrappers.Accelerate(elbax.wrappers.Every(EM, 2)), TypeError, "Averaged"),
        (
            elbax.wrappers.Accelerate(elbax.wrappers.Only(EM, posterior=False)),
            TypeError,
            "only the params are extrapolated",
        ),
    ],
)
def test_errors_at_init(update, error, message, as_users_run):
    with pytest.raises(error, match=message):
        start(update)


def test_errors_at_the_first_step():
    update = elbax.wrappers.Accelerate(E_STEP)
    with pytest.raises(TypeError, match="Accelerate: ExactEStep does not measure the ELBO"):
        jax.eval_shape(update, start(update), SYSTEM.x)


def test_models_that_cannot_be_tempered():
    autoencoder = cases.find("autoencoder:joint")
    update = elbax.wrappers.Anneal(autoencoder.update, lambda step: 1.0, "divergence")
    with pytest.raises(TypeError, match="Model does not define p"):
        start(update, autoencoder.system.params, autoencoder.posterior)
    chain = elbax.Model(lambda params, x, z: params, elbax.GaussianChain(1))
    update = elbax.wrappers.Anneal(elbax.ExactEStep(chain), lambda step: 1.0)
    with pytest.raises(TypeError, match="GaussianChain, the latent of Model"):
        start(update, jnp.array(0.0), elbax.Exact(chain, jnp.array(0.0)))
    factors = elbax.FactorAnalysis(1)
    params = factors.from_description(mean=np.zeros(2), loadings=np.ones((2, 1)), noise=np.ones(2))
    ecme = elbax.Chain(elbax.ExactEStep(factors), elbax.EvidenceMStep(factors))
    update = elbax.wrappers.Anneal(ecme, lambda step: 0.5)
    with pytest.raises(TypeError, match="EvidenceMStep: .* but not inside of Anneal"):
        state = start(update, params, elbax.Exact(factors, params))
        jax.eval_shape(update, state, jnp.ones((3, 2)))


@pytest.mark.slow
def test_accelerated_steps_have_a_slope():
    """At rest, as before the first step, the length of a step is 0 / 0: its derivative must not be."""
    days = elbax.Batch(
        jnp.arange(10)[:, None], weight=jnp.array([162.0, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    )
    model = elbax.Mixture(elbax.components.Poisson(), 2)
    chain = elbax.em(model)
    fast = elbax.wrappers.Accelerate(chain)

    @jax.jit
    def end(rate):
        params = model.from_description(weights=[0.5, 0.5], rates=[[1.0], [3.0]])
        params["components"]["log_rates"] = params["components"]["log_rates"].at[0, 0].set(rate)
        state = fast.init(params, key=jax.random.key(1))
        state, _ = jax.lax.scan(lambda s, _: fast(s, days), state, length=5)
        return jnp.sum(state.params["components"]["log_rates"])

    slope, step = jax.jit(jax.grad(end))(0.1), 1e-6
    expected = (end(0.1 + step) - end(0.1 - step)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_a_memory_without_that_of_the_wrapped_update_is_refused():
    class Forgetful(elbax.wrappers.AbstractRemembering):
        update: elbax.AbstractUpdate

        def init_memory(self, params, posterior):
            return {"update": self.update.init_memory(params, posterior)}

        def __call__(self, state, batch):
            return self.update(self.inside(state), batch)

    for update in (Forgetful(EM), elbax.Chain(elbax.wrappers.Guard(Forgetful(EM)))):
        with pytest.raises(
            TypeError, match="Forgetful: its memory must be an equinox.Module.*got a dict"
        ):
            start(update)
