"""A state in a file and back."""

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import elbax


X = elbax.datasets.old_faithful()
MODEL = elbax.GaussianMixture(2)


def started(seed, width=4):
    encoder = elbax.Amortized(eqx.nn.MLP(2, 2, width, 1, key=jax.random.key(seed)), MODEL.latent)
    update = elbax.JointGradientStep(MODEL, optax.adam(0.01))
    params = MODEL.init(jax.random.key(seed), X)
    return update, update.init(params, encoder, key=jax.random.key(seed))


def test_a_run_goes_on_where_it_was_saved(tmp_path):
    update, state = started(0)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: update(s, X), s, length=3)[0])
    middle = run(state)
    elbax.save(tmp_path / "state", middle)
    restored = elbax.load(tmp_path / "state", started(1)[1])
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(middle.key)
    plain = lambda s: jax.tree.leaves(s.replace(key=jax.random.key_data(s.key)))
    for ours, theirs in zip(plain(run(restored)), plain(run(middle)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_structure_is_refused(tmp_path):
    elbax.save(tmp_path / "state", started(0)[1])
    with pytest.raises(ValueError, match=r"do not match those of `like` \(.*shape.*same update"):
        elbax.load(tmp_path / "state", started(0, width=5)[1])
    with pytest.raises(ValueError, match="more arrays than `like`"):
        elbax.load(tmp_path / "state", started(0)[1].params)
