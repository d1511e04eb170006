"""A model's own Python code: its folder's modules, kept apart from those of other folders that are named alike.

Belongs to the load step, for the runtimes that run people's classes (`python`, `mlserver`). One process may hold many
models, and nearly every folder has a `models.py` or a `helpers.py`; Python knows one module for each name. So:

- while a model is imported, constructed and loaded, its folder comes first on the import path, and modules that came
  from elsewhere under a name which the folder has step aside (`importable`);
- afterwards they are back, and what the folder's own modules import late, inside functions, still finds the
  neighbours: each is executed with an `__import__` that looks among them first;
- the folder stays at the end of the import path until `forget`, for what imports in other ways.

Folders with names in common take turns; others load at the same time.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from headrace.errors import LoadFailed

PREFIX: Final = "headrace_model_"
"""What the names of modules begin with that `OwnCode.file` makes."""

_SHARED: Final = frozenset({"headrace", "mlserver"})
"""Names that are never a folder's own."""

_turn: Final = threading.Condition()
_active: Final[dict[OwnCode, int]] = {}
"""Whose modules stand in `sys.modules` now, and how many wait for their leaving; guarded by `_turn`."""


class OwnCode:
    """The modules of one model's folder.

    Args:
        folder: Where they are looked for first; None: the model has no folder, and nothing here does anything.
        others: Folders that come next on the import path, whose modules are the model's own as well.
        fresh: Import them anew, even where another model of the same folder already has: copies share no state, and
            a changed file is read again.
    """

    def __init__(self, folder: Path | None, *, others: Sequence[Path] = (), fresh: bool = False) -> None:
        self.folder = folder
        self._folders = [each for each in (folder, *others) if each is not None and each.is_dir()]
        self._fresh = fresh
        self._names: frozenset[str] = frozenset()
        self._held: dict[str, types.ModuleType] = {}
        self._aside: dict[str, types.ModuleType] = {}
        self._files: dict[str, types.ModuleType] = {}
        self._registered: list[str] = []
        self._finder = _Finder(self)
        self.builtins: Mapping[str, Any] = {}

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """While code of the model is imported or may import; waits for the turn. May be nested, and by many threads."""
        if not self._folders:
            yield
            return
        if not self._registered:
            self._names = frozenset(_names(self._folders))
            self.builtins = {**vars(builtins), "__import__": self._import}
        with _turn:
            if self not in _active:
                _turn.wait_for(lambda: not any(self._names & other._names for other in _active))  # noqa: SLF001
                self._enter()
            _active[self] = _active.get(self, 0) + 1
        try:
            yield
        finally:
            with _turn:
                _active[self] -= 1
                if not _active[self]:
                    del _active[self]
                    self._leave()
                    _turn.notify_all()

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await a coroutine of the model's, each of its steps with the model's modules importable."""
        return await _Steps(self, work)

    def file(self, file: Path) -> types.ModuleType:
        """A file, imported under a name that is its own."""
        if not file.is_file():
            raise LoadFailed(f"{file} does not exist; expected a Python file with the model's class")
        name = f"{PREFIX}{file.stem}@{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
        loader = _Loader(name, str(file), self)
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        if spec is None:
            raise LoadFailed(f"{file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get(name)
        sys.modules[name] = module  # dataclasses and annotations look their module up
        try:
            loader.exec_module(module)
        except BaseException as error:
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before
            if isinstance(error, Exception):
                raise LoadFailed(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
            raise
        self._files[name] = module
        return module

    def module(self, name: str) -> types.ModuleType:
        """A module by name: the folder's own first, then an installed one."""
        if not self._fresh and self.folder is not None and (file := self.folder / f"{name}.py").is_file():
            return self.file(file)
        try:
            return importlib.import_module(name)
        except Exception as error:
            where = f" (looked in {self.folder} and the installed packages)" if self.folder else ""
            raise LoadFailed(f"module {name!r} cannot be imported: {type(error).__name__}: {error}{where}") from error

    def forget(self) -> None:
        """Take the folder off the import path, and what was imported anew out of the table of modules."""
        with _turn:
            for entry in self._registered:
                if entry in sys.path:
                    sys.path.remove(entry)
            self._registered.clear()
            for name, module in (*self._files.items(), *(self._held.items() if self._fresh else ())):
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            self._files.clear()
            self._held.clear()

    def owns(self, name: str) -> bool:
        """Whether a module of this dotted name is one of the folder's."""
        return name.partition(".")[0] in self._names

    def spec(self, name: str, path: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
        """Where a module of the folder is, to be executed with the folder's own `__import__`."""
        entries = [str(each) for each in self._folders] if path is None else path
        found = importlib.machinery.PathFinder.find_spec(name, entries)
        if found is not None and type(found.loader) is importlib.machinery.SourceFileLoader and found.origin:
            found.loader = _Loader(name, found.origin, self)
        return found

    # -- the swap --

    def _enter(self) -> None:
        names = {name for name in self._names if self._foreign(name)}
        self._aside = {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in names}
        for name in self._aside:
            del sys.modules[name]
        sys.modules.update(self._held)
        for folder in reversed(self._folders):
            sys.path.insert(0, str(folder))
        sys.meta_path.insert(0, self._finder)
        if not self._registered:  # the files may be newer than what the import system remembers of the folder
            importlib.invalidate_caches()

    def _leave(self) -> None:
        sys.meta_path.remove(self._finder)
        for folder in self._folders:
            if str(folder) in sys.path:  # the model's code may change the path
                sys.path.remove(str(folder))
        self._held = {name: module for name, module in list(sys.modules.items()) if self.owns(name)}
        back = {name.partition(".")[0] for name in self._aside}
        for name in self._held:
            if name.partition(".")[0] in back:
                del sys.modules[name]  # held by the model, whose own it is
        sys.modules.update(self._aside)
        self._aside = {}
        if not self._registered:
            self._registered = [str(each) for each in self._folders]
            sys.path.extend(self._registered)  # once for each model of the folder, so that one can leave

    def _foreign(self, name: str) -> bool:
        """Whether the module that is imported under this name came from elsewhere, or is another model's copy."""
        module = sys.modules.get(name)
        if module is None or module is self._held.get(name):
            return False
        return self._fresh or _home(module) not in {None, *self._folders}

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the signature of `__import__`
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """`__import__` of the folder's modules: neighbours are found whenever they are asked for."""
        full = name
        if level and globals is not None:
            full = importlib.util.resolve_name("." * level + name, globals.get("__package__") or "")
        if not self.owns(full):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        known = self._held.get(full)
        if known is not None and not level and all(hasattr(known, each) for each in fromlist or ()):
            return known if fromlist else self._held[full.partition(".")[0]]
        with self.importable():
            return builtins.__import__(name, globals, locals, fromlist or (), level)


class _Finder:
    """First of `sys.meta_path` while a folder has its turn."""

    def __init__(self, code: OwnCode) -> None:
        self._code = code

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The folder's own module of that name; None: whatever Python finds."""
        return self._code.spec(name, path) if self._code.owns(name) else None


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a module with the folder's `__import__`."""

    def __init__(self, name: str, path: str, code: OwnCode) -> None:
        super().__init__(name, path)
        self._code = code

    def exec_module(self, module: types.ModuleType) -> None:
        """Run its code."""
        if self._code.builtins:
            module.__dict__["__builtins__"] = self._code.builtins
        super().exec_module(module)


class _Steps:
    """A coroutine whose every step, from one wait to the next, is taken with a folder's modules importable."""

    def __init__(self, code: OwnCode, work: Coroutine[Any, Any, Any]) -> None:
        self._code = code
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._work.send
        given: Any = None
        while True:
            try:
                with self._code.importable():
                    wanted = step(given)
            except StopIteration as end:
                return end.value
            try:
                given = yield wanted
                step = self._work.send
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation is the coroutine's to handle
                given, step = error, self._work.throw


def _names(folders: Sequence[Path]) -> Iterator[str]:
    """The modules and packages that the folders hold, less those that Python has."""
    for folder in folders:
        found = {each.stem for each in folder.glob("*.py")}
        found |= {each.parent.name for each in folder.glob("*/__init__.py")}
        for bare in {each.parent.name for each in folder.glob("*/*.py")} - found:
            elsewhere = importlib.machinery.PathFinder.find_spec(bare)
            if elsewhere is None or elsewhere.origin is None:  # an installed package would win over a bare folder
                found.add(bare)
        yield from (name for name in found if name not in sys.stdlib_module_names and name not in _SHARED)


def _home(module: types.ModuleType) -> Path | None:
    """The folder on the import path that a top-level module came from; None: it is built in."""
    file = getattr(module, "__file__", None)
    if file is not None:
        place = Path(file).absolute()
        return place.parent.parent if place.name == "__init__.py" else place.parent
    portions = [*getattr(module, "__path__", ())]
    return Path(portions[0]).absolute().parent if portions else None
