"""Joining, repeating, padding and cutting arrays, beyond the everyday shape operations."""

__all__: list[str] = []
