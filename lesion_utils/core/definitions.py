"""Fingerprints of code: the definitions of this package that an entry reaches, and a hash of each.

A definition is a function, a class (with all its methods) or a constant at the top level of a module. From an entry,
every name that leads to another definition is followed, through imports and their aliases. The hash of a definition
does not depend on the module it is in, on aliases, import lines, comments, docstrings or annotations; annotations in a
class body count, because dataclasses and pydantic read them.

Where names do not suffice, more counts instead of less:

- A module that is used as a value, as in `getattr(module, name)`, or imported with a star counts as a whole.
- `globals()`, `eval`, `importlib.import_module` and the like: the module that contains the call counts as a whole.
- Module-level statements that are not definitions (`register(...)`, `TABLE["x"] = ...`, `if`, `try`) count if their
  module is imported on the way; if it has a decorator that may register what it decorates, all of the module does.
- A template or table counts if a reached definition has a string with its name or its folder's name.

Not found: subclasses that are looked up with `__subclasses__`, and names that are put together at run time in a module
other than the one that contains them.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from lesion_utils.core.errors import DataError
from lesion_utils.core.files import digest_bytes, digest_file, dump_json, write_atomic
from lesion_utils.core.seal import load_sealed, seal_record

PACKAGE = "lesion_utils"
_FOLDER = Path(__file__).resolve().parents[1]
_parsing = Lock()  # Python 3.11 takes two threads' depths for one if a collection of garbage lets the other go on

#: A module's name without the package's, and a definition in it; or all of them; or nothing but importing it.
Target = tuple[str, str]
#: Path, time and size of every file of the package.
_Stamp = tuple[tuple[str, int, int], ...]
_ALL, _IMPORT = "*", ""
_COMPILED = "__pycache__"

_DYNAMIC = {"globals", "locals", "vars", "eval", "exec", "__import__", "importlib.import_module"}
_DYNAMIC |= {"pkgutil.resolve_name", "sys.modules"}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def fingerprint_definitions(
    entries: Iterable[str], *, source: str = "", without: Collection[str] = ()
) -> dict[str, str]:
    """Hash of each definition that the entries reach, the entries included.

    Args:
        entries: `module:definition` without the package's name, such as "training.train:train_run"; or a whole module.
        source: Python that uses the package, such as a notebook's cells: another entry, whose own text does not count.
        without: names of definitions that are neither hashed nor followed.

    Returns:
        Name, such as `train_epoch` or `report.html.j2`, to hash (16 hexadecimal digits), sorted by name. Definitions of
        the same name share a hash.

    Raises:
        ValueError: an entry does not exist.
        SyntaxError: a module, or the source, is not Python.
    """
    answers = _open_answers(_FOLDER, tuple(_stat_files(_FOLDER)))
    hashes, files = answers.find(sorted(entries), source, sorted(without))
    found = {name: {value} for name, value in hashes.items()}
    for path in map(_FOLDER.joinpath, files):
        found.setdefault(path.name, set()).add(_digest_known(path, *_stat(path)))
    return {name: digest_bytes("".join(sorted(every)).encode())[:16] for name, every in sorted(found.items())}


class _Answers:
    """Which definitions entries reach, kept beside the compiled modules: to follow all names takes seconds.

    An answer holds as long as every module has the same content, and the other files have the same names.
    """

    def __init__(self, folder: Path, stamp: _Stamp):
        self._folder, self._stamp, self._lock = folder, stamp, Lock()
        contents = [
            (Path(path).relative_to(folder).as_posix(), _digest_known(Path(path), *times) * path.endswith(".py"))
            for path, *times in stamp
        ]
        self._modules = digest_bytes(repr(contents).encode())
        self._path = folder / "core" / _COMPILED / "definitions.json"
        kept = load_sealed(self._path) or {}
        self._answers: dict[str, Any] = kept["answers"] if kept.get("modules") == self._modules else {}

    def find(self, entries: Sequence[str], source: str, without: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Name of each definition to the hash of its text, and the paths of the other files that these name."""
        asked = digest_bytes(repr((entries, source, without)).encode())
        with self._lock:
            if asked not in self._answers:
                package = _open_package(self._folder, self._stamp)
                found = package.reach([*map(package.find_entry, entries), *package.follow(source)], without)
                files = {path.relative_to(self._folder).as_posix() for each in found.values() for path in each.files}
                self._answers[asked] = _hash_texts(found), sorted(files)
                self._keep()
            return self._answers[asked]

    def _keep(self) -> None:
        record = seal_record({"modules": self._modules, "answers": self._answers})
        with suppress(DataError):  # the package may belong to another user
            write_atomic(self._path, dump_json(record))


def _hash_texts(found: Mapping[Target, _Definition]) -> dict[str, str]:
    ambiguous = {name for name, count in Counter(name for _, name in found).items() if count > 1}
    hashes: dict[str, set[str]] = {}
    for (_, name), definition in found.items():
        # The text has only names: where two definitions have the same name, add what the one that is meant says.
        meant = [found[to].text for to in definition.targets if to[1] in ambiguous and to in found]
        hashes.setdefault(name, set()).add(digest_bytes("\n".join([definition.text, *meant]).encode()))
    return {name: "".join(sorted(every)) for name, every in hashes.items()}


def parse(source: str) -> ast.Module:
    """The syntax tree; several threads may call this at once.

    Raises:
        SyntaxError: it is not Python.
    """
    with _parsing:
        return ast.parse(source)


class _Module:
    """The top level of a module.

    Attributes:
        bound: name to the statements that bind it.
        imports: name to the dotted path that it was imported from.
        stars: modules imported with a star.
        loads: dotted paths of everything that its import imports.
        effects: statements that act when the module is imported, by the beginning of their text.
        registers: whether a decorator may hand a definition to others, who may then look at the whole module.
    """

    def __init__(self, name: str, tree: ast.Module):
        self.name, self.tree = name, tree
        self.bound: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.loads: list[str] = []
        self.effects: dict[str, list[ast.stmt]] = {}
        self.registers = False
        for statement in tree.body:
            if not isinstance(statement, _DEFINITIONS) and not _is_idle(statement):
                self.loads += [path for node in ast.walk(statement) for path in _list_loaded(node)]
            names = _list_bound([statement])
            self.imports |= {name: path for name, path in names.items() if path}
            if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                names[statement.target.id] = None
            if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
                self.stars.append(statement.module or "")
            for bound in [name for name, path in names.items() if path is None]:
                self.bound.setdefault(bound, []).append(statement)
            if _acts(statement):
                self.effects.setdefault(ast.unparse(statement).strip().splitlines()[0][:60], []).append(statement)

            for decorator in getattr(statement, "decorator_list", []):
                called = ast.unparse(getattr(decorator, "func", decorator))
                root = called.partition(".")[0]
                own = root in self.bound or _is_own(self.imports.get(root, ""))
                self.registers = self.registers or own or "register" in called


class _Package:
    """The modules of a folder as they are now."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._modules: dict[str, _Module | None] = {}
        self._definitions: dict[Target, _Definition] = {}

    def find_entry(self, entry: str) -> Target:
        name, _, definition = entry.partition(":")
        module = self._find_module(name)
        if module is None or (definition and definition not in module.bound):
            raise ValueError(f"{PACKAGE} has no {entry}")
        return name, definition or _ALL

    def follow(self, source: str) -> list[Target]:
        """What a piece of Python outside the package names."""
        module = _Module("<source>", parse(source))
        return _Definition(self, module, module.tree.body).targets

    def reach(self, entries: Iterable[Target], without: Collection[str]) -> dict[Target, _Definition]:
        """Everything that the entries name, directly or not."""
        found: dict[Target, _Definition] = {}
        waiting, imported = list(entries), set[str]()
        while waiting:
            module, name = target = waiting.pop()
            if target in found or name in without:
                continue
            waiting += self._import(module, imported)
            if name == _ALL:
                # A release that changes no code retrains nothing.
                everything = (*self._get(module).bound, *self._get(module).effects)
                waiting += [(module, each) for each in everything if each != "__version__"]
            elif name != _IMPORT:
                found[target] = self._define(target)
                waiting += found[target].targets
        return found

    def _import(self, name: str, imported: set[str]) -> Iterator[Target]:
        """What importing a module does, with the modules that it imports in turn."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name not in imported and (module := self._find_module(name)):
                imported.add(name)
                yield from ((name, words) for words in ([_ALL] if module.registers else module.effects))
                waiting.append(name.rpartition(".")[0])
                waiting += [self.resolve(path)[0] for path in module.loads]

    def _define(self, target: Target) -> _Definition:
        if target not in self._definitions:
            module = self._get(target[0])
            statements = module.bound.get(target[1]) or module.effects[target[1]]
            self._definitions[target] = _Definition(self, module, statements)
        return self._definitions[target]

    def resolve(self, path: str, depth: int = 0) -> tuple[str, str, list[str]]:
        """Module, definition (`_ALL` if the module itself is meant) and further attributes of a dotted path."""
        parts, name = path.split(".")[1:], ""
        while parts and self._find_module(f"{name}.{parts[0]}".strip(".")):
            name = f"{name}.{parts.pop(0)}".strip(".")
        module = self._get(name)
        if parts and parts[0] in module.bound:
            return name, parts[0], parts[1:]
        passed_on = [f"{star}.{parts[0]}" for star in module.stars if parts and _is_own(star)]
        if parts and _is_own(module.imports.get(parts[0], "")):
            passed_on.insert(0, module.imports[parts[0]])
        for further in passed_on if depth < 20 else []:
            found = self.resolve(".".join([further, *parts[1:]]), depth + 1)
            if found[1] != _ALL or not found[2]:
                return found
        return name, _ALL, parts

    def _find_module(self, name: str) -> _Module | None:
        if name not in self._modules:
            base = self.folder.joinpath(*name.split(".")) if name else self.folder
            candidates = (base / "__init__.py", base.parent / f"{base.name}.py")
            path = next((path for path in candidates if path.is_file() and path.is_relative_to(self.folder)), None)
            self._modules[name] = _read_module(name, path, *_stat(path)) if path else None
        return self._modules[name]

    def _get(self, name: str) -> _Module:
        module = self._find_module(name)
        assert module is not None  # `resolve` and `find_entry` have found it
        return module

    @cached_property
    def data_files(self) -> dict[str, list[Path]]:
        """Files that are not Python, by path, by name, and by the name of a folder that is not a package."""
        names: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*.*")):
            if path.suffix != ".py" and path.parent.name != _COMPILED and path.is_file():
                relative = path.relative_to(self.folder)
                folders = {part.name for part in relative.parents if not (self.folder / part / "__init__.py").is_file()}
                for name in {relative.as_posix(), relative.name, *folders}:
                    names.setdefault(name, []).append(path)
        return names


class _Definition:
    """Statements as text, in which every name that leads out of them is a full one.

    Attributes:
        text: what is hashed; the same on every Python, because empty fields are left out and each release adds some.
        targets: the definitions of the package that it names, in the order of the text.
        files: the files that are not Python that it names.
    """

    def __init__(self, package: _Package, module: _Module, statements: Iterable[ast.stmt]):
        self.targets: list[Target] = []
        self.files: set[Path] = set()
        self._package, self._module = package, module
        self._scopes: list[dict[str, str | None]] = []  # of the functions around: local names, and what they import
        self._in_class = False
        self.text = "\n".join(map(self._spell, statements))

    def _spell(self, node: object) -> str:
        if isinstance(node, list):
            return f"[{','.join(filter(None, map(self._spell, node)))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        if _is_idle(node):
            return ""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            self.targets += [(self._package.resolve(path)[0], _IMPORT) for path in _list_loaded(node)]
            return ""
        if isinstance(node, ast.Try):  # the library that is installed decides
            paths = _list_bound(n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))).values()
            return f"{sorted(path for path in paths if path and not _is_own(path))}{self._spell_fields(node)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._note_string(node.value)
        if isinstance(node, (ast.Name, ast.Attribute)) and (text := self._spell_path(node)):
            return text
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return self._spell_function(node)
        if isinstance(node, _COMPREHENSIONS):
            targets = [name for generator in node.generators for name in ast.walk(generator.target)]
            return self._spell_inside(node, {name.id: None for name in targets if isinstance(name, ast.Name)})
        if isinstance(node, ast.AnnAssign) and not self._in_class:
            return self._spell(ast.Assign([node.target], node.value)) if node.value else ""
        if isinstance(node, ast.ClassDef):
            return self._spell_inside(node, {}, in_class=True)
        return self._spell_fields(node)

    def _spell_fields(self, node: ast.AST) -> str:
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({','.join(f'{name}={self._spell(value)}' for name, value in fields)})"

    def _spell_inside(self, node: ast.AST | list[Any], bound: dict[str, str | None], *, in_class: bool = False) -> str:
        before, self._in_class = self._in_class, in_class
        self._scopes.append(bound)
        text = self._spell(node) if isinstance(node, list) else self._spell_fields(node)
        self._scopes.pop()
        self._in_class = before
        return text

    def _spell_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> str:
        """Without annotations; decorators and defaults do not see the function's own names."""
        arguments, body = node.args, node.body if isinstance(node.body, list) else [ast.Return(node.body)]
        groups = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
        extra = [argument and argument.arg for argument in (arguments.vararg, arguments.kwarg)]
        names = [[argument.arg for argument in group] for group in groups]
        local = [name for name in [*itertools.chain(*names), *extra] if name]
        required = [default is None for default in arguments.kw_defaults]
        around = self._spell([*getattr(node, "decorator_list", []), *arguments.defaults, *arguments.kw_defaults])
        bound = dict.fromkeys(local) | _list_bound(body)
        kind = f"{type(node).__name__} {getattr(node, 'name', '')}"
        return f"{kind}({names},{extra},{required},{around},{self._spell_inside(body, bound)})"

    def _spell_path(self, node: ast.expr) -> str:
        """The text of a name, or of attributes of a name, that leads out of the function; "" for others."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        found = self._look_up(node.id) if isinstance(node, ast.Name) else None
        if found is None:
            return ""
        path = ".".join([found, *attributes])
        if path in _DYNAMIC or path.startswith("sys.modules."):
            self.targets.append((self._module.name, _ALL))
        if not _is_own(path):
            return f"<{path}>"
        module, name, rest = self._package.resolve(path)
        self.targets.append((module, name))
        return f"<{'.'.join([name, *rest])}>"

    def _look_up(self, name: str) -> str | None:
        """Where a name leads: a dotted path; None for a local one or a builtin."""
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        module = self._module
        if name in module.imports and name in module.bound:  # imported or defined, as a condition decides
            self.targets.append((module.name, name))
        if name in module.imports:
            return module.imports[name]
        if name in module.bound:
            return f"{PACKAGE}.{module.name}.{name}".replace("..", ".") if module.name != "<source>" else None
        stars = (f"{star}.{name}" for star in module.stars if _is_own(star))
        builtin = name if name in _DYNAMIC else None
        return next((path for path in stars if self._package.resolve(path)[1] != _ALL), builtin)

    def _note_string(self, value: str) -> None:
        """A string may name a file, or a definition: `import_module("lesion_utils.x")`."""
        self.files |= set(self._package.data_files.get(value, []))
        if _is_own(value) and re.fullmatch(r"[\w.:]+", value):
            self.targets.append(self._package.resolve(value.replace(":", "."))[:2])


@lru_cache(maxsize=2)
def _open_answers(folder: Path, stamp: _Stamp) -> _Answers:
    return _Answers(folder, stamp)


@lru_cache(maxsize=2)
def _open_package(folder: Path, stamp: _Stamp) -> _Package:
    return _Package(folder)


@cache
def _read_module(name: str, path: Path, modified: int, size: int) -> _Module:
    return _Module(name, parse(path.read_text(encoding="utf-8")))


@cache
def _digest_known(path: Path, modified: int, size: int) -> str:
    return digest_file(path)


def _stat(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _stat_files(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob("*.*")):
        if path.parent.name != _COMPILED and path.is_file():
            yield str(path), *_stat(path)


def _list_bound(statements: Iterable[ast.AST]) -> dict[str, str | None]:
    """Names that statements bind where they are: to the dotted path of an import, or to None."""
    bound: dict[str, str | None] = {}
    outer: set[str] = set()
    waiting = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DEFINITIONS):
            bound.setdefault(node.name)
        elif isinstance(node, ast.Import):
            bound |= {a.asname: a.name for a in node.names if a.asname}
            bound |= {root: root for root in (a.name.partition(".")[0] for a in node.names if not a.asname)}
        elif isinstance(node, ast.ImportFrom):
            bound |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names if a.name != "*"}
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            outer |= set(node.names)
        elif not isinstance(node, (*_COMPREHENSIONS, ast.Lambda)) and not _is_idle(node):
            if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
                bound.setdefault(node.id)
            elif isinstance(name := getattr(node, "name", getattr(node, "rest", None)), str):
                bound.setdefault(name)  # except ... as name, case ... as name
            waiting += ast.iter_child_nodes(node)
    return {name: path for name, path in bound.items() if name not in outer}


def _acts(statement: ast.stmt) -> bool:
    """Whether a statement at the top level of a module does more than bind names."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return any(isinstance(target, (ast.Subscript, ast.Attribute)) for target in targets)
    return not isinstance(statement, (*_DEFINITIONS, ast.Import, ast.ImportFrom)) and not _is_idle(statement)


def _list_loaded(node: ast.AST) -> list[str]:
    """Dotted paths of this package that an import statement imports."""
    names = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []
    start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return [path for path in (f"{start}{alias.name}".removesuffix(".*") for alias in names) if _is_own(path)]


def _is_own(path: str) -> bool:
    return path == PACKAGE or path.startswith((f"{PACKAGE}.", f"{PACKAGE}:"))


def _is_idle(node: ast.AST) -> bool:
    """Docstrings, and what only type checkers read."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
