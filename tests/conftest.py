"""The configuration of all tests: float64, strict promotion, two CPU devices, warnings as errors."""

import ctypes
import gc
import inspect
import os
import pathlib
import threading


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
from jax._src.interpreters import mlir
from jaxlib.mlir import ir


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
# A tenth of the time to compile goes to where each operation was written, which no test reads.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tracing makes many objects that stay: by default Python looks through them all, again and again.
gc.set_threshold(50_000, 20, 20)


# A quarter of the time to compile one operation goes to a context in which it is written down, which JAX makes
# anew for each program. A context keeps what was written in it, so that now and then a new one takes its place.
new_context, context = mlir.make_ir_context, threading.local()


def shared_context():
    """Returns the context of this thread, which so many programs share, one after the other.

    A program that is written down while another one is has its own, or it would be written into that.
    """
    if ir.Context.current is not None:
        return new_context()
    if getattr(context, "left", 0) == 0:
        context.shared, context.left = new_context(), 200
    context.left -= 1
    return context.shared


mlir.make_ir_context = shared_context

jaxtyped = jaxtyping.jaxtyped


def checked(*, typechecker):
    """Leaves functions without annotations as they are: tracing makes thousands of them, with nothing to check."""
    check = jaxtyped(typechecker=typechecker)

    def decorate(item):
        return item if inspect.isfunction(item) and not item.__annotations__ else check(item)

    return decorate


# What jaxtyping's plugin decorates all of elbax with. Nothing imports elbax before the tests that are collected,
# since the process that only hands them to the workers needs none of it.
jaxtyping.jaxtyped = checked


@pytest.fixture
def both_forms(monkeypatch):
    """Lets passes over few data use a faster form too, which they normally do not.

    A program that was compiled before is not changed.
    """
    monkeypatch.setattr("elbax._pass._SMALL", 0)


@pytest.fixture
def as_users_run():
    """Disables the type checks of the tests, which would raise before the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Bytes that a worker may hold.
LIMIT = 2.4e9
PROCESS = pathlib.Path("/proc/self")


def maps():
    """Every compiled function holds some, of which Linux grants a process 65530: then it crashes."""
    return (PROCESS / "maps").read_bytes().count(b"\n")


def resident():
    """Bytes of memory."""
    return int((PROCESS / "statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def trim():
    """Gives memory that is free back to the system, which glibc by itself does not."""
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)


@pytest.fixture(autouse=True)
def within_limits():
    """What is compiled is kept until it holds too much: to compile again what tests share takes seconds."""
    yield
    if not PROCESS.exists():
        return
    if resident() > LIMIT:
        trim()
    if resident() > LIMIT or maps() > 40_000:
        jax.clear_caches()
        gc.collect()
        trim()
