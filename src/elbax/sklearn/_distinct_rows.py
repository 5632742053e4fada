"""Equal rows of a table as one, of their weights' sum."""

import numpy as np


def distinct_rows(
    table: np.ndarray, weight: np.ndarray | None, least: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """(rows, weights): every row that counts once, in an order that does not depend on the table's.

    So a fit sees the same of a row of weight 2 as of the row twice, of a row of weight 0 as of none, wherever
    they stand, down to the draws of its start; and of whole numbers, with many equal rows, far fewer of them.
    Weights are `None` where all are 1. Fewer than `least` distinct rows stay apart.
    """
    given = np.ones(len(table), table.dtype) if weight is None else weight
    table, given = table[given != 0], given[given != 0]
    hashes = _hashes(table)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rows = table[first]
    whole = np.isnan(table) & np.isnan(rows[inverse]) | (table == rows[inverse])
    if len(rows) < least or not whole.all():
        order = np.argsort(hashes, kind="stable")
        return table[order], None if weight is None else given[order]
    total = np.bincount(inverse, given).astype(table.dtype)
    return rows, None if np.all(total == 1) else total


def _hashes(table: np.ndarray) -> np.ndarray:
    """A whole number for each row, which equal rows share."""
    # Zeros have two signs, and NaN many forms.
    table = np.where(np.isnan(table), np.nan, table + 0.0).astype(np.float64)
    factors = np.random.default_rng(0).integers(2**63, size=table.shape[1], dtype=np.uint64)
    found = np.zeros(len(table), np.uint64)
    for column, factor in zip(table.T, factors, strict=True):
        bits = np.ascontiguousarray(column).view(np.uint64)
        # Whole numbers differ in their first bits only, which the products would carry away.
        mixed = (bits ^ (bits >> np.uint64(32))) * (factor | np.uint64(1))
        found += mixed ^ (mixed >> np.uint64(29))
    return found
