"""Gathering, scattering, sorting and cumulative reductions."""

__all__: list[str] = []
