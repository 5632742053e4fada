"""Checks of data and params, made before anything runs and only if values are known.

They use NumPy on the host: on the device each single operation would compile a program.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .._arguments import check_shape, guide, kind_of, Shape
from .._program import is_concrete as outside_of_traces
from .._types import Any, AnyArray, Callable, PyTree
from ._incomplete_rows import host_known, known
from ._table import as_arrays, column_name


def is_concrete(tree: PyTree) -> bool:
    """Returns whether all values are known: outside `jit` and `vmap`, and on this process's devices."""

    def is_here(leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return False
        return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable

    return outside_of_traces(tree) and all(map(is_here, jax.tree.leaves(tree)))


def check_known(who: str, given: PyTree, advice: str = "Call it outside of them.") -> None:
    """Raises `TypeError` inside of `jit`, `vmap` and `grad`, for a function that depends on values."""
    if not outside_of_traces(given):
        raise TypeError(
            f"{who}: got traced arguments, but it needs concrete values, which are not known inside jit, vmap "
            f"and grad. {advice}{guide('an-error-inside-of-jit')}"
        )


def check_row(x: Any, dim: int, who: str) -> None:
    """Raises `ValueError` for a datum of another shape than `(dim,)`, that of the params."""
    shape = jnp.shape(known(x)[0])
    if shape != (dim,):
        raise ValueError(
            f"{who}: with these params one datum must have shape {(dim,)}, got {shape}. Data have a leading "
            "axis, the rows. A posterior takes one row. For all rows use jax.vmap(posterior)(x)."
        )


def check_rows(x: PyTree, weight: AnyArray, who: str) -> None:
    """Raises `ValueError` for NaN or infinity in a row of positive weight, or for invalid weights."""
    check_weights(weight, who)
    found = first_not_finite(x, weight)
    if found is not None:
        row, column, value = found
        advice = (
            "If it marks a missing value and the model supports missing values, pass elbax.incomplete(x). "
            "Otherwise drop such rows"
            if np.isnan(value)
            else "Drop such rows"
        )
        raise ValueError(
            f"{who}: row {row}, {column} is {value}. {advice}, or give them weight 0 or mask "
            "False in an elbax.Batch."
        )


def first_not_finite(x: PyTree, weight: AnyArray) -> tuple[int, str, Any] | None:
    """Returns (row, column name, value) of the first NaN or infinity in a row of positive weight, or `None`."""
    for leaf in map(np.asanyarray, jax.tree.leaves(x)):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        finite = np.isfinite(np.asarray(leaf))
        if finite.all():
            continue
        finite = finite.reshape(len(leaf), -1)
        bad = ~finite.all(1) & (np.asarray(weight) > 0)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            column = int(np.flatnonzero(~finite[row])[0])
            value = np.asarray(leaf[row]).reshape(-1)[column]
            return row, column_name(leaf, column), value
    return None


def check_weights(weight: Any, who: str) -> None:
    """Raises `ValueError` for weights that are negative or not finite, or if all are 0."""
    weights = np.asarray(weight)
    if not np.all(np.isfinite(weights)) or np.any(weights < 0):
        raise ValueError(f"{who}: weights must be finite and not negative.")
    if not np.any(weights > 0):
        raise ValueError(
            f"{who}: every row has weight 0 or is masked. At least one row must have a positive weight."
        )


def check_values(
    x: PyTree, weight: AnyArray, who: str, bad: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    """Raises `ValueError` for the first observed value of a table that is `bad`, in a row of positive weight."""
    values, observed = host_known(x)
    wrong = np.asarray(bad(np.asarray(values))) & observed
    wrong &= (np.asarray(weight) > 0).reshape((-1,) + (1,) * (wrong.ndim - 1))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"row {place[0]}" + (f", {column_name(values, place[1])}" if len(place) > 1 else "")
        raise ValueError(f"{who}: expected {expected}; {where} is {np.asarray(values)[place]:g}.")


def check_table(x: PyTree, weight: AnyArray, who: str, *, varied: bool = True) -> None:
    """Raises `ValueError` unless `x` is a table of finite numbers, without constant columns if `varied`."""
    if isinstance(x, dict | tuple | list):
        raise ValueError(
            f"{who}: expected one table of shape (num_data, dim), got {kind_of(x)} of length {len(x)}. "
            "For columns of several kinds use elbax.components.Product. For pairs (inputs, target) use a "
            "regression."
        )
    values, observed = host_known(x)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"{who}: expected data of shape (num_data, dim), both at least 1; got {values.shape}"
            + (". Pass one column as x[:, None]." if values.ndim == 1 else ".")
        )
    check_rows(values, weight, who)
    counts = np.asarray(weight) > 0
    if not varied or counts.sum() < 2:
        return
    table, seen = np.asarray(values), observed & counts[:, None]
    constant = np.where(seen, table, -np.inf).max(0) <= np.where(seen, table, np.inf).min(0)
    if constant.any():
        column = int(np.flatnonzero(constant)[0])
        number = table[np.flatnonzero(seen[:, column])[:1], column]
        raise ValueError(
            f"{who}: {column_name(values, column)} is constant "
            + (f"({number[0]:g} in every row)" if number.size else "(missing in every row)")
            + ", so its variance would be estimated as 0. Drop the column."
        )


def check_no_nan(params: PyTree, who: str) -> None:
    """Raises `ValueError` for params that contain NaN, if their values are known."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        number = jnp.issubdtype(getattr(leaf, "dtype", bool), jnp.inexact)
        if number and is_concrete(leaf) and np.isnan(np.asarray(leaf)).any():
            raise ValueError(
                f"{who}: params{jax.tree_util.keystr(path)} contains NaN. Start again from other params, or from "
                "the last good state, which elbax.fit returns."
            )


def check_enough(weight: AnyArray, who: str, num_components: int) -> None:
    """Raises `ValueError` if fewer rows than components have positive weight."""
    used = int((np.asarray(weight) > 0).sum())
    if used < num_components:
        raise ValueError(
            f"{who}: {num_components} components need at least {num_components} rows of positive weight, got "
            f"{used}."
        )


_RULES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "finite": (np.isfinite, "finite numbers"),
    "positive": (lambda numbers: (numbers > 0) & np.isfinite(numbers), "positive numbers"),
    "not negative": (
        lambda numbers: (numbers >= 0) & np.isfinite(numbers),
        "numbers that are not negative",
    ),
    "probabilities": (lambda numbers: (numbers >= 0) & (numbers <= 1), "numbers from 0 to 1"),
}


def check_described(who: str, **described: tuple[Any, Shape, str]) -> None:
    """Raises `ValueError` for the first `name=(array, shape, rule)` of another shape, or that violates the rule.

    Shapes are as in `check_shapes`. A rule is `"finite"`, `"positive"`, `"not negative"`, `"probabilities"`,
    `"shares"` (not negative, with a positive sum in each row), `"symmetric"` or `"covariances"` (symmetric and
    positive definite). Values are only checked if they are known.
    """
    sizes: dict[str, int] = {}
    for name, (given, shape, rule) in described.items():
        if not is_concrete(given):
            check_shape(f"{who}: {name}", jnp.shape(given), shape, sizes)
            continue
        array = np.asarray(as_arrays(given))
        check_shape(f"{who}: {name}", array.shape, shape, sizes)
        simple = "not negative" if rule == "shares" else rule if rule in _RULES else "finite"
        allowed, expected = _RULES[simple]
        bad = np.argwhere(~allowed(array))
        if len(bad):
            place = tuple(map(int, bad[0]))
            where = f"{name}[{', '.join(map(str, place))}]" if place else "it"
            raise ValueError(f"{who}: {name} must hold {expected}; {where} is {array[place]:g}.")
        if rule == "shares" and not np.all(array.sum(-1) > 0):
            raise ValueError(
                f"{who}: {name} must have a positive number in each row, got a row of zeros."
            )
        if rule in ("symmetric", "covariances"):
            if np.any(np.abs(array - array.mT) > 1e-4 * np.abs(array).max((-2, -1), keepdims=True)):
                raise ValueError(f"{who}: {name} must be symmetric.")
        if rule == "covariances":
            try:
                np.linalg.cholesky(array.astype(float))
            except np.linalg.LinAlgError:
                raise ValueError(f"{who}: {name} must be positive definite.") from None


def check_each(who: str, number: int, described: PyTree) -> None:
    """Raises `ValueError` unless each array of a description has `number` entries, one per component.

    A unit and a center belong to the data, and are not checked.
    """
    is_list = lambda node: isinstance(node, list | tuple)
    for path, leaf in jax.tree_util.tree_leaves_with_path(as_arrays(described), is_leaf=is_list):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name.split(".")[-1] in ("unit", "center"):
            continue
        if np.shape(leaf)[:1] != (number,):
            raise ValueError(
                f"{who}: {name} must have {number} entries on its first axis, one for each component; got shape "
                f"{np.shape(leaf)}."
            )
