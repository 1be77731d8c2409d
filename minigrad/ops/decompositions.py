"""Linear algebra: products of every shape, determinants, solutions and factorisations."""

__all__: list[str] = []
