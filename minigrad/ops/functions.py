"""Rounding, trigonometry, hyperbolic and special functions: elementwise operations beyond the everyday ones."""

__all__: list[str] = []
