"""Does EM ever fall? A few of the many random tables of `benchmarks/ascent.py`; more are tried there."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest


pytestmark = pytest.mark.usefixtures("both_forms")


PATH = pathlib.Path(__file__).parent.parent / "benchmarks" / "ascent.py"
_spec = importlib.util.spec_from_file_location("ascent", PATH)
ascent = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ascent)


# These ascend in float64 by the law of all updates, on a table of their own (`test_laws.py`); what is hard about
# the tables here is hard in float32. Others are tried in both.
IN_FLOAT32 = {"normal, tied", "normal, diagonal", "normal, spherical", "Bernoulli", "multinomial"}
IN_FLOAT32 |= {"probabilistic PCA", "factor analysis", "linear regressions", "gamma", "categorical"}
IN_FLOAT32 |= {"Student t", "hidden Markov, normal", "state space"}
TRIED = [
    pytest.param(family, dtype, id=f"{family.name}-{np.dtype(dtype).name}")
    for family in ascent.FAMILIES
    for dtype in (np.float32, np.float64)
    if dtype == np.float32 or family.name not in IN_FLOAT32
]


@pytest.mark.slow
@pytest.mark.parametrize("family, dtype", TRIED)
def test_no_sweep_falls(family, dtype):
    for shape in family.shapes[:1]:
        with jax.numpy_dtype_promotion("standard"), jax.enable_x64(dtype == np.float64):
            fell, astray, worst = ascent.outcome(ascent.fits(family, shape, 16, dtype, seed=1))
        assert not fell.any(), (
            f"shape {shape}, tables {np.flatnonzero(fell)}: fell by {worst.max():.1e}"
        )
        assert not astray.any(), f"shape {shape}, tables {np.flatnonzero(astray)}: not finite"


def test_a_fall_is_seen():
    trace = np.array([[-2.0, -1.0, -1.0], [-2.0, -1.0, -1.001], [-2.0, np.nan, -1.0]])
    fell, astray, _ = ascent.outcome(trace)
    assert fell.tolist() == [False, True, False]
    assert astray.tolist() == [False, False, True]
