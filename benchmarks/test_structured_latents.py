"""`structured_latents.py` under pytest-benchmark: `make benchmark`."""

import pytest
import structured_latents as measure


@pytest.mark.parametrize("name", measure.MODELS)
def test_hidden_markov(record, name):
    record(measure.hidden_markov, name)


@pytest.mark.parametrize("count", [1, 64])
def test_state_space(record, count):
    record(measure.state_space, count)


def test_alignments(record):
    record(measure.alignments, 32)


def test_grammars(record):
    record(measure.grammars, 20)
