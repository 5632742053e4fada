"""Calls from outside of `jit`, each as one compiled program that is kept for the next."""

import functools
import os
import pathlib
import types

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.experimental.compilation_cache import compilation_cache

from ._types import Any, Callable, PyTree


def is_concrete(tree: PyTree) -> bool:
    """Whether all values are known now, that is outside `jit` and `vmap`."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


# So many numbers, data and state, run through a program in less time than XLA takes to improve it.
_SMALL = 2**13

# What JAX's own `jax_disable_most_optimizations` says to XLA, and its older way to make loops for a CPU.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_llvm_force_inline_before_split": False,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def at_most(limit: int, tree: PyTree) -> bool:
    """Whether a tree holds no more numbers; where their number is a symbol (in an export), it may hold more."""
    size = sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))
    return isinstance(size, int) and size <= limit


def compiled(function: Callable) -> Any:
    """`equinox.filter_jit`; on a CPU small data get a program that is compiled in a fifth of the time.

    It runs a third as fast, so of large data it is optimized as ever.
    """
    # Made when it is first called, so that an import need not.
    optimized = functools.cache(lambda: eqx.filter_jit(function))
    options: dict[str, Any] = {"compiler_options": _QUICK}
    quick = functools.cache(lambda: eqx.filter_jit(function, **options))

    @functools.wraps(function)
    def call(*args, **kwargs):
        given = args, kwargs
        small = at_most(_SMALL, given)
        # A program inside of another is compiled with it.
        soon = small and is_concrete(given) and _understood() and outside()
        return (quick if soon else optimized)()(*args, **kwargs)

    return call


def outside() -> bool:
    """Whether no program is traced now, which would have constants as tracers too."""
    return not isinstance(jax.device_put(np.zeros(())), Tracer)


@functools.cache
def _understood() -> bool:
    """Whether programs are for a CPU, and this XLA still knows all that it is told."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: np.zeros(()), compiler_options=_QUICK).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def program(function: Callable) -> Callable:
    """The function as it stands inside of a trace; one compiled program where all values are known.

    An operation by itself would be a program to compile, and one that holds a function (a `cond`, a scan) one at
    every call. The program is kept for all arguments of the same shapes whose other values are equal.
    """
    whole = compiled(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return (whole if is_concrete((args, kwargs)) else function)(*args, **kwargs)

    return call


def cache_programs(directory: str | os.PathLike[str]) -> None:
    """Keeps compiled programs in a directory, where other processes and later sessions find them.

    It is JAX's own persistent cache, for programs of any size and compile time: those of small fits take less than
    the second from which on JAX keeps them by default. A first fit then takes as long as to trace it, about a
    third. Keep the directory to yourself, since what is in it is run, and delete it as you like.

    Once, at the top of a script or a notebook:

        elbax.cache_programs("~/.cache/jax")
    """
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(directory).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Whether there is a cache JAX looks up once, at the first program that it compiles.
    compilation_cache.reset_cache()


def by_value(tree: PyTree) -> PyTree:
    """The tree with a `Closure` for every Python function among its leaves, such as those of an optimizer."""

    def one(leaf):
        return Closure(leaf) if isinstance(leaf, types.FunctionType) else leaf

    return jax.tree.map(one, tree)


class Closure:
    """A function that equals any other of the same code over equal values.

    `optax.adam(1e-3)` makes new functions at every call, which compare by identity: each would have programs of
    its own, kept for good. What can change or cannot be compared (an array, a list) counts by identity here too.
    """

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function
        self._value = _value(function, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # Its value holds modules and identities, which no other process has.
        return Closure, (self.function,)

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Closure) and self._value == other._value


class _Same:
    """What counts by identity, kept alive so that no other object can take its place."""

    def __init__(self, content: Any):
        self.content = content

    def __hash__(self) -> int:
        return id(self.content)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Same) and self.content is other.content


def _value(content: Any, around: tuple) -> Any:
    """What hashes and compares as the content does, functions by what they are made of."""
    inside = (*around, content)
    if isinstance(content, bool | int | float | complex | str | bytes | type(None)):
        # 1, 1.0 and True are equal; -0.0 and 0.0 are too, and NaN is not even itself.
        return type(content), repr(content)
    if isinstance(content, _Same):
        return content
    if isinstance(content, tuple):
        return type(content), tuple(_value(part, inside) for part in content)
    if isinstance(content, functools.partial):
        keywords = sorted(content.keywords.items())
        parts = (content.func, content.args, tuple(keywords))
        return functools.partial, tuple(_value(part, inside) for part in parts)
    # A function that refers to itself is made anew with all that it is made of.
    if isinstance(content, types.FunctionType) and not any(content is one for one in around):
        try:
            cells = tuple(cell.cell_contents for cell in content.__closure__ or ())
        except ValueError:  # A cell that is empty still.
            return _Same(content)
        keywords = tuple(sorted((content.__kwdefaults__ or {}).items()))
        parts = cells, content.__defaults__ or (), keywords, _global_values(content)
        return content.__code__, tuple(_value(part, inside) for part in parts)
    return _Same(content)


def _global_values(function: types.FunctionType) -> tuple:
    """What the function refers to by name, as it is now: another value of a global is another function."""

    def names(code):
        inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
        return set(code.co_names).union(*map(names, inner))

    around = function.__globals__
    found = {name: around[name] for name in names(function.__code__) if name in around}
    # A function of a module stays the same while it is not defined anew.
    stable = {name: _Same(value) if callable(value) else value for name, value in found.items()}
    return tuple((name, stable[name]) for name in sorted(stable))
