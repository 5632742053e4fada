"""Every cell of the table in docs/choose.md runs in one scan and reaches its promise, or says what is missing."""

import re

import jax
import jax.numpy as jnp
import matrix
import optax
import pytest
from cases import find, SYSTEMS

import elbax


QUICK = {("mixture", "mean field", "closed form")}


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(c, id="-".join(c), marks=() if c in QUICK else pytest.mark.slow)
        for c in matrix.CELLS
    ],
)
def test_cell(cell):
    matrix.judge(*cell)


def test_the_page_has_these_cells():
    """The marks are those of `python tests/matrix.py`, which writes one only where `judge` passes."""
    text = matrix.PAGE.read_text()
    table = text.split(matrix.BEGIN)[1].split(matrix.END)[0].strip()
    assert table == matrix.rendered(dict.fromkeys(matrix.CELLS, True))


def named(name):
    return next(system for system in SYSTEMS if system.name == name)


MIXTURE = find("mixture-full-auto:exact/closed").system


def exact(system):
    return elbax.Exact(system.model, system.params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: (elbax.OnlineMStep(named("ctc").model, 0.5), "ctc"),
            "ConnectionistTemporalClassification has no closed-form",
        ),
        (
            lambda: (elbax.ClosedFormMStep(named("plain-gaussian").model), "plain-gaussian"),
            "no closed-form M-step",
        ),
        (
            lambda: (elbax.ClosedFormMStep(named("experts").model), "experts"),
            "the gate .* has no closed-form",
        ),
        (
            lambda: (elbax.GradientEStep(MIXTURE.model, optax.adam(0.1)), "mixture-full-auto"),
            "GradientEStep: got an Exact posterior, which has no weights to train",
        ),
        (lambda: (elbax.MeanFieldEStep(MIXTURE.model), "mixture-full-auto"), "MeanField.init"),
        (
            lambda: (
                elbax.LocalGradientEStep(MIXTURE.model, optax.adam(0.1)),
                "mixture-full-auto",
            ),
            r"elbax.posteriors.Local\(table",
        ),
        (
            lambda: (elbax.MonteCarloEStep(MIXTURE.model), "mixture-full-auto"),
            "elbax.posteriors.MonteCarlo",
        ),
    ],
    ids=lambda item: "",
)
def test_undefined_pairs_name_what_is_missing(make, message):
    update, name = make()
    system = named(name)
    with pytest.raises(TypeError, match=message):
        elbax.Chain(update).init(system.params, exact(system), key=jax.random.key(0))


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (elbax.families.ParseTree(2, 2), "ParseTree has no mean field"),
        (elbax.GaussianChain(2), "GaussianChain has no mean field"),
        (elbax.MarkovChain(2, allowed=jnp.array([[1, 1], [0, 1]], bool)), "impossible"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_latents_without_a_mean_field(latent, message):
    with pytest.raises(TypeError, match=message):
        elbax.families.factored(latent)


def test_a_hard_step_on_a_continuous_latent():
    system = named("factors-diagonal")
    step = elbax.Chain(elbax.HardEStep(system.model), elbax.ClosedFormMStep(system.model))
    state = step.init(system.params, elbax.posteriors.Hard(exact(system)), key=jax.random.key(0))
    with pytest.raises(TypeError, match="continuous Gaussian latent has no entropy"):
        step(state, system.x)


def test_a_batch_beyond_the_table():
    system = MIXTURE
    step = elbax.MeanFieldEStep(system.model)
    posterior = elbax.posteriors.MeanField.init(system.model, system.params, system.x[:5])
    state = step.init(system.params, posterior, key=jax.random.key(0))
    with pytest.raises(ValueError, match="24 rows, but the MeanField has 5.*index"):
        step(state, system.x)
    with pytest.raises(TypeError, match=re.escape("posterior(x, index=row)")):
        posterior(system.x[0])


def test_draws_need_a_key():
    posterior = elbax.posteriors.MonteCarlo(exact(MIXTURE), 3)
    with pytest.raises(TypeError, match="sampling needs a key"):
        posterior(MIXTURE.x[0])
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        elbax.posteriors.MonteCarlo(exact(MIXTURE), 0)
