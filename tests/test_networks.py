"""Networks of equinox and flax by their own ways: dropout, running statistics, blocks of an optimizer, files."""

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from laws import assert_close

import elbax
from elbax import estimators


KEYS = jax.random.split(jax.random.key(0), 8)
X = 1.0 + 2 * jax.random.normal(KEYS[0], (12, 3))
LATENT = elbax.DiagonalGaussian(2)


@pytest.fixture(autouse=True)
def standard_promotion():
    """Layers of other libraries mix their numbers' types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def layers(inputs, outputs, key):
    keys = jax.random.split(key, 2)
    return eqx.nn.Sequential(
        [
            eqx.nn.Linear(inputs, 5, key=keys[0]),
            eqx.nn.BatchNorm(5, axis_name="rows", mode="batch", momentum=0.9),
            eqx.nn.Lambda(jax.nn.tanh),
            eqx.nn.Dropout(0.3),
            eqx.nn.Linear(5, outputs, key=keys[1]),
        ]
    )


(ENCODER, ENCODER_STATE), (DECODER, DECODER_STATE) = (
    eqx.nn.make_with_state(layers)(inputs, outputs, key)
    for inputs, outputs, key in ((3, 4, KEYS[1]), (3, 3, KEYS[2]))
)


def likelihood(params, x, z, key=None):
    """A decoder of the datum itself, so that its statistics are known, whatever the draws of z."""
    mean = params(x + 0 * z.sum(), key=key)
    return jax.scipy.stats.norm.logpdf(x, mean).sum()


def model_of(**given):
    prior = lambda params, x: (jnp.zeros(2), jnp.ones(2))
    return elbax.Model(likelihood=likelihood, prior=prior, latent=LATENT, **given)


MODEL = model_of(estimator=estimators.ImportanceWeighted(3))


def autoencoder():
    decoder = elbax.Network(DECODER, state=DECODER_STATE)
    return decoder, elbax.Amortized(elbax.Network(ENCODER, state=ENCODER_STATE), LATENT)


def by_hand(module, state, x):
    """The state that equinox itself ends at, in its own vmap."""
    keys = jax.random.split(KEYS[3], len(x))
    state = jax.tree.map(lambda leaf: leaf, state)
    _, moved = jax.vmap(module, (0, None), (0, None), axis_name="rows")(x, state, key=keys)
    return moved


def moved(update, batch, state=None):
    """The statistics of the decoder and of the encoder after a step."""
    state = update.init(*autoencoder(), key=KEYS[4]) if state is None else state
    after, _ = jax.jit(update)(state, batch)
    return after, (after.params.state.value, after.posterior.network.state.value)


STATISTICS = elbax.RunningStatistics(MODEL)


def test_running_statistics_are_those_of_equinox():
    """In both networks, one called once a row, the other for each of three draws; their counters too."""
    after, found = moved(STATISTICS, X)
    expected = by_hand(DECODER, DECODER_STATE, X), by_hand(ENCODER, ENCODER_STATE, X)
    assert_close(found, expected, 1e-12)
    assert jax.tree.leaves(found)[0].dtype == jax.tree.leaves(DECODER_STATE)[0].dtype
    again, found = moved(STATISTICS, X, after)
    assert_close(found[1], by_hand(ENCODER, expected[1], X), 1e-12)
    weights = lambda state: (state.params.weights, state.posterior.network.weights)
    assert_close(weights(again), weights(after), 0)


def test_running_statistics_of_parts_of_a_batch():
    """Of chunks their mean; without data none."""
    chunks = elbax.RunningStatistics(MODEL, chunk_size=6)
    _, found = moved(chunks, X)
    halves = [by_hand(ENCODER, ENCODER_STATE, part) for part in (X[::2], X[1::2])]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert_close(found[1], expected, 1e-12)
    _, found = moved(STATISTICS, elbax.Batch(X, mask=jnp.zeros(12, bool)))
    assert_close(found, (DECODER_STATE, ENCODER_STATE), 0)


def test_a_step_trains_by_the_batch_and_leaves_the_statistics():
    """Not even weight decay moves them; evaluation is by them, as in equinox's own inference mode."""
    train = elbax.JointGradientStep(MODEL, optax.adamw(0.01, weight_decay=0.5))
    chain = elbax.Chain(STATISTICS, train)
    state, found = moved(chain, X)
    alone, kept = moved(train, X)
    assert_close(kept, (DECODER_STATE, ENCODER_STATE), 0)
    assert_close(found, moved(STATISTICS, X)[1], 1e-12)
    assert_close(state.params.weights, alone.params.weights, 1e-12)

    arrays, rest = eqx.partition(ENCODER, eqx.is_array)
    trained = jax.tree.leaves(state.posterior.network.weights)
    trained = jax.tree.unflatten(jax.tree.structure(arrays), trained)
    inference = eqx.nn.inference_mode(eqx.combine(trained, rest))
    output, _ = inference(X[0], jax.tree.map(lambda leaf: leaf, found[1]))
    expected = LATENT.distribution(output).natural
    assert_close(state.posterior(X[0]).natural, expected, 1e-12)
    quiet = eqx.nn.inference_mode(state.posterior)
    assert_close(quiet(X[0], key=KEYS[5]).natural, expected, 1e-12)
    # Evaluation of one row alone: nothing depends on the batch.
    assert np.isfinite(elbax.elbo(MODEL, state.params, state.posterior, X[:1]))


class Layers(linen.Module):
    outputs: int

    @linen.compact
    def __call__(self, x, train):
        axis = "rows" if train else None
        x = linen.Dense(5)(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=axis)(x)
        return linen.Dense(self.outputs)(linen.Dropout(0.3, deterministic=not train)(x))


def of_linen():
    module = Layers(4)
    variables = module.init(KEYS[1], X[0], train=False)

    def apply(weights, x, state, key=None):
        variables = {"params": weights, **state}
        if key is None:
            return module.apply(variables, x, train=False), state
        rngs = {"dropout": key}
        return module.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])

    return elbax.Network(apply, variables.pop("params"), state=variables)


class Modules(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, axis_name="rows", rngs=rngs)
        self.dropout = nnx.Dropout(0.3)

    def __call__(self, x, rngs=None):
        return self.last(self.dropout(self.norm(self.first(x)), rngs=rngs))


def of_nnx():
    definition, weights, state = nnx.split(Modules(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)

    def apply(weights, x, state, key=None):
        module = nnx.merge(definition, weights, state)
        if key is None:
            module.eval()
            return module(x), state
        module.train()
        output = module(x, rngs=nnx.Rngs(dropout=key))
        return output, nnx.state(module, nnx.BatchStat)

    return elbax.Network(apply, weights, state=state)


@pytest.mark.parametrize("make", [of_linen, of_nnx])
def test_layers_of_flax(make):
    """The statistics of a hundred steps are the batch's; dropout is on in a step and off in evaluation."""
    network, x = make(), X.astype("float32")
    model = elbax.Model(
        likelihood=lambda params, x, z: jax.scipy.stats.norm.logpdf(x, params @ z).sum(),
        prior=lambda params, x: (jnp.zeros(2), jnp.ones(2)),
        latent=LATENT,
    )
    train = elbax.JointGradientStep(model, optax.sgd(0.0))
    step = elbax.Chain(elbax.RunningStatistics(model), train)
    state = step.init(jnp.ones((3, 2), "float32"), elbax.Amortized(network, LATENT), key=KEYS[4])
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, x), s, length=100))
    state, info = run(state)
    assert np.std(info.elbo[-50:]) > 1e-3
    first = jax.tree.leaves(network.weights)
    inside = np.asarray(x @ next(leaf for leaf in first if leaf.shape == (3, 5)))
    mean, variance = jax.tree.leaves(state.posterior.network.state)
    np.testing.assert_allclose(mean, inside.mean(0), atol=1e-3)
    np.testing.assert_allclose(variance, inside.var(0), rtol=1e-3)
    evaluated = [state.posterior(x[0]).natural for _ in range(2)]
    assert_close(*evaluated, 0)


def test_blocks_of_an_optimizer_have_names():
    """Rates of encoder and decoder, and of a part of the params, by the labels of the blocks."""
    model = elbax.Model(
        likelihood=lambda params, x, z: jax.scipy.stats.norm.logpdf(
            x, params["decoder"](z), jnp.exp(params["log_noise"])
        ).sum(),
        prior=lambda params, x: (jnp.zeros(2), jnp.ones(2)),
        latent=LATENT,
    )
    params = {
        "decoder": elbax.Network(eqx.nn.Linear(2, 3, key=KEYS[1])),
        "log_noise": jnp.zeros(3),
    }
    encoder = elbax.Amortized(eqx.nn.Linear(3, 4, key=KEYS[2]), LATENT)
    labels = {"params": {"decoder": "decoder", "log_noise": "fixed"}, "posterior": "encoder"}
    rates = {"decoder": optax.sgd(0.1), "encoder": optax.sgd(0.3), "fixed": optax.set_to_zero()}

    def moves(optimizer):
        step = elbax.JointGradientStep(model, optimizer)
        after, _ = jax.jit(step)(step.init(params, encoder, key=KEYS[3]), X)
        difference = lambda new, old: jax.tree.leaves(jax.tree.map(jnp.subtract, new, old))
        return (
            difference(after.params["decoder"], params["decoder"]),
            difference(after.params["log_noise"], params["log_noise"]),
            difference(after.posterior, encoder),
        )

    plain = moves(optax.sgd(1.0))
    expected = [jax.tree.map(lambda leaf, r=r: r * leaf, p) for r, p in zip((0.1, 0.0, 0.3), plain)]
    assert_close(moves(optax.multi_transform(rates, labels)), tuple(expected), 1e-12)
    norm = optax.tree.norm(plain)
    clipped = moves(optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(lambda step: 1.0)))
    assert norm > 0.5
    assert_close(clipped, jax.tree.map(lambda leaf: leaf * 0.5 / norm, plain), 1e-10)


def test_a_run_goes_on_from_a_file(tmp_path):
    """As if it had not been interrupted, to the bit: weights, statistics, moments, the key."""
    rates = optax.multi_transform(
        {"params": optax.adam(0.01), "posterior": optax.adam(optax.cosine_decay_schedule(0.1, 9))},
        {"params": "params", "posterior": "posterior"},
    )
    step = elbax.Chain(STATISTICS, elbax.JointGradientStep(MODEL, rates))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, X), s, length=3)[0])
    fresh = step.init(*autoencoder(), key=KEYS[4])
    half = run(fresh)
    elbax.save(tmp_path / "run.eqx", half)
    restored = elbax.load(tmp_path / "run.eqx", like=fresh)
    ends = [jax.tree.leaves(run(state)) for state in (half, restored)]
    for one, other in zip(*ends, strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = map(jax.random.key_data, (one, other))
        np.testing.assert_array_equal(one, other)


def test_what_networks_with_a_state_are_told(as_users_run):
    network = elbax.Network(lambda weights, x, state: x, jnp.ones(1), state=jnp.zeros(1))
    with pytest.raises(TypeError, match=r"must return \(output, new state\), got"):
        network(X[0])
    encoder = elbax.Amortized(eqx.nn.Linear(3, 4, key=KEYS[2]), LATENT)
    with pytest.raises(TypeError, match="RunningStatistics: no network .* has a state"):
        STATISTICS.init(elbax.Network(DECODER), encoder, key=KEYS[0])
