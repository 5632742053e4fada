"""Data as models take them: batches, incomplete rows, sequences, moments."""
