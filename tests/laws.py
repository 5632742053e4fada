"""The laws of updates and models: functions of a case that raise AssertionError."""

import contextlib
import copy
import io
import pickle

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from cases import encoder, filled, padded
from jax.flatten_util import ravel_pytree
from units import change_of_units

import elbax
from elbax._free import spread
from elbax._math.algebra import nodes_of
from elbax._pass import expected_statistics
from elbax._reference import split_coordinates
from elbax.beliefs._at_draws import AtDraws
from elbax.m_steps._statistics import change_of_statistics
from elbax.posteriors._posterior import at_row, bind, ModelAt, prepare, weights_of, with_weights


def leaves(tree):
    """Returns all leaves as NumPy arrays, random keys as their data."""

    def plain(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [plain(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal(a, b):
    for left, right in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


def assert_close(a, b, tolerance=1e-10):
    for left, right in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


# In NumPy, as each operation of JAX outside of a program compiles one of its own for each shape.
def shifted(tree, amount):
    """Returns a tree of numbers that are larger by some amount."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) + np.asarray(amount, leaf.dtype), tree)


def nudge(tree, scale, seed=0):
    """Returns a tree of numbers that are moved at random."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.asarray(leaf + scale * rng.normal(size=leaf.shape), leaf.dtype), tree
    )


@contextlib.contextmanager
def count_compilations():
    """Yields a list that grows by one with each compilation."""
    seen = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def equations(jaxpr):
    """Yields all equations of a program, including those of programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"),
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def signature(equation):
    """Returns the primitive of an equation, its literal numbers and the types of its results."""
    numbers = [str(value) for value in equation.invars if hasattr(value, "val")]
    return equation.primitive.name, numbers, [str(value.aval) for value in equation.outvars]


def points(state):
    """Returns θ and q, which a step moves, without key and memory."""
    return state.params, state.posterior


# --- laws of updates -------------------------------------------------------------------------------


def scan(case):
    """`lax.scan(update, state, batches)` under `vmap` over states and over a traced rate equals single steps.

    Those are on the same rows and padding beside them, which must change nothing: one program serves all laws.
    """
    both = case.system.x, case.system.other
    other = case.state.replace(params=shifted(case.state.params, 0.1), key=jax.random.key(8))
    states = other, case.state

    @jax.jit
    def run(rates, states, batches):
        stacked = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        batches = stacked(batches)
        one = lambda rate, state: jax.lax.scan(case.make(rate), state, batches)
        return jax.vmap(one)(rates, stacked(states))

    ends, infos = run(np.array([0.05, 0.05]), states, both)
    bounds = np.asarray(infos.elbo)
    for i, state in enumerate(states):
        for j, batch in enumerate(both):
            state, info = case.step(state, padded(batch))
            assert_close(bounds[i, j], info.elbo)
        assert_close([leaf[i] for leaf in leaves(points(ends))], points(state), 1e-8)


def structure(case):
    """A step keeps the state's structure, shapes, dtypes and weak types."""
    _, (end, _) = case.program
    start = eqx.filter_eval_shape(lambda state: state, case.state)
    assert jax.tree.structure(end) == jax.tree.structure(start)
    for left, right in zip(jax.tree.leaves(end), jax.tree.leaves(start), strict=True):
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        assert getattr(left, "weak_type", False) == getattr(right, "weak_type", False)


def ascent(case):
    """An update that ascends never lowers the float64 ELBO of one batch by more than 1e-10 (1 + |ELBO|)."""
    if not case.update.ascends:
        return
    state, last = case.state, -np.inf
    for _ in range(15):
        state, info = case.step(state, case.padded)
        now = float(info.elbo)
        assert now >= last - 1e-10 * (1 + abs(now)), f"fell from {last} to {now}"
        last = now


def one_trace(case):
    """A second call with the same shapes compiles nothing, at other values too."""
    state, _ = case.step(case.state, case.padded)
    with count_compilations() as compiled:
        again, _ = case.step(state, case.padded)
        jax.block_until_ready(again.params)
    assert not compiled, f"compiled again: {compiled}"


def purity(case):
    """The same state and batch give the same result, bit for bit, and a second trace gives the same program."""
    assert_equal(case.step(case.state, case.padded), case.step(case.state, case.padded))
    fresh = lambda state, x: case.update(state, x)
    first, again = case.program[0], jax.make_jaxpr(fresh)(case.state, case.padded)
    assert_equal(first.consts, again.consts)
    assert list(map(signature, equations(first.jaxpr))) == [
        signature(equation) for equation in equations(again.jaxpr)
    ]


def claims(case):
    """A step does not change constants; an E-step returns θ, and an M-step q, as unchanged program variables."""
    moved, _ = case.step(case.state, case.padded)
    assert_equal(split_coordinates(moved.params)[1], split_coordinates(case.state.params)[1])
    parts = getattr(case.update, "updates", (case.update,))
    memories = case.state.memory if len(parts) > 1 else (case.state.memory,)
    for part, memory in zip(parts, memories, strict=True):
        state = case.state.replace(memory=memory)
        step = lambda state, part=part: part(state, case.system.x)[0]
        program = jax.make_jaxpr(step)(state).jaxpr
        same = [a is b for a, b in zip(program.invars, program.outvars, strict=True)]
        kept = jax.tree.unflatten(jax.tree.structure(state), same)
        name = type(part).__name__
        assert not name.endswith("EStep") or all(jax.tree.leaves(kept.params)), f"{name} moves θ"
        assert not name.endswith("MStep") or all(jax.tree.leaves(kept.posterior)), f"{name} moves q"


def randomness(case):
    """Another key gives another sample; without sampling the key has no effect."""
    draws = isinstance(case.posterior, elbax.posteriors.MonteCarlo | elbax.posteriors.Importance)
    ascends = isinstance(
        case.posterior, elbax.posteriors.MeanField | elbax.posteriors.CoordinateAscent
    )
    drawn = isinstance(inside(case.system.model), AtDraws)
    sampled = draws or drawn or not (case.system.model.exact or ascends)
    other, info = case.step(case.state.replace(key=jax.random.key(99)), case.padded)
    first, seen = case.step(case.state, case.padded)
    # Draws of the exact posterior change θ but not the bound: each draw gives the evidence itself.
    same = zip(leaves((info.elbo, points(other))), leaves((seen.elbo, points(first))))
    assert any((a != b).any() for a, b in same) == sampled


def weights(case):
    """Weight 2 is the row twice; weight 0 or mask False is the row left out, whatever it contains.

    The order of rows does not matter. A row's draws depend on its index. If all rows are padding, nothing moves.
    (That padding is left out where all weights are one is of `scan`.)
    """
    x, n = jax.tree.map(np.asarray, case.system.x), case.system.num_data
    rows, real, nowhere = np.arange(len(case.padded.mask)), case.padded.mask, case.padded.index
    index, more = rows % n, len(rows) - n
    twice = jax.tree.map(lambda leaf: leaf[index], x)
    ones, always = np.ones(len(rows)), np.ones(len(rows), bool)
    doubled = np.where(rows < more, 2.0, 1.0)
    order = np.random.default_rng(2).permutation(len(rows))

    def run(x, weight, mask, index):
        batch = elbax.Batch(x, weight=weight, mask=mask, index=index)
        end, info = case.step(case.state, batch)
        return info.elbo, points(end)

    duplicated = run(twice, ones, always, index)
    padding = case.padded.x
    assert_close(run(padding, doubled, real, nowhere), duplicated, 1e-8)
    assert_close(run(padding, np.where(real, doubled, 0), always, nowhere), duplicated, 1e-8)
    shuffled = jax.tree.map(lambda leaf: leaf[order], (padding, doubled, real, nowhere))
    assert_close(run(*shuffled), duplicated, 1e-8)

    nothing = jax.tree.map(lambda leaf: filled(leaf, always), twice)
    before, _ = case.step(case.state, case.padded)
    after, seen = case.step(before, elbax.Batch(nothing, ones, ~always, index))
    assert np.isfinite(seen.elbo)
    assert_equal(after.params, before.params)
    assert_equal(weights_of(after.posterior), weights_of(before.posterior))


def dtype(case):
    """float32 inputs give float32 results, although float64 is enabled."""

    def narrow(leaf):
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf

    params, posterior = jax.tree.map(narrow, (case.system.params, case.posterior))
    state = case.update.init(params, posterior, key=jax.random.key(7))
    end, info = eqx.filter_eval_shape(case.update, state, jax.tree.map(narrow, case.system.x))
    assert info.elbo.dtype == jnp.float32
    for leaf in jax.tree.leaves(points(end)):
        assert leaf.dtype != jnp.float64


LAPACK = {
    *(
        "cholesky",
        "cholesky_update",
        "triangular_solve",
        "lu",
        "geqrf",
        "householder_product",
        "qr",
    ),
    *("eigh", "eig", "svd", "schur", "hessenberg", "tridiagonal", "tridiagonal_solve"),
}


def array_operations(case):
    """Nothing calls LAPACK: under `vmap` its calls are batched, and two such calls at a time may deadlock."""
    program, _ = case.program
    called = {equation.primitive.name for equation in equations(program.jaxpr)} & LAPACK
    assert not called, f"calls {called}"


# --- laws of models --------------------------------------------------------------------------------


# Systems of one array, of several, and of a belief: an encoder's q reaches the sums of all components in one way.
ENCODED = {"mixture-full-auto", "mixture-product", "bayesian-full"}


def posteriors(system):
    """Yields the kinds of q under which statistics must be correct."""
    yield elbax.Exact(system.model, system.params)
    if system.name in ENCODED:
        yield encoder(system, inside(system.model).num_components)


def inside(model):
    """The model that a `Bayesian` is about, with the same natural coordinates; any other one itself."""
    return model.model if isinstance(model, elbax.Bayesian) else model


def statistics(system):
    """⟨η, statistics⟩ + constant equals Σ w E_q[log p(x, z)], at random η.

    It tests as many η as the statistics have entries (at most 40), which determines them.
    """
    model, params, x = system.model, system.params, system.x
    weight = jnp.linspace(0.5, 1.5, system.num_data)
    coordinates, reference = split_coordinates(model.natural(params))
    size = sum(leaf.size for leaf in jax.tree.leaves(coordinates))
    keys = jax.random.split(jax.random.key(0), size)

    def towards(key):
        """A direction at random, in which coordinates may move."""
        draw = lambda leaf: jax.random.normal(jax.random.fold_in(key, leaf.size), leaf.shape)
        return symmetrize(jax.tree.map(draw, coordinates))

    for posterior in posteriors(system):

        def expected(coordinates, posterior=posterior):
            """Returns the expected log-joint as a sum over all data and all values of z."""
            natural = model.prepare(eqx.combine(coordinates, reference))

            def one(x, weight):
                q = posterior(x).mean()
                potentials, constant = inside(model).potentials(natural, x)
                return weight * (jnp.sum(q * potentials) + constant)

            return jnp.sum(jax.vmap(one)(x, weight))

        @jax.jit
        def both(keys, posterior=posterior, expected=expected):
            batch = elbax.Batch(x, weight=weight)
            _, found, _ = expected_statistics(model, params, posterior, batch, key=keys[0])
            constant = expected(jax.tree.map(jnp.zeros_like, coordinates))

            def one(key):
                direction = towards(key)
                pairs = zip(jax.tree.leaves(direction), jax.tree.leaves(found))
                return sum(jnp.vdot(a, b) for a, b in pairs) + constant, expected(direction)

            return found, symmetrize(found), jax.lax.map(one, keys)

        found, symmetric, (ours, theirs) = both(keys[:40])
        assert_close(symmetric, found)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def symmetrize(tree):
    """Makes matrices symmetric, since precisions and the directions in which they move are."""

    def one(leaf):
        square = leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2] == 2
        return 0.5 * (leaf + leaf.mT) if square else leaf

    return jax.tree.map(one, tree)


def stationarity(system):
    """At `maximize(statistics)` the expected log-joint plus log-prior is stationary in all params, a maximum."""
    model, params, x = system.model, system.params, system.x
    for posterior in posteriors(system):

        @jax.jit
        def maximum(params, x, posterior=posterior):
            _, found, _ = expected_statistics(model, params, posterior, x, key=jax.random.key(0))
            return model.maximize(found, params, spread(True, params))

        best = maximum(params, x)

        @jax.jit
        @jax.value_and_grad
        def objective(theta, posterior=posterior):
            def one(x):
                q = posterior(x).mean()
                values = jax.vmap(lambda z: model.log_joint(theta, x, z))(jnp.arange(len(q)))
                return jnp.sum(q * values)

            return jnp.sum(jax.vmap(one)(x)) + model.log_prior(theta)

        highest, slope = objective(best)
        for leaf in jax.tree.leaves(slope):
            np.testing.assert_allclose(leaf, 0, atol=1e-8 * system.num_data)
        # The value does not depend on a shift of the logits; in all other directions the point is a maximum.
        coordinates, rest = split_coordinates(best)
        for seed in range(3):
            nudged = eqx.combine(nudge(coordinates, 1e-3, seed), rest)
            assert objective(nudged)[0] < highest


def rebasing(system):
    """Statistics moved to their own maximum have it there too; moved back, they are what they were."""
    model, params, x = system.model, system.params, system.x
    free = spread(True, params)

    @jax.jit
    def both(params):
        posterior = elbax.Exact(model, params)
        _, found, _ = expected_statistics(model, params, posterior, x, key=jax.random.key(0))
        best = model.maximize(found, params, free)
        moved = change_of_statistics(model, params, best)(found)
        back = change_of_statistics(model, best, params)(moved)
        return (found, best), (back, model.maximize(moved, best, free))

    ours, theirs = both(params)
    assert_close(ours, theirs, 1e-9)


def tightness(system):
    """With the exact posterior the ELBO is the evidence plus the global term; otherwise it is lower.

    Under a belief over the params the normalizer of exp E[log p(x, z | θ)] stands for the evidence.
    """
    model, params, x = system.model, system.params, system.x

    def normalizer(params):
        natural = model.prepare(model.natural(params))

        def one(x):
            potentials, constant = inside(model).potentials(natural, x)
            return model.latent.log_normalizer(potentials) + constant

        return jnp.mean(jax.vmap(one)(x))

    @jax.jit
    def bounds(params, nudged):
        has = model.has_evidence
        log_evidence = elbax.evidence(model, params, x) if has else normalizer(params)
        global_term = jnp.asarray(model.log_prior(params)) / system.num_data
        bound = elbax.elbo(model, params, elbax.Exact(model, params), x)
        return (
            log_evidence + global_term,
            bound,
            elbax.elbo(model, params, elbax.Exact(model, nudged), x),
        )

    highest, bound, looser = bounds(params, nudge(params, 0.1))
    np.testing.assert_allclose(bound, highest, rtol=1e-12)
    assert looser < bound


def chunks(system):
    """Chunks of five of the twenty-four rows give the results of the full batch, with the same draws for a key."""
    model, params, x = system.model, system.params, system.x
    if model.exact:
        posterior = elbax.Exact(model, params)
    elif isinstance(model.latent, elbax.families.SwitchingChain):
        posterior = elbax.posteriors.CoordinateAscent(elbax.Exact(model, params), 2)
    else:
        posterior = encoder(system, 4)
    key = jax.random.key(4)

    @jax.jit
    def terms():
        return [
            elbax.elbo_terms(model, params, posterior, x, key=key, chunk_size=chunk_size)
            for chunk_size in (None, 5)
        ]

    whole, chunked = terms()
    assert_close(chunked, whole, 1e-12)


def units(case):
    """Scaling columns by 1e-6 to 1e6 and shifting them changes neither the log-prior nor the latents.

    This holds for translated params and for `init` with the same key, at the start and after some sweeps.
    """
    system = case.system
    model, x = system.model, system.x
    there = change_of_units(system)

    table = isinstance(case.posterior, elbax.posteriors.MeanField)

    @jax.jit
    def run(params, x):
        make = (
            elbax.posteriors.MeanField.init
            if table
            else lambda model, params, x: elbax.Exact(model, params)
        )
        state = case.update.init(params, make(model, params, x), key=jax.random.key(7))
        end, _ = jax.lax.scan(lambda state, _: case.update(state, x), state, length=4)

        def seen(state):
            posterior = state.posterior if table else elbax.Exact(model, state.params)
            index = (jnp.arange(system.num_data),) if table else ()
            q = jax.vmap(lambda x, *i: posterior(x, **dict(zip(["index"], i))).mean())(x, *index)
            return model.log_prior(state.params), q

        return seen(state), seen(end)

    key = jax.random.key(3)
    starts = system.params, model.init(key, x)
    mapped = there.params(system.params), model.init(key, there.x)
    for here, same in zip(starts, mapped):
        assert_close(run(same, there.x), run(here, x), 1e-7)


def batch(system):
    """`jax.vmap(posterior)(x)` gives for each row the values that `posterior` gives for it."""
    posterior, number = elbax.Exact(system.model, system.params), 3
    x = jax.tree.map(lambda leaf: leaf[:number], system.x)
    keys = jax.random.split(jax.random.key(0), number)

    def answers(q, key):
        said = q.mean(), q.mode(), q.entropy(), q.bound(q.natural), q.sample(key)
        return *said, q.log_prob(said[1])

    @jax.jit
    def both(x, keys, key):
        one = lambda row: answers(posterior(row[0]), row[1])
        return answers(jax.vmap(posterior)(x), key), jax.lax.map(one, (x, keys))

    found, by_row = both(x, keys, jax.random.key(0))
    assert_close(found, by_row, 1e-8)


def one_datum(system):
    """A posterior takes one datum: it rejects a whole table before anything runs."""
    posterior = elbax.Exact(system.model, system.params)
    if not isinstance(system.model, elbax.Model):
        # A plain model is a user's function, which may accept a table.
        for x in (system.x, jax.tree.map(lambda leaf: leaf[:1], system.x)):
            with pytest.raises((ValueError, TypeError)):
                jax.eval_shape(posterior, x)


# --- laws of JAX's modes: an update behaves like any function in JAX ---------------------------------


def on_two_devices(tree, axis_type=jax.sharding.AxisType.Explicit):
    """Returns the rows with half of them on each device, on a mesh with axes of the given type."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.P("data")))


def sharded(case):
    """Rows on two devices give the same step."""
    end, info = case.step(case.state, on_two_devices(case.system.x))
    single, seen = case.step(case.state, case.system.x)
    assert_close(info.elbo, seen.elbo)
    assert_close(points(end), points(single), 1e-8)


def buffers(tree):
    """Returns the buffer address of each leaf."""
    data = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [leaf.unsafe_buffer_pointer() for leaf in data if leaf.size]


def donation(case):
    """No two leaves of a first state share a buffer, so that it can be donated to a program."""
    state = case.update.init(case.system.params, case.posterior, key=jax.random.key(7))
    assert len(set(buffers(state))) == len(buffers(state))
    # It is committed to no device, since data may be on others.
    assert not any(leaf.committed for leaf in jax.tree.leaves(state))
    assert_equal(state, case.state)


class Pickler(pickle.Pickler):
    """Pickles functions from outside of elbax by reference, since pickle may not support those of optax."""

    def __init__(self, file):
        super().__init__(file)
        self.others = {}

    def persistent_id(self, obj):
        function = callable(obj) and hasattr(obj, "__qualname__") and not isinstance(obj, type)
        if not function or (obj.__module__ or "").startswith("elbax"):
            return None
        self.others[id(obj)] = obj
        return id(obj)


def copies(tree):
    """Returns (a copy through pickle, a copy by `copy.deepcopy`)."""
    file = io.BytesIO()
    pickler = Pickler(file)
    pickler.dump(tree)
    unpickler = pickle.Unpickler(io.BytesIO(file.getvalue()))
    unpickler.persistent_load = pickler.others.__getitem__
    # Functions from outside are kept: deepcopy would replace those of JAX by equivalent ones.
    return unpickler.load(), copy.deepcopy(tree, dict(pickler.others))


def copying(case):
    """`pickle` and `copy.deepcopy` preserve models, updates, posteriors and states."""
    everything = case.system.model, case.update, case.posterior, case.state
    for again in copies(everything):
        assert jax.tree.structure(again) == jax.tree.structure(everything)
        for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(everything), strict=True):
            assert eqx.is_array(theirs) or ours == theirs
        assert_equal(*(eqx.filter(tree, eqx.is_array) for tree in (again, everything)))


def lowering(case):
    """A step can be lowered for accelerators."""
    traced = jax.jit(case.update).trace(case.state, case.system.x)
    assert traced.lower(lowering_platforms=("cuda", "tpu")).as_text()


OF_UPDATES = [scan, structure, ascent, one_trace, purity, claims, randomness, weights, dtype]
OF_UPDATES += [array_operations]
OF_MODELS = [tightness, chunks]
OF_LINEAR_MIXTURES = [statistics, stationarity]


def slope(case):
    """The gradient of three sweeps, in reverse mode, equals finite differences."""
    trained, rest = split_coordinates(case.system.params)
    start, unflatten = ravel_pytree(trained)
    direction = jax.random.normal(jax.random.key(1), start.shape)

    # Created outside of the trace, since the system caches them.
    posterior, x = case.posterior, case.system.x

    def sweeps(vector):
        params = eqx.combine(unflatten(vector), rest)
        state = case.update.init(params, posterior, key=jax.random.key(7))
        step = lambda state, _: case.update(state, x)
        end = ravel_pytree(split_coordinates(jax.lax.scan(step, state, length=3)[0].params)[0])[0]
        return jnp.linspace(-1, 1, len(end)) @ end

    # The mean of the gradients on both sides is that in the middle, up to the square of the step: one program.
    both = jax.jit(lambda vectors: jax.lax.map(jax.value_and_grad(sweeps), vectors))
    step = 1e-5 * direction
    (above, below), gradients = both(jnp.stack([start + step, start - step]))
    gradient, difference = gradients.mean(0) @ direction, (above - below) / 2e-5
    np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=1e-8)


OF_STATES = [donation, copying]


# --- laws of posteriors ---------------------------------------------------------------------------------


def follows(case):
    """Bound to other params and back it is what it was; so is every `Exact` of the model inside of it."""
    posterior, model, params = case.state.posterior, case.system.model, case.system.params
    other = shifted(params, 0.1)
    away = bind(posterior, model, other)
    assert jax.tree.structure(away) == jax.tree.structure(posterior)
    assert_equal(bind(away, model, params), posterior)
    for node in nodes_of(elbax.Exact, away):
        assert_equal(node.params, other)


def trains(case):
    """What is trained can be exchanged, and nothing else is; params of a snapshot are not."""
    posterior = case.state.posterior
    weights = weights_of(posterior)
    assert_equal(with_weights(weights, posterior), posterior)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, weights)
    assert_equal(weights_of(with_weights(doubled, posterior)), doubled)
    assert not nodes_of(elbax.Exact, weights)
    rest = with_weights(jax.tree.map(jnp.zeros_like, weights), posterior)
    assert_equal(
        [node.params for node in nodes_of(elbax.Exact, rest)],
        [node.params for node in nodes_of(elbax.Exact, posterior)],
    )


def prepares(case):
    """Prepared for a pass it gives the answers that it gives by itself, at each row, for the same key."""
    posterior, model, params = case.state.posterior, case.system.model, case.system.params
    x = jax.tree.map(lambda leaf: leaf[:2], case.system.x)

    @jax.jit
    def both(params, posterior, x):
        posterior = bind(posterior, model, params)
        prepared = prepare(
            posterior, ModelAt(model, model, params, model.prepare(model.natural(params)))
        )
        rows, keys = jnp.arange(2), jax.random.split(jax.random.key(3), 2)

        def answers(posterior):
            return jax.vmap(lambda x, row, key: at_row(posterior, row)(x, key=key).mean())(
                x, rows, keys
            )

        return answers(posterior), answers(prepared)

    assert_close(*both(params, posterior, x), 1e-9)


OF_POSTERIORS = [follows, trains, prepares]
OF_MODES = [sharded, lowering]
