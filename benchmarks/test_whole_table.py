"""`whole_table.py` under pytest-benchmark: `make benchmark`."""

import pytest
import whole_table as measure


def test_rows(record):
    record(measure.rows, 10_000)


@pytest.mark.parametrize("name", ["Hasselblad", "overlapping"])
def test_acceleration(record, name):
    plain, fast = record(measure.acceleration, name)
    assert fast["evaluations"] < plain["evaluations"] / 3


def test_grid(record):
    row = record(measure.grid)
    assert float(row["largest difference after 50 rounds"]) < 1e-5


def test_blocks(record):
    single, rows, columns = (float(row["KL, nats an image"]) for row in record(measure.blocks))
    assert single >= rows > columns > 0


def test_variances(record):
    found = {row["10 draws"]: row for row in record(measure.variances)}
    assert float(found["StickingTheLanding"]["variance, q = p(z given x)"]) < 1e-12
