"""What holds of any function and pytree in JAX holds of updates and states: copies in other processes, exports."""

import pickle

import pytest
from cases import find
from laws import assert_equal


def test_plain_pickle():
    """Where no function of others is inside, there is nothing to look out for."""
    case = find("mixture-full-auto:accelerate")
    update, state = pickle.loads(pickle.dumps((case.update, case.state)))
    assert_equal(update(state, case.system.x), case.step(case.state, case.system.x))


def test_cloudpickle_takes_what_optax_and_users_write():
    cloudpickle = pytest.importorskip("cloudpickle")
    case = find("plain-categorical:exact/gradient")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(case.update)
    update, state = pickle.loads(cloudpickle.dumps((case.update, case.state)))
    assert_equal(update(state, case.system.x), case.step(case.state, case.system.x))
