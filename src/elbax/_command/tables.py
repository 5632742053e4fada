"""Tables of numbers from files; every error is one line that says where."""

import csv
import dataclasses
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np


MISSING = {"", "na", "nan", "n/a", "null", "none", "?", "."}


class UnusableData(Exception):
    """An error in the user's table or options, described in one line."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of numbers with named columns; NaN where a value is missing.

    `rows` are the numbers of the rows in the file, from 1 on. Rows without any number are left out.
    """

    path: Path
    names: list[str]
    values: np.ndarray
    rows: np.ndarray
    left_out: int = 0


@dataclasses.dataclass(frozen=True)
class _Cells:
    """The text of a file's columns, and where each row stands in it."""

    names: list[str]
    columns: list[list[str]]
    places: list[str]


def read(path: str, without: Sequence[str] = ()) -> Table:
    """Returns the table of a CSV or Parquet file, without some of its columns."""
    file = Path(path)
    cells = _parquet(file) if file.suffix in (".parquet", ".pq") else _csv(file)
    kept = _kept(path, cells.names, without)
    text = [cells.names[j] for j in kept if _is_text(cells.columns[j])]
    if text:
        listed = ", ".join(text)
        columns = "is a column" if len(text) == 1 else "are columns"
        raise UnusableData(f"{path}: {listed} {columns} of text; leave out by {advice(*text)}")
    values = np.column_stack([_numbers(path, cells, j) for j in kept])
    rows = np.flatnonzero(~np.isnan(values).all(1))
    names = [cells.names[j] for j in kept]
    return Table(file, names, values[rows], rows + 1, len(values) - len(rows))


def advice(*names: str) -> str:
    """Returns the options that leave columns out, to be pasted."""
    return " ".join(f"--without {shlex.quote(name)}" for name in names)


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


def _csv(file: Path) -> _Cells:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UnusableData(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UnusableData(f"{file}: cannot be read ({reason})") from None
    mark = _delimiter(text.partition("\n")[0])
    lines = csv.reader(text.splitlines(), delimiter=mark, skipinitialspace=True)
    numbered = [(number, row) for number, row in enumerate(lines, 1) if row]
    if not numbered:
        raise UnusableData(f"{file}: the file is empty")
    if mark == " ":
        numbered = [(number, [cell for cell in row if cell]) for number, row in numbered]
    head = [cell.strip() for cell in numbered[0][1]]
    for number, row in numbered:
        if len(row) != len(head):
            raise UnusableData(
                f"{file}: line {number} has {len(row)} cells, but the first line has {len(head)}"
            )
    has_header = _is_header(head, [row for _, row in numbered[1:]])
    names = [cell if has_header and cell else f"column {j}" for j, cell in enumerate(head, 1)]
    body = numbered[1:] if has_header else numbered
    if not body:
        raise UnusableData(f"{file}: the file has a header but no rows")
    columns = [[cell.strip() for cell in column] for column in zip(*(row for _, row in body))]
    if mark == ";":  # Where a comma is the decimal point.
        columns = [[cell.replace(",", ".") for cell in column] for column in columns]
    return _Cells(names, columns, [f"line {number}" for number, _ in body])


def _delimiter(line: str) -> str:
    """Returns the mark between the cells of a line: ";" or a tab if there is one, else "," or a space."""
    outside = "".join(line.split('"')[::2])
    for mark in ";\t,":
        if mark in outside:
            return mark
    return " " if " " in outside.strip() else ","


def _is_header(head: list[str], body: list[list[str]]) -> bool:
    """Returns whether the first line names columns: a word above numbers, or an empty cell and 0, 1, 2, and so on.

    The latter is how a data frame without names is written. Words alone are names.
    """
    words = [j for j, cell in enumerate(head) if _is_text([cell])]
    counted = ["", *(str(j) for j in range(len(head) - 1))]
    above = any(_is_number(row[j].strip()) for j in words for row in body)
    return above or len(words) == len(head) or (len(head) > 2 and head == counted)


def _parquet(file: Path) -> _Cells:
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
        ["" if value is None else str(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    places = [f"row {i}" for i in range(1, table.num_rows + 1)]
    return _Cells(list(table.column_names), columns, places)


def _numbers(path: str, cells: _Cells, j: int) -> np.ndarray:
    name, column = cells.names[j], np.empty(len(cells.places))
    for i, cell in enumerate(cells.columns[j]):
        if _is_missing(cell):
            column[i] = math.nan
        elif not _is_number(cell):
            raise UnusableData(f"{path}: {cells.places[i]}, {name}: {cell!r} is not a number")
        elif not math.isfinite(value := float(cell)):
            raise UnusableData(f"{path}: {cells.places[i]}, {name}: {cell} is not finite")
        else:
            column[i] = value
    if np.isnan(column).all():
        raise UnusableData(f"{path}: {name} has no number; leave it out by {advice(name)}")
    if np.nanmax(column) == np.nanmin(column):
        raise UnusableData(
            f"{path}: {name} has the same value in every row; leave it out by {advice(name)}"
        )
    return column


def _is_text(cells: Sequence[str]) -> bool:
    """Returns whether cells hold words and no number."""
    return not any(map(_is_number, cells)) and not all(map(_is_missing, cells))


def _is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _is_number(cell: str) -> bool:
    """Returns whether a cell is a number; a missing one is not."""
    if _is_missing(cell) or "_" in cell:
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True
