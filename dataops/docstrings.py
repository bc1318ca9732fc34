"""The documentation that a Python source holds: docstrings with qualified names and signatures, by `ast` alone.

Nothing is imported or run. A module is one document, `module name`, its docstring, then each documented class and
function in source order as header line and docstring; where that grows beyond `LONG` characters, the next documented
class or function begins another document under the same module line. Calls that attach documentation to compiled code
(numpy's add_newdoc, torch's add_docstr) count as docstrings. Cost: ast.parse reads about 10 MB/s of source.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator

LONG = 6_000  # characters; the median long document then fits a few 1,024-token windows
SHORT = 200  # characters of docstring below which a piece says nothing

SPARSE = 0.05  # share of a source between triple quotes below which it is code without documentation
_TRIPLE_QUOTED = re.compile(rb'"""(?:.*?)"""|\'\'\'(?:.*?)\'\'\'', re.S)

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def module_documents(source: bytes, *, module: str) -> list[str]:
    """The documents of a module; raises SyntaxError, ValueError, RecursionError or MemoryError as ast.parse does.

    A module with next to nothing between triple quotes is not parsed: it would cost time and give no documents.
    """
    quoted = sum(map(len, _TRIPLE_QUOTED.findall(source)))
    if quoted < max(SHORT, SPARSE * len(source)):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
        tree = ast.parse(source)
    lines = source.decode("utf-8", "replace").splitlines()
    first = f"module {module}"
    documents: list[str] = []
    held, size = [first], 0
    for section in _sections(tree, lines):
        if size > LONG:
            documents.append("\n\n".join(held))
            held, size = [first], 0
        held.append(section)
        size += len(section)
    if size >= SHORT:
        documents.append("\n\n".join(held))
    return documents


def _sections(tree: ast.Module, lines: list[str]) -> Iterator[str]:
    """The module's docstring, then header and docstring of what is documented, in source order."""
    if doc := _docstring(tree):
        yield doc
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _attached(node.value)
        else:
            yield from _documented(node, "", lines)


def _documented(node: ast.stmt, prefix: str, lines: list[str]) -> Iterator[str]:
    if isinstance(node, Documented):
        if doc := _docstring(node):
            yield f"{_header(node, prefix, lines)}\n{doc}"
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                yield from _documented(each, f"{prefix}{node.name}.", lines)
    elif isinstance(node, (ast.If, ast.Try)):
        for each in node.body:
            yield from _documented(each, prefix, lines)


def _docstring(node: ast.Module | Documented) -> str | None:
    """As ast.get_docstring, but white space is None and lone surrogates are replaced."""
    match node.body[:1]:
        case [ast.Expr(value=ast.Constant(value=str(text)))] if text.strip():
            return _clean(text)
    return None


def _attached(call: ast.Call) -> Iterator[str]:
    """Documentation attached by a call: the strings of its last argument under the names before it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if "doc" not in name.lower() or not call.args:
        return
    strings = [
        each for each in ast.walk(call.args[-1]) if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    text = _clean("".join(str(each.value) for each in sorted(strings, key=lambda each: (each.lineno, each.col_offset))))
    if len(text) >= SHORT // 2:
        title = ".".join(part for part in map(_name, call.args[:-1]) if part)
        yield f"{title}\n{text}" if title else text


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value) if len(str(node.value)) < 80 else ""
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def _header(node: Documented, prefix: str, lines: list[str]) -> str:
    """'class Name(Bases)' or 'prefix.name(arguments) -> type', as written in the source but on one line."""
    written = " ".join(line.strip() for line in lines[node.lineno - 1 : node.body[0].lineno - 1])
    if not written or "#" in written:
        inside = [*map(ast.unparse, node.bases)] if isinstance(node, ast.ClassDef) else [ast.unparse(node.args)]
        written = f"{'class' if isinstance(node, ast.ClassDef) else 'def'} {node.name}({', '.join(inside)})"
    keyword, _, rest = written.rstrip(" :").partition(node.name)
    rest = rest.replace("( ", "(").replace(", )", ")").replace(" )", ")")
    return f"{keyword}{prefix}{node.name}{rest}"


def _clean(text: str) -> str:
    return inspect.cleandoc(text).rstrip().encode("utf-8", "replace").decode()
