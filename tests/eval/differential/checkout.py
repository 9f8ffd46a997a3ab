"""Imports single modules of a harness's checkout, without its dependencies."""

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

# Packages whose __init__ would import every model and data set.
BARE = ("vlmeval", "vlmeval.dataset", "lmms_eval", "lmms_eval.tasks", "lmms_eval.models")
# Imports that no scorer needs; mocked if not installed.
MOCKED = (
    *("loguru", "validators", "sty", "dotenv", "tabulate", "matplotlib", "seaborn", "openai"),
    *(
        "torch",
        "torchvision",
        "transformers",
        "decord",
        "cv2",
        "sacrebleu",
        "evaluate",
        "nltk",
        "sklearn",
    ),
    *("portalocker", "sentencepiece", "zss", "apted", "lxml", "distance", "rouge", "aiolimiter"),
    *("hf_transfer", "accelerate", "sqlitedict", "pytablewriter", "tenacity", "latex2sympy2"),
    *("timeout_decorator", "sympy", "gradio", "anthropic", "wandb", "rich", "tqdm_multiprocess"),
    *(
        "dashscope",
        "google",
        "httpx",
        "xlsxwriter",
        "imageio",
        "polygon3",
        "omegaconf",
        "math_verify",
    ),
)


class Checkout:
    """A harness at one commit.

    Args:
        path: of its files.
        commit: of them; None: that of the git repository there.
    """

    def __init__(self, path: Path, commit: str | None = None) -> None:
        self.path = path
        self.commit = commit or _git_head(path)

    def module(self, name: str, folder: str = "") -> ModuleType:
        """A module of it.

        Args:
            name: dotted.
            folder: below the checkout, that names start from.
        """
        root = str(self.path / folder)
        if root not in sys.path:
            sys.path.insert(0, root)
        for bare in BARE:
            path = self.path.joinpath(*bare.split("."))
            if path.is_dir() and bare not in sys.modules:
                package = ModuleType(bare)
                package.__path__ = [str(path)]
                sys.modules[bare] = package
        if not any(isinstance(finder, _Mocks) for finder in sys.meta_path):
            sys.meta_path.append(_Mocks(MOCKED))
        if isinstance(sys.modules.get(name), _Mock):  # another harness has a package of this name
            del sys.modules[name]
        return import_module(name)


class _Mocks(MetaPathFinder, Loader):
    """A finder for modules of some packages that are not installed: returns mocks."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self._names:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Mock(spec.name)
        if spec.name == "validators":
            module.url = lambda text: False  # a table is not a path
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Mock(ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> MagicMock:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class Replies:
    """A judge that returns replies in order, under the method names of the harnesses."""

    def __init__(self, replies: Sequence[str]) -> None:
        self._left = list(replies)
        self.used: list[str] = []

    def generate(self, *_: object, **__: object) -> str:
        """The next reply."""
        self.used.append(self._left.pop(0))
        return self.used[-1]


def _git_head(path: Path) -> str:
    ran = subprocess.run(
        ["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{path}: is no git repository; give its commit as {path}@COMMIT")
    return ran.stdout.strip()
