"""Numerics that know nothing of models."""
