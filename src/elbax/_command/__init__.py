"""What `python -m elbax` does."""
