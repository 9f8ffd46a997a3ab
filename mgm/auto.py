"""Registers our classes with transformers' Auto classes, without importing either of them early.

Importing transformers' auto modules alone loads torch, so `import mgm` does not: a finder on
`sys.meta_path` registers them after someone else imports these. The registries get import paths;
a class of ours is imported when it is looked up.

The finder removes itself after it has registered everything, so that `importlib.reload` of an auto
module, which replaces its registry, drops our entries; call `register` again after it.
"""

import sys
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mgm.model.families import TEXT_TYPE_OF_PUBLISHED

_CONFIG = "mgm.model.configuration_mgm:MGMConfig"
_CONVNEXT_CONFIG = "mgm.model.vision.convnext_config:ConvNextTowerConfig"
_MODEL = "mgm.model.modeling_mgm:MGMForConditionalGeneration"
_PROCESSOR = "mgm.data.processing_mgm:MGMProcessor"
_IMAGE_PROCESSOR = "mgm.data.image_processing_mgm:MGMImageProcessor"

# Modules of transformers, their registries, and our entries by model type or config class.
_REGISTRIES: dict[str, tuple[str, dict[str, str | dict[str, str]]]] = {
    "transformers.models.auto.configuration_auto": (
        "CONFIG_MAPPING",
        # Published model types load as the one MGMConfig.
        {"mgm": _CONFIG, "mgm_convnext": _CONVNEXT_CONFIG}
        | dict.fromkeys(TEXT_TYPE_OF_PUBLISHED, _CONFIG),
    ),
    "transformers.models.auto.modeling_auto": (
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
        {_CONFIG: _MODEL},
    ),
    "transformers.models.auto.image_processing_auto": (
        "IMAGE_PROCESSOR_MAPPING",
        {_CONFIG: {"pil": _IMAGE_PROCESSOR, "torchvision": _IMAGE_PROCESSOR}},  # one for both
    ),
    "transformers.models.auto.processing_auto": ("PROCESSOR_MAPPING", {_CONFIG: _PROCESSOR}),
}


def register() -> None:
    """Register config, model and processors; calling it again changes nothing."""
    finder = next((one for one in sys.meta_path if isinstance(one, AutoModuleFinder)), None)
    if finder is None:
        # First, so that a module that another thread is importing is not missed.
        finder = AutoModuleFinder(set(_REGISTRIES))
        sys.meta_path.insert(0, finder)
    for name in _REGISTRIES:
        if name in sys.modules:
            finder.register_in(import_module(name))  # waits for a thread that is executing it


def _add_entries(module: ModuleType) -> bool:
    """Add our entries to the registry of an auto module; False: it has not defined it yet."""
    name, entries = _REGISTRIES[module.__name__]
    registry = getattr(module, name, None)
    if registry is None:
        return False
    if not isinstance(registry._extra_content, LazyEntries):
        registry._extra_content = LazyEntries(registry._extra_content, entries)
    return True


class LazyEntries(MutableMapping[Any, Any]):
    """Registry of an Auto class; our entries are imported when they are looked up.

    Args:
        registered: entries by model types or config classes.
        paths: entries of ours. Config classes and values are paths "module:class".
    """

    def __init__(
        self, registered: MutableMapping[Any, Any], paths: dict[str, str | dict[str, str]]
    ) -> None:
        self._registered, self._paths = registered, dict(paths)
        for key in registered:
            self._paths.pop(_path_of(key), None)

    def __getitem__(self, key: object) -> Any:
        path = _path_of(key)
        return _resolve(self._paths[path]) if path in self._paths else self._registered[key]

    def __setitem__(self, key: object, value: object) -> None:
        self._registered[key] = value
        self._paths.pop(_path_of(key), None)

    def __delitem__(self, key: object) -> None:
        if self._paths.pop(_path_of(key), None) is None:
            del self._registered[key]

    def __contains__(self, key: object) -> bool:
        return _path_of(key) in self._paths or key in self._registered

    def __iter__(self) -> Iterator[Any]:
        yield from list(self._registered)
        yield from [_resolve(path) if ":" in path else path for path in list(self._paths)]

    def __len__(self) -> int:
        return len(self._registered) + len(self._paths)


def _path_of(key: object) -> str:
    """How `_REGISTRIES` spells a model type or a config class."""
    return f"{key.__module__}:{key.__qualname__}" if isinstance(key, type) else str(key)


def _resolve(path: str | dict[str, str]) -> Any:
    """The class of a path "module:class", or a dictionary of such."""
    if isinstance(path, dict):
        return {backend: _resolve(one) for backend, one in path.items()}
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


class AutoModuleFinder(MetaPathFinder):
    """Registers our classes after transformers' auto modules are executed, then removes itself.

    The search itself is left to the other finders on `sys.meta_path`.
    """

    def __init__(self, missing: set[str]) -> None:
        self._missing = missing

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec with a loader that registers; None for all other modules."""
        if fullname not in self._missing:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec

    def register_in(self, module: ModuleType) -> None:
        """Register our classes in an executed auto module; after the last, remove the finder."""
        if _add_entries(module):
            self._missing.discard(module.__name__)
        if not self._missing:
            # A new list: other threads may be iterating over the present one.
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]


class _RegisteringLoader(Loader):
    """The loader of an auto module, until the module is executed."""

    def __init__(self, loader: Loader, finder: AutoModuleFinder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        """Other attributes of the real loader (`get_source`), for callers of `find_spec`."""
        if name == "_loader":  # not set yet in a copy
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module with its real loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its real loader, execute and register."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.register_in(module)
