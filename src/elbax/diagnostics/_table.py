"""A table of text."""

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, str]], left: Sequence[str] = ()) -> str:
    """Rows of cells by column, each column as wide as it needs; numbers to the right, `left` ones to the left.

    Columns come in the order in which they are first met; a cell that a row does not have is empty.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    width = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in columns}

    def line(cells: Mapping[str, str]) -> str:
        found = [
            f"{cells.get(name, ''):{'<' if name in left else '>'}{width[name]}}" for name in columns
        ]
        return "  ".join(found).rstrip()

    return "\n".join([line({name: name for name in columns}), *map(line, rows)])
