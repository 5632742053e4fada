"""Text tables."""

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, str]], left: Sequence[str] = ()) -> str:
    """Formats rows of cells as a table, each column as wide as needed, aligned right, or left for those in `left`.

    Columns are in order of first appearance. A cell that a row does not have is empty.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    width = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in columns}

    def line(cells: Mapping[str, str]) -> str:
        found = [
            f"{cells.get(name, ''):{'<' if name in left else '>'}{width[name]}}" for name in columns
        ]
        return "  ".join(found).rstrip()

    return "\n".join([line({name: name for name in columns}), *map(line, rows)])
