"""Does every composition either run or say why not? A few of `benchmarks/compositions.py`; more are tried there."""

import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

import elbax


PATH = pathlib.Path(__file__).parent.parent / "benchmarks" / "compositions.py"
_spec = importlib.util.spec_from_file_location("compositions", PATH)
compositions = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = compositions  # Where its dataclasses look for their types.
_spec.loader.exec_module(compositions)

# Each system has a start of its own to compile: a few of different kinds are enough here.
SYSTEMS = ["mixture-full-auto", "factors-diagonal", "hidden-markov", "plain-categorical"]


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("number", range(25))
def test_it_runs_or_says_why_not(number):
    outcome = compositions.attempt(number, seed=1, only=SYSTEMS)
    assert outcome.kind != "finding", f"{outcome.group}: {outcome.words}"


def test_an_error_of_another_library_is_a_finding():
    def fail(function):
        with pytest.raises((TypeError, ValueError)) as caught, compositions.all_frames():
            function()
        return compositions.judge(caught.value)[0]

    assert fail(lambda: jnp.zeros(2) + jnp.zeros(3)) == "finding"
    assert fail(lambda: jax.lax.scan(lambda c, _: (c + 1.0, None), 0, length=2)) == "finding"
    assert fail(lambda: elbax.Chain()) == "refused"


def test_a_fall_is_seen():
    model = elbax.GaussianMixture(2)
    start = elbax.ELBOState(jnp.zeros(1), (), (), jax.random.key(0))
    info = elbax.Info(jnp.array([-2.0, -1.0, -1.5]))
    faults = list(compositions.faults("", start, start, info, jnp.array([-1.0, -0.5, 0.0]), True))
    assert faults == ["the info ELBO fell by 2.0e-01"]
