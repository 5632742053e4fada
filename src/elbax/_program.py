"""Calls from outside of `jit` as single compiled programs, which are reused."""

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
    """Returns whether all values are known, as outside of `jit` and `vmap`."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


# With at most this many numbers of data and state, a program runs in less time than XLA takes to optimize it.
_SMALL = 2**13

# The XLA options of JAX's `jax_disable_most_optimizations`, and the older code generation of loops for CPUs.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_llvm_force_inline_before_split": False,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def at_most(limit: int, tree: PyTree) -> bool:
    """Returns whether a tree holds at most `limit` numbers; `False` if their number is symbolic, in an export."""
    size = sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))
    return isinstance(size, int) and size <= limit


def compiled(function: Callable) -> Any:
    """Returns the function under `equinox.filter_jit`; small data on a CPU get a program that compiles faster.

    That program takes a fifth of the time to compile and runs at a third of the speed. Large data get the
    optimized one.
    """
    # Created at the first call, which keeps the import fast.
    optimized = functools.cache(lambda: eqx.filter_jit(function))
    options: dict[str, Any] = {"compiler_options": _QUICK}
    quick = functools.cache(lambda: eqx.filter_jit(function, **options))

    @functools.wraps(function)
    def call(*args, **kwargs):
        given = args, kwargs
        small = at_most(_SMALL, given)
        # A program inside of another one is compiled as a part of it.
        soon = small and is_concrete(given) and _understood() and outside()
        return (quick if soon else optimized)()(*args, **kwargs)

    return call


def outside() -> bool:
    """Returns whether no program is being traced; while one is, constants are tracers too."""
    return not isinstance(jax.device_put(np.zeros(())), Tracer)


@functools.cache
def _understood() -> bool:
    """Returns whether programs run on a CPU and this version of XLA supports all of the options."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: np.zeros(()), compiler_options=_QUICK).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def program(function: Callable) -> Callable:
    """Compiles the function into one program, which runs if all values are known; inside of a trace it is inlined.

    Otherwise each operation would compile a program of its own, and one that holds a function (a `cond`, a scan) a
    new one at every call. The program is reused for arguments of the same shapes whose other values are equal.
    """
    whole = compiled(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return (whole if is_concrete((args, kwargs)) else function)(*args, **kwargs)

    return call


def cache_programs(directory: str | os.PathLike[str]) -> None:
    """Stores compiled programs in a directory, where other and later processes find them.

    It enables JAX's persistent cache for programs of any size and compile time. By default JAX stores only those
    that take at least a second to compile, which excludes small fits. A first fit then takes only the time to
    trace it, about a third of the total. Keep the directory private, since its contents are executed. It can be
    deleted at any time.

    **Arguments:**

    - `directory`: the path of the directory; `~` is expanded.

    Call it once, at the top of a script or a notebook:

        elbax.cache_programs("~/.cache/jax")
    """
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(directory).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX checks only once, at its first compilation, whether there is a cache.
    compilation_cache.reset_cache()


def by_value(tree: PyTree) -> PyTree:
    """Replaces every Python function among the leaves, such as those of an optimizer, by a `Closure`."""

    def one(leaf):
        return Closure(leaf) if isinstance(leaf, types.FunctionType) else leaf

    return jax.tree.map(one, tree)


class Closure:
    """A function that equals any other function of the same code over equal values.

    `optax.adam(1e-3)` creates new functions at every call, which compare by identity: each would compile and keep
    programs of its own. Values that are mutable or not comparable (an array, a list) are compared by identity.
    """

    def __init__(self, function: Callable):
        functools.update_wrapper(self, function)
        self.function = function
        self._value = _value(function, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # The value holds object identities, which have no meaning in another process.
        return Closure, (self.function,)

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Closure) and self._value == other._value


class _Same:
    """An object that is compared by identity. It is kept alive, so that its id is not reused."""

    def __init__(self, content: Any):
        self.content = content

    def __hash__(self) -> int:
        return id(self.content)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Same) and self.content is other.content


def _value(content: Any, around: tuple) -> Any:
    """Returns an object that hashes and compares as the content does; functions by their code and values."""
    inside = (*around, content)
    if isinstance(content, bool | int | float | complex | str | bytes | type(None)):
        # By type and `repr`, since 1 == 1.0 == True, -0.0 == 0.0 and NaN != NaN.
        return type(content), repr(content)
    if isinstance(content, _Same):
        return content
    if isinstance(content, tuple):
        return type(content), tuple(_value(part, inside) for part in content)
    if isinstance(content, functools.partial):
        keywords = sorted(content.keywords.items())
        parts = (content.func, content.args, tuple(keywords))
        return functools.partial, tuple(_value(part, inside) for part in parts)
    # A function that refers to itself does so by identity, which ends the recursion.
    if isinstance(content, types.FunctionType) and not any(content is one for one in around):
        try:
            cells = tuple(cell.cell_contents for cell in content.__closure__ or ())
        except ValueError:  # A cell that is still empty.
            return _Same(content)
        keywords = tuple(sorted((content.__kwdefaults__ or {}).items()))
        parts = cells, content.__defaults__ or (), keywords, _global_values(content)
        return content.__code__, tuple(_value(part, inside) for part in parts)
    return _Same(content)


def _global_values(function: types.FunctionType) -> tuple:
    """Returns the current values of the globals that a function names; if they change, it is another function."""

    def names(code):
        inner = (one for one in code.co_consts if isinstance(one, types.CodeType))
        return set(code.co_names).union(*map(names, inner))

    around = function.__globals__
    found = {name: around[name] for name in names(function.__code__) if name in around}
    # Callable globals are compared by identity: they stay the same until they are redefined.
    stable = {name: _Same(value) if callable(value) else value for name, value in found.items()}
    return tuple((name, stable[name]) for name in sorted(stable))
