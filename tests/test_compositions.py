"""Does every composition run or say why not? A few of `benchmarks/compositions.py`; more are tried there."""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest

import elbax


pytestmark = pytest.mark.usefixtures("as_users_run")

BENCHMARKS = pathlib.Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def compositions():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("compositions")
    sys.path.remove(str(BENCHMARKS))


# Each system has a start of its own to compile: a few of different kinds are enough here.
SYSTEMS = ["mixture-full-auto", "factors-diagonal", "mixture-poisson", "plain-categorical"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(14))
def test_it_runs_or_says_why_not(compositions, number):
    outcome = compositions.attempt(number, seed=4, only=SYSTEMS)
    assert outcome.kind != "finding", f"{outcome.group}: {outcome.words}"


def test_an_error_of_another_library_is_a_finding(compositions):
    def fail(function):
        with pytest.raises((TypeError, ValueError)) as caught, compositions.all_frames():
            function()
        return compositions.judge(caught.value)[0]

    assert fail(lambda: jnp.zeros(2) + jnp.zeros(3)) == "finding"
    assert (
        fail(lambda: jax.lax.scan(lambda c, _: (c[:1], None), jnp.ones(2), length=2)) == "finding"
    )
    assert fail(lambda: elbax.Chain()) == "refused"


def test_a_fall_is_seen(compositions):
    start = elbax.ELBOState(jnp.zeros(1), (), (), jax.random.key(0))
    info = elbax.Info(jnp.array([-2.0, -1.0, -1.5]))
    faults = list(compositions.faults("", start, start, info, jnp.array([-1.0, -0.5, 0.0]), True))
    assert faults == ["the info ELBO fell by 2.0e-01"]
