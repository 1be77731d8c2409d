"""Examples of the operations of minigrad/ops/selecting.py."""

from tests.minigrad.examples import Example

EXAMPLES: dict[str, list[Example]] = {}
CONSTANTS: dict[str, list[Example]] = {}
