"""`tractable_posteriors.py` under pytest-benchmark: `make benchmark`."""

import pytest
import tractable_posteriors as measure


@pytest.mark.parametrize("kind", measure.KINDS)
def test_mixtures(record, kind):
    record(measure.mixtures, kind)


@pytest.mark.parametrize("num_data", [1_000, 100_000])
def test_factor_analysis(record, num_data):
    record(measure.factor_analysis, num_data)


@pytest.mark.skipif(not measure.MCLUST, reason="R is not installed")
def test_mclust(record):
    record(measure.mclust, 10_000, "full")


def test_restarts(record):
    record(measure.restarts, 272)


def test_incomplete(record):
    record(measure.incomplete)
