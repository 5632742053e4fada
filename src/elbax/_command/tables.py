"""Tables of numbers from files; every error is one line that says where."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np


MISSING = {"", "na", "nan", "n/a", "null", "none", "?", "."}


class UnusableData(Exception):
    """An error in the user's table or options, described in one line."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of numbers with named columns; NaN where a value is missing."""

    path: Path
    names: list[str]
    values: np.ndarray


def read(path: str, without: Sequence[str] = ()) -> Table:
    """Returns the table of a CSV or Parquet file, without some of its columns."""
    file = Path(path)
    names, columns = _parquet(file) if file.suffix in (".parquet", ".pq") else _csv(file)
    kept = _kept(path, names, without)
    values = np.column_stack([_numbers(path, names[j], columns[j]) for j in kept])
    empty = np.flatnonzero(np.isnan(values).all(1))
    if empty.size:
        raise UnusableData(f"{path}: row {empty[0] + 1} of the table has no number in any column")
    return Table(file, [names[j] for j in kept], values)


def _kept(path: str, names: list[str], without: Sequence[str]) -> list[int]:
    left_out = set()
    for name in without:
        if name in names:
            left_out.add(names.index(name))
        elif name.isdigit() and 1 <= int(name) <= len(names):
            left_out.add(int(name) - 1)
        else:
            raise UnusableData(
                f"{path}: --without {name}: no such column; the columns are {', '.join(names)}"
            )
    kept = [j for j in range(len(names)) if j not in left_out]
    if not kept:
        raise UnusableData(f"{path}: --without leaves no column")
    return kept


Cells = list[tuple[str, str]]


def _csv(file: Path) -> tuple[list[str], list[Cells]]:
    """Returns (names, columns); a cell is (where it is, its text)."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UnusableData(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UnusableData(f"{file}: cannot be read ({reason})") from None
    first = text.partition("\n")[0]
    mark = max(",;\t", key=first.count)
    rows = csv.reader(text.splitlines(), delimiter=mark)
    lines = [(number, row) for number, row in enumerate(rows, 1) if row]
    if not lines:
        raise UnusableData(f"{file}: the file is empty")
    head = [cell.strip() for cell in lines[0][1]]
    has_header = not any(_is_number(cell) for cell in head)
    names = [cell if has_header and cell else f"column {j}" for j, cell in enumerate(head, 1)]
    body = lines[1:] if has_header else lines
    if not body:
        raise UnusableData(f"{file}: the file has a header but no rows")
    for number, row in body:
        if len(row) != len(names):
            raise UnusableData(
                f"{file}: line {number} has {len(row)} cells, but the first line has {len(names)}"
            )
    columns = zip(*([(f"line {number}", cell.strip()) for cell in row] for number, row in body))
    return names, [list(column) for column in columns]


def _parquet(file: Path) -> tuple[list[str], list[Cells]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UnusableData(
            f"{file}: reading Parquet needs pyarrow; run pip install pyarrow"
        ) from None
    try:
        table = parquet.read_table(file)
    except FileNotFoundError:
        raise UnusableData(f"{file}: no such file") from None
    except (OSError, ArrowException) as error:
        raise UnusableData(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    if not table.num_rows:
        raise UnusableData(f"{file}: the file has no rows")
    columns = [
        [
            (f"row {i}", "" if value is None else str(value))
            for i, value in enumerate(column.to_pylist(), 1)
        ]
        for column in table.columns
    ]
    return list(table.column_names), columns


def _numbers(path: str, name: str, cells: Cells) -> np.ndarray:
    column = np.empty(len(cells))
    for i, (where, cell) in enumerate(cells):
        if cell.lower() in MISSING:
            column[i] = math.nan
        elif not _is_number(cell):
            raise UnusableData(
                f"{path}: {where}, {name}: {cell!r} is not a number; a column can be left out by "
                f"--without {name if ' ' not in name else repr(name)}"
            )
        elif not math.isfinite(value := float(cell)):
            raise UnusableData(f"{path}: {where}, {name}: {cell} is not finite")
        else:
            column[i] = value
    if np.isnan(column).all():
        raise UnusableData(f"{path}: {name} has no number; leave it out by --without {name}")
    if np.nanmax(column) == np.nanmin(column):
        raise UnusableData(
            f"{path}: {name} has the same value in every row; leave it out by --without {name}"
        )
    return column


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
