"""Convolution, pooling and resampling."""

__all__: list[str] = []
