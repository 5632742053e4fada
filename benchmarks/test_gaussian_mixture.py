"""`gaussian_mixture.py` under pytest-benchmark: `make benchmark`.

What is measured goes into `extra_info` (`--benchmark-json FILE` keeps it); the time in pytest's own table
is that of a whole measurement. Only what does not depend on the clock is asserted.
"""

import gaussian_mixture as measure
import pytest


@pytest.mark.parametrize("case", measure.CASES, ids=", ".join)
def test_sweep(record, case):
    record(measure.sweep_seconds, *case)


def test_composition(record):
    record(measure.composition)


def test_memory_of_chunks_is_flat_in_the_number_of_data(record):
    whole, chunked = record(measure.memory)
    assert whole["growth"] > 5
    assert chunked["growth"] == pytest.approx(1, abs=0.05)


def test_second_fit_compiles_nothing(record):
    for row in record(measure.compiling):
        assert row["compilations of a second fit"] == 0


def test_known_optima_are_found(record):
    for row in record(measure.agreement):
        assert row["best"] >= row["known"] - 0.001
