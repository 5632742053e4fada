"""`variational_bayes.py` under pytest-benchmark: `make benchmark`."""

import pytest
import variational_bayes as measure


@pytest.mark.parametrize("name", measure.SIZES)
def test_mixture(record, name):
    record(measure.mixture, name)


def test_hidden_markov(record):
    record(measure.hidden_markov)
