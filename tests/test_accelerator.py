"""The accelerator's script runs on a CPU, in small: as its user calls it."""

import os
import pathlib
import subprocess
import sys

import pytest


SCRIPT = pathlib.Path(__file__).parent.parent / "benchmarks" / "accelerator.py"


@pytest.mark.slow
def test_small():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small"],
        capture_output=True,
        text=True,
        check=False,
        # Most of it is compilation, and what it compiles runs a few times.
        env=os.environ
        | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "Tflop/s" in done.stdout
    assert "pairwise" in done.stdout and "autoencoder" in done.stdout
