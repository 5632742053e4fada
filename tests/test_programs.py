"""What is compiled, and how often: a first fit compiles a few programs, a second call of anything none."""

import itertools
import json
import os
import subprocess
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, find
from laws import count_compilations

import elbax
from elbax import _program
from elbax._program import by_value, compiled, program
from elbax.data._padding import padded


CASE = find("mixture-full-auto:exact/closed")
MODEL, PARAMS, X = CASE.system.model, CASE.system.params, CASE.system.x


def child(code, **environment):
    """What a fresh process prints, as JSON."""
    ours = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = os.environ | ours | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


COUNT = """
import json, time
import numpy as np, jax, jax.monitoring
seen = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: seen.append(event) if "backend_compile" in event else None
)
import elbax
key, run = (jax.random.wrap_key_data(np.array([0, seed], np.uint32)) for seed in (0, 1))
rng = np.random.default_rng(0)
"""


def test_a_first_fit_compiles_five_programs():
    found = child(
        COUNT
        + """
x = rng.normal(size=(200, 6)).astype(np.float32) + 3 * (np.arange(200) % 3)[:, None]
x = x.astype(np.float32)
model = elbax.GaussianMixture(3)
em = elbax.em(model)
params = model.init(key, x)
state = em.init(params, key=run)
result = elbax.fit(em, state, x, max_steps=7)
print(model.describe(result.state.params)["weights"], result)
print(json.dumps(len(seen)))
"""
    )
    assert found <= 5


@pytest.mark.slow
def test_programs_of_another_number_of_rows_are_the_same():
    found = child(
        COUNT
        + """
x = np.asarray(elbax.datasets.old_faithful())
models = {str(k): elbax.GaussianMixture(k, "tied") for k in (1, 2)}
counts = []
for rows in (272, 271, 266):
    elbax.diagnostics.select(models, x[:rows], key=key, num_restarts=2, max_steps=5)
    counts.append(len(seen))
print(json.dumps(counts))
"""
    )
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("rows", [16, 17, 200, 272])
def test_padding_counts_for_nothing(rows):
    x = np.random.default_rng(0).normal(size=(rows, 2))
    batch = padded(x)
    assert rows <= len(batch.x) <= max(rows + 1, 1.125 * rows)
    plain = elbax.evidence(MODEL, PARAMS, x)
    np.testing.assert_allclose(elbax.evidence(MODEL, PARAMS, batch), plain, rtol=1e-12)


def test_small_data_take_one_form(monkeypatch):
    """Compiled once, not for both answers to a question of accuracy that the difference form does not raise."""

    def choices(x):
        traced = jax.make_jaxpr(lambda state, x: CASE.update(state, x))(CASE.state, x)
        return str(traced).count("cond[")

    with monkeypatch.context() as large:
        large.setattr(elbax._pass, "_SMALL", 0)
        both = choices(X)
    assert choices(X) < both
    assert choices(jnp.zeros((2049, 2))) == both


def test_programs_of_little_data_are_compiled_the_quick_way(monkeypatch):
    """And where XLA does not know what it is told, as any other."""
    asked = []

    def filter_jit(function, **options):
        asked.append(bool(options))
        return eqx.filter_jit(function, **options)

    def sizes():
        asked.clear()
        total = compiled(jnp.sum)
        for size, expected in ((_program._SMALL, 1.0), (_program._SMALL + 1, 2.0)):
            assert total(jnp.full(size, expected)) == size * expected
        # Inside of another program it is a part of that one, of constants too.
        assert jax.vmap(total)(jnp.ones((2, 3))).tolist() == [3, 3]
        assert jax.jit(lambda: total(jnp.ones(3)))() == 3
        assert jax.grad(jax.grad(lambda x: total(x**3)))(jnp.array(2.0)) == 12
        return asked

    monkeypatch.setattr(_program, "eqx", types.SimpleNamespace(filter_jit=filter_jit))
    assert sizes() == [True, False]
    monkeypatch.setattr(_program, "_QUICK", {"xla_no_such_option": True})
    _program._understood.cache_clear()
    try:
        assert sizes() == [False]
    finally:
        _program._understood.cache_clear()


def twice(function):
    """Nothing is compiled at the second call."""
    jax.block_until_ready(eqx.filter(function(), eqx.is_array))
    with count_compilations() as compiled:
        jax.block_until_ready(eqx.filter(function(), eqx.is_array))
    return compiled


ONCE = {case.system.name: case for case in reversed(CASES)}
QUICK = {"mixture-full-auto"}
# Whose updates, posteriors and fits are called too, which no model defines: an exact posterior and an encoder, a
# closed form and gradients, rows and sequences.
WHOLE = {"mixture-full-auto", "autoencoder", "hidden-markov"}
# Whose latent is another's.
SAME_LATENT = {"mixture-student", "mixture-factors", "experts", "factors-diagonal"}
# One of each kind: most mixtures differ in their densities only.
KINDS = [*sorted(QUICK), "mixture-student", "mixture-factors", "plain-gaussian", "autoencoder"]
KINDS += [
    "experts",
    "factors-diagonal",
    "hidden-markov",
    "state-space",
    "grammar",
    "ctc",
    "bayesian-network",
]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else (pytest.mark.slow,)) for n in KINDS]
)
def test_a_second_call_compiles_nothing(name):
    """Whatever is called outside of `jit`, as in a notebook."""
    case = ONCE[name]
    system, update, state = case.system, case.update, case.state
    model, params, x = system.model, system.params, system.x
    key, datum = jax.random.key(3), jax.tree.map(lambda leaf: leaf[0], x)
    place = {"index": 0} if hasattr(case.posterior, "num_rows") else {}
    q = case.posterior(datum, key=key, **place)
    z = q.sample(key)
    calls = {
        "log_joint": lambda: model.log_joint(params, datum, z),
        "describe": lambda: model.describe(params),
        "collapsed": lambda: model.collapsed(params),
        "emptied": lambda: model.emptied(params),
    }
    if name not in SAME_LATENT:
        calls |= {
            "sample of q": lambda: q.sample(key),
            "mean of q": q.mean,
            "mode of q": q.mode,
            "entropy of q": q.entropy,
        }
    if name in WHOLE:
        calls |= {
            "step": lambda: update(state, x),
            "settle": lambda: update.settle(state, x),
            "init of the update": lambda: update.init(params, case.posterior, key=key),
            "posterior": lambda: case.posterior(datum, key=key, **place),
            "elbo": lambda: elbax.elbo(model, params, case.posterior, x, key=key),
            "elbo_terms": lambda: elbax.elbo_terms(model, params, case.posterior, x, key=key),
            "fit": lambda: elbax.fit(update, state, x, max_steps=2).state,
        }
    if hasattr(model, "init"):
        calls["init of the model"] = lambda: model.init(key, x)
    if model.exact:
        calls["evidence"] = lambda: elbax.evidence(model, params, x)
    compiled = {name: twice(call) for name, call in calls.items()}
    assert not {name for name, seen in compiled.items() if seen}


def test_a_second_call_of_the_rest_compiles_nothing():
    keys, steps = jax.random.split(jax.random.key(0), 2), itertools.count(3)
    table = np.where(np.arange(48).reshape(24, 2) % 7 == 0, np.nan, X)
    update = CASE.update

    def restarts():
        def start(key):
            params = MODEL.init(key, X)
            return update.init(params, elbax.Exact(MODEL, params), key=key)

        states = jax.vmap(start)(keys)
        return elbax.fit_restarts(update, states, X, max_steps=3, reject=MODEL.collapsed).best.state

    def adam():
        step = elbax.GradientMStep(MODEL, optax.adam(1e-3))
        em = elbax.Chain(elbax.ExactEStep(MODEL), step)
        return em(em.init(PARAMS, CASE.posterior, key=keys[0]), X)

    calls = {
        "restarts": restarts,
        "a fresh optimizer": adam,
        "sample": lambda: MODEL.sample(PARAMS, keys[0], 3),
        "criteria": lambda: elbax.diagnostics.information_criteria(MODEL, PARAMS, X),
        "information": lambda: elbax.diagnostics.observed_information(MODEL, PARAMS, X),
        "rate": lambda: elbax.diagnostics.convergence_rate(update, CASE.state, X),
        "compress": lambda: elbax.compress(X, chunk_size=8),
        "incomplete": lambda: elbax.incomplete(table),
        "sequences": lambda: elbax.sequences([X[:4], X[4:9]]),
        "another number of steps": lambda: (
            elbax.fit(update, CASE.state, X, max_steps=next(steps)).state
        ),
    }
    compiled = {}
    for name, call in calls.items():
        compiled[name] = twice(call)
    assert not {name for name, seen in compiled.items() if seen}


def test_functions_by_value():
    def chained(rate, clip=1.0):
        return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(rate))

    assert by_value(chained(0.1)) == by_value(chained(0.1))
    assert hash(by_value(chained(0.1)).update) == hash(by_value(chained(0.1)).update)
    assert by_value(chained(0.1)) != by_value(chained(0.2))
    assert by_value(chained(1.0)) != by_value(chained(1))
    assert by_value(optax.adam(0.1)) != by_value(optax.sgd(0.1))

    # What may change in place, or cannot be compared, is not looked into.
    def around(content):
        return by_value(lambda x: (content, x))

    for content in (jnp.ones(2), [1.0], {"a": 1}):
        assert around(content) == around(content)
    assert around([1.0]) != around([1.0])
    assert around((1, "a")) == around((1, "a"))

    # Nor is a function the same once a global that it reads is another.
    space = {"rate": 1}
    exec("def reads(x):\n    return rate * x", space)
    before = by_value(space["reads"])
    exec("rate = 2\ndef reads(x):\n    return rate * x", space)
    assert before != by_value(space["reads"])

    def itself(n):
        return itself(n - 1) if n else 0

    assert by_value(itself) == by_value(itself)
    assert by_value(itself)(3) == 0


def test_tracing_sees_the_function_itself():
    calls = []

    @program
    def double(x):
        calls.append(x)
        return 2 * x

    assert double(jnp.array(2.0)) == 4
    assert double(jnp.array(3.0)) == 6
    assert len(calls) == 1
    text = str(jax.make_jaxpr(double)(jnp.array(1.0)))
    assert "jit" not in text


@pytest.mark.slow
def test_programs_are_kept_in_a_directory(tmp_path):
    code = (
        COUNT
        + """
from jax._src import monitoring
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if "cache_hits" in event else None
)
jax.numpy.zeros(3) + 1  # JAX has looked for a cache by now.
elbax.cache_programs(PATH)
model = elbax.GaussianMixture(2)
x = rng.normal(size=(20, 2)).astype(np.float32)
model.init(key, x)
print(json.dumps(len(hits)))
"""
    )
    code = code.replace("PATH", repr(str(tmp_path)))
    assert child(code) == 0
    assert list(tmp_path.iterdir())
    assert child(code) >= 1


@pytest.mark.slow
def test_import_takes_a_part_of_that_of_jax(tmp_path):
    """A sixth on a quiet machine. Both are timed in one process, since the machine's speed changes."""
    code = """
import time
start = time.process_time()
import jax, equinox, optax
middle = time.process_time()
import elbax
print((time.process_time() - middle) / (middle - start))
"""
    written = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    child(code, **written)  # The sources are compiled.
    assert any(child(code, **written) < 0.4 for _ in range(4))


def test_a_pass_by_chunks_traces_its_function_once():
    """For the shapes of its sums and for the loop over the chunks together."""
    x, traces = jnp.arange(20.0).reshape(10, 2), []

    @jax.jit
    def total(x, scale):
        def function(x, weight, places):
            traces.append(x.shape)
            return {"sum": scale * weight @ x, "keys": jax.random.normal(places.keys[0][0])}

        return elbax.passes.reduce_data(function, x, jax.random.key(0), chunk_size=4)

    found, count = total(x, 3.0)
    assert len(traces) == 1 and count == 10
    np.testing.assert_allclose(found["sum"], 3 * x.sum(0), rtol=1e-12)
