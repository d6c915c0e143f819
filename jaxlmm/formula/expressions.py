"""Python expressions inside formulas: what is allowed, which columns they use, their values.

An expression such as ``sin(2 * pi * Time)`` reaches evaluation only after every node of its syntax tree
has passed a whitelist: numbers, names, arithmetic, comparisons and calls of the functions listed here.
There is no attribute access, no subscript and no way to a Python builtin.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in (
        "log log2 log10 log1p exp exp2 expm1 sqrt cbrt square abs sign floor ceil "
        "sin cos tan sinh cosh tanh arcsin arccos arctan arcsinh arccosh arctanh minimum maximum"
    ).split()
} | {"logit": lambda p: np.log(p) - np.log1p(-np.asarray(p))}
"""Functions that act on each row alone; also reachable as ``np.<name>``."""

STATEFUL = frozenset({"C", "poly", "bs", "ns", "cr", "cs", "cc", "center", "scale"})
"""Transforms whose state (knots, means, levels) is kept for new data; formulaic's, but for ``ns``."""

CONTRASTS = frozenset({"treatment", "SAS", "sum", "helmert", "diff", "poly"})
"""Contrasts of factors, as ``C(a, contr.sum)``."""

PATSY = {"Treatment": "treatment", "Sum": "sum", "Helmert": "helmert", "Diff": "diff", "Poly": "poly"}
"""patsy's names of contrasts, ``C(a, Sum)`` and ``C(a, Treatment("b"))``."""

R_NAMES = {"as.factor": "factor", "pmin": "minimum", "pmax": "maximum", "ceiling": "ceil"}
R_NAMES |= {f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}

_NUMBER = "numbers and true/false are numbers inside arithmetic, I(1 * (x > 0)); compute others in the data"
ADVICE = {
    "c": "lists are written [1, 2] or ['a', 'b']",
    "relevel": "write C(a, contr.treatment('a2')), or C(a, levels=['a2', 'a1'])",
    "ifelse": "write I((x > 0) * x), or compute it in the data",
    "interaction": "write a:b, in a grouping factor too",
    "cut": "compare, (x > 0), or cut in the data: pandas.cut(x, bins)",
    "ordered": "write C(a, contr.poly), or make it an ordered categorical in the data",
    "as.ordered": "write C(a, contr.poly), or make it an ordered categorical in the data",
    "dummy": "write I(1 * (a == 'a2'))",
    "as.numeric": _NUMBER,
    "as.integer": _NUMBER,
    "as.logical": "compare, (x != 0)",
    "cbind": "several responses, cbind(y1, y2), stand alone left of '~' in lmm; else stack them in the data",
    "s": "splines are ns(x, df=4) and bs(x, df=6)",
    "te": "products of splines are ns(x, 3):ns(t, 3)",
    "mean": "centre a column by center(x), or in the data",
}
"""What to write for functions of R that formulas cannot call."""

CONSTANTS = {"pi": float(np.pi)}
_SYNONYMS = {"factor": "C"}
_LITERALS = {"TRUE": True, "FALSE": False, "True": True, "False": False, "None": None}
_LARGEST_POWER = 64
_SIZES = {
    "bs": {"df": (1, 1000), "degree": (3, 50)},
    "ns": {"df": (1, 1000)},
    **{name: {"df": (1, 1000)} for name in ("cr", "cs", "cc")},
    "poly": {"degree": (1, 50)},
}
"""Arguments of transforms that say how many columns they make: place and largest value."""

RESERVED = frozenset(
    {*ELEMENTWISE, *STATEFUL, *CONSTANTS, *_SYNONYMS, *_LITERALS, *PATSY, "I", "np", "np.pi", "contr"}
    | {f"contr.{name}" for name in CONTRASTS}
)
"""Names that mean something in a formula, unless the data have a column of this name."""

_ARITHMETIC: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
_COMPARISONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
    ast.Eq: np.equal, ast.NotEq: np.not_equal,
}  # fmt: skip


class ExpressionError(ValueError):
    """An expression that is not allowed, with the column of the offending place."""

    def __init__(self, message: str, column: int = 0):
        super().__init__(message)
        self.column = column


def normalise(source: str) -> str:
    """Check `source` against the whitelist and return it in standard spelling.

    Parameters
    ----------
    source : str
        One Python expression.

    Returns
    -------
    str
        The same expression with Python's standard spacing; ``np.log`` becomes ``log``, ``factor`` becomes
        ``C``, ``TRUE`` becomes ``True``.

    Raises
    ------
    ExpressionError
        If it is not an expression or holds anything that is not on the whitelist.
    """
    try:
        tree = ast.parse(source, mode="eval")
        return ast.unparse(_Checker().visit(tree))
    except SyntaxError as error:
        message = f"this is not a valid expression ({error.msg})"
        raise ExpressionError(message, max((error.offset or 1) - 1, 0)) from None
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError("this expression is too deeply nested or not valid text") from None


class _Checker(ast.NodeTransformer):
    """Lets the whitelisted nodes pass (in standard spelling) and refuses every other one."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        what = type(node).__name__
        raise ExpressionError(f"{what} is not allowed in a formula", getattr(node, "col_offset", 0))

    def visit_Expression(self, node: ast.Expression) -> ast.AST:
        return ast.Expression(self.visit(node.body))

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id.startswith("__"):
            raise ExpressionError(f"names that start with '__' ({node.id!r}) are not allowed", node.col_offset)
        if node.id in _LITERALS:
            return ast.copy_location(ast.Constant(_LITERALS[node.id]), node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            message = f"{node.value!r} is not a number; text and True/False are only arguments of functions"
            raise ExpressionError(message, node.col_offset)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if type(node.op) not in _ARITHMETIC:
            return self.generic_visit(node)
        node.operand = self.visit(node.operand)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if type(node.op) not in _ARITHMETIC:
            return self.generic_visit(node)
        if isinstance(node.op, ast.Pow) and not variables_of(node):
            _check_constant_power(node)
        node.left, node.right = self.visit(node.left), self.visit(node.right)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARISONS:
            raise ExpressionError("only a single comparison (<, <=, >, >=, ==, !=) is allowed", node.col_offset)
        node.left = self.visit(node.left)
        node.comparators = [self._comparand(node.comparators[0])]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = _function_name(node.func)
        if name is None:
            allowed = ", ".join(sorted({*STATEFUL, *ELEMENTWISE, "I"}))
            called = ast.unparse(node.func)
            message = f"{called} is not a function that formulas can call; there are {allowed}"
            raise ExpressionError(message, node.col_offset)
        if not node.args and not name.startswith("contr."):
            raise ExpressionError(f"{name}() needs an argument", node.col_offset)
        if name == "C":
            _spell_contrasts(node)
            if others := {k.arg for k in node.keywords} - {"contrasts", "levels"}:
                message = f"C() and factor() have the options levels= and contrasts=, found {min(map(str, others))}="
                raise ExpressionError(message, node.col_offset)
        first = [] if name.startswith("contr.") else [self.visit(node.args[0])]
        node.args = first + [self._argument(a) for a in node.args[len(first) :]]
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg.startswith("_"):
                raise ExpressionError(f"argument {keyword.arg or '**'} is not allowed", node.col_offset)
            keyword.value = self._argument(keyword.value)
        for argument, (place, largest) in _SIZES.get(name, {}).items():
            given = [k.value for k in node.keywords if k.arg == argument] + node.args[place : place + 1]
            for value in given:
                _check_size(f"{name}: {argument}", value, largest)
        if name in ELEMENTWISE or name == "I":
            wanted = 2 if name in ("minimum", "maximum") else 1
            if name == "log" and (len(node.args) == 2 or node.keywords):
                raise ExpressionError(
                    "log() has one argument: write log2(x), log10(x) or I(log(x) / log(3))", node.col_offset
                )
            if len(node.args) != wanted or node.keywords:
                raise ExpressionError(f"{name}() takes {wanted} argument(s)", node.col_offset)
            node.args = [self.visit(a) for a in node.args]
        node.func = _function_node(name)
        return ast.fix_missing_locations(node)

    def _comparand(self, node: Any) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return _check_text(node)
        return self.visit(node)

    def _argument(self, node: Any) -> Any:
        """Check a further argument of a function: also text, True, None, contrasts, lists of constants."""
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bool, type(None), int, float)):
            return _check_text(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            node.elts = [self._element(e) for e in node.elts]
            return node
        if isinstance(node, ast.Attribute):
            name = _function_name(node)
            if name is not None and name.startswith("contr."):
                return node
        return self.visit(node)

    def _element(self, node: Any) -> Any:
        if isinstance(node, (ast.List, ast.Tuple)):  # a row of a matrix
            node.elts = [self._element(e) for e in node.elts]
            return node
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            node.left, node.right = self._element(node.left), self._element(node.right)
            return node
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
        constant = node.operand if isinstance(node, ast.UnaryOp) and negative else node
        if not isinstance(constant, ast.Constant) or not isinstance(constant.value, (str, bool, int, float)):
            raise ExpressionError("a list in a formula can only hold numbers or text", node.col_offset)
        _check_text(constant)
        return node


def _spell_contrasts(node: ast.Call) -> None:
    """Spell the contrasts of ``C()`` in R's way: those of patsy, names as text, and R's ``contr=``."""
    node.args[1:2] = [_contrasts(given) for given in node.args[1:2]]
    for keyword in node.keywords:
        if keyword.arg in ("contr", "contrasts"):
            keyword.arg, keyword.value = "contrasts", _contrasts(keyword.value)


def _contrasts(given: Any) -> Any:
    called = given.func if isinstance(given, ast.Call) else given
    attribute = called if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "contr" else None
    if attribute or (isinstance(given, ast.Constant) and isinstance(given.value, str)):
        name = attribute.attr if attribute else given.value.removeprefix("contr.")
        name = "diff" if name == "sdif" else name  # of R's MASS
        if name not in CONTRASTS:
            listed = ", ".join(f"contr.{known}" for known in sorted(CONTRASTS))
            said = ast.unparse(attribute) if attribute else repr(given.value)
            message = f"{said} are not contrasts; there are {listed}, and matrices [[1, 0], [0, 1], [-1, -1]]"
            raise ExpressionError(message, given.col_offset)
        first = given.args[0] if isinstance(given, ast.Call) and given.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, int | float):
            base = f"; a level to compare with is contr.{name}(base={first.value})" if name == "treatment" else ""
            message = f"contr.{name}({first.value}): the number of levels is that of the factor, leave it out{base}"
            raise ExpressionError(message, given.col_offset)
    elif isinstance(called, ast.Name) and called.id in (*PATSY, *CONTRASTS):
        name = PATSY.get(called.id, called.id)
    else:
        return given
    function = ast.copy_location(_function_node(f"contr.{name}"), given)
    if not isinstance(given, ast.Call):
        return function
    given.func = function
    first = given.args[0] if given.args else None
    if name == "treatment" and isinstance(first, ast.Constant) and not isinstance(first.value, str):
        given.keywords.insert(0, ast.keyword("base", given.args.pop(0)))  # where R has the number of levels
    for keyword in given.keywords:
        keyword.arg = "base" if keyword.arg == "reference" else keyword.arg
    return given


def _check_text(node: ast.Constant) -> ast.Constant:
    """Refuse text with characters that mean something to formulaic or need escapes in Python."""
    if isinstance(node.value, str) and (not node.value.isprintable() or set(node.value) & set("`'\"{}\\")):
        raise ExpressionError(
            "text in a formula cannot hold quotes, backquotes, braces or backslashes", node.col_offset
        )
    return node


def _check_constant_power(node: ast.BinOp) -> None:
    """Refuse towers such as 9**9**9**9, which would keep Python busy for ever."""
    parts = (node.left, node.right)
    plain = all(isinstance(p, ast.Constant) and isinstance(p.value, (int, float)) for p in parts)
    if not plain or abs(node.right.value) > _LARGEST_POWER:  # type: ignore[attr-defined]
        raise ExpressionError("write this power of numbers out as a number", node.col_offset)


def _check_size(what: str, node: Any, largest: int) -> None:
    """Refuse a number of columns that is computed, or so large that it could only be a mistake."""
    found = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
    if found is not None and (type(found) is not int or not 0 <= found <= largest):
        raise ExpressionError(f"{what}: found {found!r}, expected a whole number up to {largest}", node.col_offset)


def _function_name(node: ast.AST) -> str | None:
    """Return the standard name of a permitted function, None for anything else."""
    if isinstance(node, ast.Name):
        name = _SYNONYMS.get(node.id, node.id)
        return name if name in ELEMENTWISE or name in STATEFUL or name == "I" else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id == "np" and node.attr in ELEMENTWISE and hasattr(np, node.attr):
            return node.attr
        if node.value.id == "contr" and node.attr in CONTRASTS:
            return f"contr.{node.attr}"
    return None


def _function_node(name: str) -> ast.expr:
    prefix, dot, attribute = name.partition(".")
    if not dot:
        return ast.Name(name, ast.Load())
    return ast.Attribute(ast.Name(prefix, ast.Load()), attribute, ast.Load())


def variables_of(tree: ast.AST) -> tuple[str, ...]:
    """Return the names in a syntax tree that are not functions, in order of appearance."""
    functions = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            functions.add(id(node.func))
        elif isinstance(node, ast.Attribute):
            functions.add(id(node.value))
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in functions]
    names.sort(key=lambda n: (getattr(n, "lineno", 1), getattr(n, "col_offset", 0)))
    return tuple(dict.fromkeys(n.id for n in names))


@lru_cache(maxsize=1024)
def variables(text: str) -> tuple[str, ...]:
    """Return the names a normalised expression uses, functions left out, in order of appearance."""
    return variables_of(ast.parse(text, mode="eval"))


@lru_cache(maxsize=1024)
def is_elementwise(text: str) -> bool:
    """Say whether a normalised expression is arithmetic on rows: no transform with a state, no comparison."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(node, ast.Compare):
            return False
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id in STATEFUL:
                return False
    return True


@lru_cache(maxsize=1024)
def is_stateful(text: str) -> bool:
    """Say whether a normalised expression calls a transform with a state, such as ``poly``, other than ``C``."""
    called = {n.func.id for n in ast.walk(_parsed(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return bool(called & STATEFUL - {"C"})


@lru_cache(maxsize=1024)
def is_comparison(text: str) -> bool:
    """Say whether a normalised expression is a comparison, ``I(x > 0)``: true or false, a factor as in R."""
    return isinstance(_inside(text), ast.Compare)


def compare(text: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Evaluate a comparison as bool, (n,) or a scalar; columns of labels are compared with text for equality.

    Raises
    ------
    ExpressionError
        For labels in another comparison, and where a side is undefined.
    """
    node = _inside(text)
    assert isinstance(node, ast.Compare)
    nodes = (node.left, node.comparators[0])
    is_text = [isinstance(x, ast.Constant) and isinstance(x.value, str) for x in nodes]
    is_text = [t or (isinstance(x, ast.Name) and _has_labels(x, columns)) for t, x in zip(is_text, nodes, strict=True)]
    operation = type(node.ops[0])
    if any(is_text) and not (all(is_text) and operation in (ast.Eq, ast.NotEq)):
        raise ExpressionError("text and factors can only be compared with text or factors, by == or !=")
    with np.errstate(all="ignore"):
        sides = [
            (np.asarray(x.value) if isinstance(x, ast.Constant) else columns[x.id]) if t else _value(x, columns)  # type: ignore[attr-defined]
            for t, x in zip(is_text, nodes, strict=True)
        ]
    if any(not t and np.isnan(values).any() for t, values in zip(is_text, sides, strict=True)):
        raise ExpressionError("a side of the comparison is undefined in some rows")
    return np.asarray(_COMPARISONS[operation](*sides))


def _has_labels(node: ast.Name, columns: Mapping[str, np.ndarray]) -> bool:
    return node.id in columns and np.asarray(columns[node.id]).dtype.kind in "UO"


def _inside(text: str) -> ast.expr:
    """The syntax tree of an expression, without ``I()`` around it."""
    node = _parsed(text)
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "I"
    return node.args[0] if is_call else node  # type: ignore[attr-defined]


@lru_cache(maxsize=1024)
def categorical_variables(text: str) -> tuple[str, ...]:
    """Return the names that are directly the first argument of ``C()``."""
    calls = [n for n in ast.walk(ast.parse(text, mode="eval")) if isinstance(n, ast.Call)]
    inner = [n.args[0] for n in calls if isinstance(n.func, ast.Name) and n.func.id == "C"]
    return tuple(a.id for a in inner if isinstance(a, ast.Name))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def evaluate(text: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Evaluate a normalised elementwise expression without Python's ``eval``.

    Parameters
    ----------
    text : str
        An expression for which `is_elementwise` holds.
    columns : mapping of str to (n,) array
        Values of the names in it; ``pi`` is known.

    Returns
    -------
    np.ndarray
        float64, (n,) or a scalar where no column is used. Undefined places are NaN or infinite.
    """
    with np.errstate(all="ignore"):
        return _value(_parsed(text), columns)


def _value(node: ast.AST, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(node, ast.Name):
        found = columns[node.id] if node.id in columns else CONSTANTS[node.id]
        return np.asarray(found, dtype=np.float64)
    if isinstance(node, ast.Constant):
        return np.float64(node.value)  # type: ignore[arg-type, return-value]
    if isinstance(node, ast.UnaryOp):
        return _ARITHMETIC[type(node.op)](_value(node.operand, columns))
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](_value(node.left, columns), _value(node.right, columns))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_value(a, columns) for a in node.args]
        return arguments[0] if node.func.id == "I" else ELEMENTWISE[node.func.id](*arguments)
    raise TypeError(f"not an elementwise expression: {ast.dump(node)}")  # pragma: no cover
