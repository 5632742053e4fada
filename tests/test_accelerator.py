"""The accelerator's script runs on a CPU, in small: as its user calls it."""

import pathlib
import subprocess
import sys

import pytest


SCRIPT = pathlib.Path(__file__).parent.parent / "benchmarks" / "accelerator.py"


@pytest.mark.slow
def test_small():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "Tflop/s" in done.stdout
