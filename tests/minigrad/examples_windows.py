"""Examples of the operations of minigrad/ops/windows.py."""

from tests.minigrad.examples import Example

EXAMPLES: dict[str, list[Example]] = {}
CONSTANTS: dict[str, list[Example]] = {}
