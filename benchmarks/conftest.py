"""How a measurement is recorded."""

import pytest


@pytest.fixture
def record(benchmark):
    def run(measurement, *args):
        rows = benchmark.pedantic(measurement, args=args, rounds=1)
        benchmark.extra_info["rows"] = rows
        return rows

    return run
