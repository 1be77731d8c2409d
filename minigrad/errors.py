"""Every error that minigrad raises on purpose: one class for each kind of misuse.

Each is also the builtin error that a NumPy user would catch. The message says what happened, with the values;
what was expected; what to do.
"""


class MinigradError(Exception):
    """What minigrad raises when it is used wrongly or cannot go on."""


class ShapeError(MinigradError, ValueError):
    """Shapes that do not fit each other or the operation."""


class IndexRangeError(ShapeError, IndexError):
    """An index that a shape does not have: out of range, too many, or of another kind."""


class DTypeError(MinigradError, TypeError):
    """A data type that the operation cannot take."""


class MatrixError(MinigradError, ValueError):
    """A matrix whose values do not allow the operation: singular, or not positive definite."""


class GraphError(MinigradError, RuntimeError):
    """A walk that the graph does not allow: released, stale, or never recorded."""


class DeviceError(MinigradError, RuntimeError):
    """Arrays of different backends met, or a device that is not there."""


class UnsupportedError(MinigradError, AttributeError):
    """What minigrad leaves out on purpose."""


class CommunicationError(MinigradError, RuntimeError):
    """Ranks that do not fit together: mismatched calls, a deadlock, a broken launch."""


class UsageError(MinigradError, ValueError):
    """Input refused before any work started. The command line prints it in one line and exits with 2."""
