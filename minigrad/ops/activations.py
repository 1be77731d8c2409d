"""Activation functions under torch's names: compositions, a line or three each."""

__all__: list[str] = []
