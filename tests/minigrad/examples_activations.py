"""Examples of the operations of minigrad/ops/activations.py."""

from tests.minigrad.examples import Example

EXAMPLES: dict[str, list[Example]] = {}
CONSTANTS: dict[str, list[Example]] = {}
