"""How all tests run: float64, strict promotion, two CPU devices, warnings as errors."""

import os
import pathlib


# Before JAX looks: two devices on the host, for the law of sharding. Most of the suite's time is compilation, and
# what it compiles runs once: the other flags (of the jaxlib that constraints.txt names) make it 2.5 to 4 times
# faster.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_llvm_force_inline_before_split=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)

import jax
import jaxtyping
import pytest

import elbax._pass


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def both_forms(monkeypatch):
    """The choice between a faster form and the other, which passes over little data do not make.

    A program that was compiled before keeps the choice that it was traced with.
    """
    monkeypatch.setattr(elbax._pass, "_SMALL", 0)


@pytest.fixture
def as_users_run():
    """Without the type checks that only tests have, which would speak before our own errors do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def within_the_limit_of_maps():
    """Every compiled function holds memory maps, of which Linux grants a process 65530: then it crashes."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
        jax.clear_caches()
