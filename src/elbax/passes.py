"""Passes over data, for custom updates: sums over rows, expected statistics and gradients.

Like the updates of the library, they support chunks of rows (`chunk_size`), data that are sharded over devices,
weights, masks and padding.
"""

from ._pass import (
    elbo_and_gradient as elbo_and_gradient,
    expected_statistics as expected_statistics,
    per_datum as per_datum,
)
from .data._batch import over_rows as over_rows, reduce_data as reduce_data
