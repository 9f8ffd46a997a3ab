"""Makes transformers' Auto classes know ours, without importing anything before it is used.

transformers and torch take seconds to import, and `import mgm` must not. transformers itself
imports an Auto class when it is first asked for it, so that is when ours are registered.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "transformers"
_NAMES = ("AutoConfig", "AutoImageProcessor", "AutoModelForImageTextToText", "AutoProcessor")
_USERS = ("pipeline",)  # names that come with Auto classes inside
_REGISTRATIONS = ("mgm.model.registration", "mgm.data.registration")


def register_on_first_use() -> None:
    """Register our classes when an Auto class is first asked for, or now if one was already."""
    package = sys.modules.get(_PACKAGE)
    if package is None:
        sys.meta_path.insert(0, _Finder())
    elif any(name in vars(package) for name in (*_NAMES, *_USERS)):
        _register()
    else:
        _watch(package)


def _register() -> None:
    for name in _REGISTRATIONS:
        importlib.import_module(name).register()


def _watch(package: ModuleType) -> None:
    kind = type(package)

    class Watched(kind):  # ty: ignore[unsupported-base]
        """transformers' own lazy module; our classes come along with its Auto classes."""

        def __getattr__(self, name: str) -> Any:
            value = super().__getattr__(name)
            if name in (*_NAMES, *_USERS):
                self.__class__ = kind  # once is enough, and registering asks for these names too
                _register()
            return value

    package.__class__ = Watched


class _Finder(MetaPathFinder):
    """Finds transformers as usual, and has it watched once it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _PACKAGE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchingLoader(spec.loader)
        return spec


class _WatchingLoader(Loader):
    """Loads a package with `loader`, then has it watched."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # The package puts a lazy module in its own place.
        _watch(sys.modules[module.__name__])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # sources and resources are the other loader's business
