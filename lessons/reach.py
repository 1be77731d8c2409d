"""What an answer reaches for beyond its exercise, told from its text, in a process that never runs it.

Who wants to change the judge has to name something of it: by an import, a frame, a name with underscores, a
text that is run. An answer that keeps to numbers, arrays, its own classes and the public pieces of minigrad
and NumPy names nothing of the kind. `reaches` lists every line that goes beyond: no proof of bad will, but a
line to read before its points are believed. A list of what is known cannot miss what nobody thought of.
"""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator

import numpy as np

import minigrad as mg
from minigrad import dist
from minigrad.lessons.catalogue import Lesson


def words_of(text: str) -> set[str]:
    """The words of a text."""
    return set(re.findall(r"\w+", text))


MODULES = (
    *("math", "cmath", "itertools", "functools", "collections", "collections.abc", "dataclasses", "typing"),
    *("fractions", "heapq", "bisect", "numbers", "operator", "pathlib", "numpy", "numpy.linalg", "numpy.fft"),
    *("numpy.random", "numpy.typing", "minigrad", "minigrad.random", "minigrad.nn"),
    *("minigrad.nn.functional", "minigrad.nn.optim", "minigrad.nn.lr_scheduler", "minigrad.dist"),
)
OURS = re.compile(r"minigrad(?!\.(lessons|cli|testing)\b)[.\w]*|__future__")
# Public pieces of those modules that run a text, set what it names, open files, or change everybody's NumPy.
BEYOND = re.compile(
    "update_wrapper|wraps|single.*|attrgetter|methodcaller|get_type_hints|ForwardRef|evaluate.*|make_dataclass|"
    ".*(load|save|file|regex|txt|print).*|memmap|DataSource|set_?[^_]+|seterr.*|errstate|get_.*|fields"
)
BUILTINS = {name for name in dir(builtins) if name[0] != "_"} | {"__name__"}
BUILTINS -= words_of(
    "breakpoint compile delattr dir eval exec exit getattr globals help input locals memoryview open quit "
    "setattr type vars BaseException KeyboardInterrupt SystemExit"
)
UNSAFE = words_of(
    "format format_map ctypes tofile dump dumps ledger type open unlink rename touch chmod glob read_text "
    "read_bytes write_text write_bytes symlink_to hardlink_to rmdir mkdir"
)
SUBMODULES = {name.rpartition(".")[2] for name in MODULES if "." in name}
OPERATORS = words_of(
    "neg pos abs add sub mul matmul truediv floordiv mod pow radd rsub rmul rmatmul rtruediv rpow"
)
METHODS = words_of(
    "init post_init call repr str len iter next getitem setitem enter exit iadd isub imul itruediv"
)
METHODS = {f"__{name}__" for name in OPERATORS | METHODS | {"slots", "all"}}
HEAP_TYPE = 1 << 9  # of a class's flags: one whose attributes can be set


def public() -> dict[str, object]:
    """What the modules offer by name; modules that they happen to have imported are not offered."""
    found: dict[str, object] = dict.fromkeys(SUBMODULES)
    for name in MODULES:
        for key, value in vars(importlib.import_module(name)).items():
            offered = callable(value) or isinstance(value, int | float | str | None)
            if key[0] != "_" and offered and not BEYOND.fullmatch(key):
                found[key] = value
    return found


PUBLIC = public()
DATA = {
    name for kind in (int, complex, str, list, dict, set, slice, np.ndarray, mg.Tensor) for name in dir(kind)
}
DATA = {name for name in DATA if name[0] != "_"} | {"setter", "exists"}
# What an answer could set attributes of; it may use these, and not hand them on under other names.
KEPT = {key for key, value in PUBLIC.items() if isinstance(value, type) and value.__flags__ & HEAP_TYPE}
KEPT |= SUBMODULES


def reaches(source: bytes, lesson: Lesson) -> list[str]:
    """Lines of an answer and what they reach for, such as "line 3: sys"; none for one that needs no look."""
    try:
        tree = ast.parse(source)
        found = {(getattr(node, "lineno", 1), what) for node, what in _Reader(tree, lesson).beyond()}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ["the file cannot be read"]
    return [f"line {line}: {what}" for line, what in sorted(found)]


class _Reader:
    """One answer's text, and what it may name."""

    def __init__(self, tree: ast.Module, lesson: Lesson) -> None:
        self.nodes = list(ast.walk(tree))
        self.above = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.bound = {name for node in self.nodes for name in _bound(node)}
        self.kept = {
            alias.asname or alias.name.partition(".")[0]
            for node in self.nodes
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            if isinstance(node, ast.Import) or alias.name in KEPT
        }
        words = words_of((lesson.folder / "exercise.py").read_text(encoding="utf-8"))
        checks = list(ast.walk(ast.parse((lesson.folder / "check.py").read_text(encoding="utf-8"))))
        own = {_set(node) for node in self.nodes} | self.bound
        # What the checks themselves count with is not for the answer.
        unsafe = UNSAFE | {_set(node) for node in checks} - words - DATA
        self.readable = (PUBLIC.keys() | DATA | words | own) - unsafe
        self.own_classes = {node.name for node in self.nodes if isinstance(node, ast.ClassDef)}
        methods = {node.name for node in checks if isinstance(node, ast.FunctionDef)} | set(dir(dist.World))
        self.settable = (words | own) - unsafe - DATA - methods

    def beyond(self) -> Iterator[tuple[ast.AST, str]]:
        """Every node that goes beyond, with what it names."""
        for node in self.nodes:
            for what in self.names(node):
                yield node, what
            for name in _bound(node):
                if name in ("isinstance", "issubclass") or (name[:2] == "__" and name not in METHODS):
                    yield node, name

    def names(self, node: ast.AST) -> Iterator[str]:
        """What one node names beyond its exercise."""
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name not in MODULES and not OURS.fullmatch(a.name))
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            known = module in MODULES or OURS.fullmatch(module)
            for name in (alias.name for alias in node.names):
                offered = known and (name in self.readable or module == "__future__") and name[0] != "_"
                if not offered and (module, name) != ("minigrad.lessons", "Todo"):
                    yield f"{module}.{name}"
        elif isinstance(node, ast.Name):
            if node.id not in self.bound | BUILTINS and not (node.id == "type" and self.asked(node)):
                yield node.id
            elif node.id in self.kept and isinstance(node.ctx, ast.Load) and not self.asked(node):
                yield f"{node.id}, handed on"
        elif isinstance(node, ast.Attribute):
            yield from self.attribute(node)
        elif isinstance(node, ast.ClassDef):
            yield from (f"{keyword.arg}=" for keyword in node.keywords)
            for name in (base.id for base in node.bases if isinstance(base, ast.Name)):
                kind = getattr(builtins, name, object)
                if kind is not object and not (isinstance(kind, type) and issubclass(kind, Exception)):
                    yield f"class {node.name}({name})"
        elif isinstance(node, ast.MatchClass):
            yield from (f".{name}" for name in node.kwd_attrs if name not in self.readable)

    def attribute(self, node: ast.Attribute) -> Iterator[str]:
        """An attribute that neither the exercise, nor data, nor the answer itself has, or may set."""
        base = getattr(node.value, "id", "")
        on_self = base == "self" or base in self.own_classes
        if node.attr[0] == "_":
            own = on_self and node.attr in self.readable and node.attr[:2] != "__"
            known = own or node.attr in ("__init__", "__post_init__", "__name__")
        elif _set(node):
            known = node.attr in (self.readable if on_self else self.settable)
        else:
            known = node.attr in self.readable
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if getattr(root, "id", "") in self.kept and node.attr in KEPT and not self.asked(node):
                yield f".{node.attr}, handed on"
        if not known:
            yield f".{node.attr}"

    def asked(self, node: ast.AST) -> bool:
        """Whether a class is only called, asked about, derived from, raised, or stands in an annotation."""
        above = self.above[node]
        if getattr(node, "id", "") == "type":  # type(x).__name__, type(x)(...), type(x) is ...
            over = self.above[above]
            plain = getattr(over, "attr", "") == "__name__" or getattr(over, "func", None) is above
            one = isinstance(above, ast.Call) and len(above.args) == 1
            return one and (plain or isinstance(over, ast.Compare | ast.FormattedValue))
        while isinstance(above, ast.Tuple | ast.List | ast.BinOp):
            node, above = above, self.above[above]
        if isinstance(above, ast.Attribute):
            return not _set(above)
        if isinstance(above, ast.Call):
            return above.func is node or getattr(above.func, "id", "") in ("isinstance", "issubclass")
        if isinstance(above, ast.Subscript):  # list[World]
            if above.value is node:
                return isinstance(node, ast.Name | ast.Attribute)
            generic = getattr(above.value, "id", "")
            return generic in PUBLIC.keys() | BUILTINS and generic not in self.own_classes
        if isinstance(above, ast.Compare):
            return all(isinstance(sign, ast.Is | ast.IsNot | ast.Eq) for sign in above.ops)
        annotated = node in (getattr(above, "annotation", None), getattr(above, "returns", None))
        return annotated or isinstance(above, ast.ClassDef | ast.Raise | ast.ExceptHandler)


def _set(node: ast.AST) -> str:
    """The attribute that a node sets or deletes, if it does."""
    return node.attr if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) else ""


def _bound(node: ast.AST) -> list[str]:
    """The names that a node binds itself."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.alias | ast.keyword):
        return []
    names = (getattr(node, key, None) for key in ("name", "arg", "rest"))
    return [name for name in names if isinstance(name, str)]
