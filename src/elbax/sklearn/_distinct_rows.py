"""Merges equal rows of a table into one row with the sum of their weights."""

import numpy as np


def distinct_rows(
    table: np.ndarray, weight: np.ndarray | None, least: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns (rows, weights): all distinct rows of positive weight, in an order independent of the table's order.

    A row of weight 2 thus gives the same fit as the row twice, and a row of weight 0 the same as no row, down to
    the random start. Whole-number data with many equal rows become much smaller. Weights are `None` if all are 1.
    With fewer than `least` distinct rows, equal rows stay separate.
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
    """Returns one whole number per row; equal rows have equal numbers."""
    # Zero has two signs, and NaN has many bit patterns.
    table = np.where(np.isnan(table), np.nan, table + 0.0).astype(np.float64)
    factors = np.random.default_rng(0).integers(2**63, size=table.shape[1], dtype=np.uint64)
    found = np.zeros(len(table), np.uint64)
    for column, factor in zip(table.T, factors, strict=True):
        bits = np.ascontiguousarray(column).view(np.uint64)
        # Whole numbers differ in their first bits only, which the products would discard.
        mixed = (bits ^ (bits >> np.uint64(32))) * (factor | np.uint64(1))
        found += mixed ^ (mixed >> np.uint64(29))
    return found
