"""transformers' Auto classes know our models, in every order of imports."""

import copy
import importlib
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText
from transformers.models.auto import configuration_auto
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

import mgm
from mgm import auto
from mgm.auto import AutoModuleFinder, LazyEntries
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.vision.convnext_config import ConvNextTowerConfig
from tests.tiny_model import build

ROOT = Path(__file__).resolve().parents[1]
LOAD_ALL = """
from transformers import AutoConfig, AutoProcessor, AutoModelForImageTextToText
from transformers import AutoImageProcessor
from transformers.utils import logging
logging.disable_progress_bar()
classes = (AutoConfig, AutoImageProcessor, AutoProcessor, AutoModelForImageTextToText)
print(*(type(one.from_pretrained(FOLDER)).__name__ for one in classes))
import sys
assert not any(type(finder).__module__ == "mgm.auto" for finder in sys.meta_path)
"""
LOADED = "MGMConfig MGMImageProcessor MGMProcessor MGMForConditionalGeneration"
BEFORE = {
    "mgm first": "import mgm",
    "transformers first": "import transformers; import mgm",
    "AutoConfig first": "from transformers import AutoConfig; import mgm",
    "all Auto classes first": "import transformers.models.auto.processing_auto, mgm\n"
    "import transformers.models.auto.modeling_auto",
    "our network": "import mgm.model.modeling_mgm",
    "our processor": "import mgm.data.processing_mgm",
    "our config": "from mgm.model.configuration_mgm import MGMConfig",
    "our errors": "import mgm.errors",
    "what imports auto modules itself": "import mgm.errors, transformers.generation",
    "a plugin": "import mgm.eval.lmms.plugin",
    "only looked for": "import mgm, importlib.util\n"
    "assert importlib.util.find_spec('transformers.models.auto.processing_auto').has_location",
    # transformers itself cannot be imported in different orders by several threads.
    "threads": """
import importlib, threading
names = ["transformers.models.auto.processing_auto", *["mgm"] * 4]
errors, barrier = [], threading.Barrier(len(names))
def load(name):
    barrier.wait()
    try:
        importlib.import_module(name)
    except BaseException as error:
        errors.append(f"{name}: {error!r}")
threads = [threading.Thread(target=load, args=[name]) for name in names]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not errors, errors
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("auto") / "tiny")


def run_python(code: str) -> str:
    """Output of a fresh interpreter."""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.process
def test_auto_classes_know_our_models(folder):
    assert (
        run_python(f"{BEFORE['mgm first']}\nFOLDER = {str(folder)!r}{LOAD_ALL}").strip() == LOADED
    )


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("before", [name for name in BEFORE if name != "mgm first"])
def test_auto_classes_know_our_models_in_every_order(folder, before):
    assert run_python(f"{BEFORE[before]}\nFOLDER = {str(folder)!r}{LOAD_ALL}").strip() == LOADED


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_child_processes_know_our_models(folder, method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "import mgm\n"
        "def load(folder):\n"
        "    from transformers import AutoConfig\n"
        "    return AutoConfig.from_pretrained(folder)\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:\n"
        "        print(type(pool.apply(load, [sys.argv[2]])).__name__)\n"
    )
    ended = subprocess.run(
        [sys.executable, script, method, folder], capture_output=True, text=True, check=False
    )
    assert ended.stdout.strip() == "MGMConfig", ended.stderr


@pytest.mark.slow
@pytest.mark.process
def test_looking_up_a_config_imports_no_model(folder):
    code = (
        "import sys, mgm\n"
        "from transformers import AutoConfig\n"
        "assert 'mgm.model.configuration_mgm' not in sys.modules\n"
        "import transformers.models.auto.modeling_auto\n"
        f"AutoConfig.from_pretrained({str(folder)!r})\n"
        "print(*(f'mgm.model.{one}_mgm' in sys.modules for one in ('configuration', 'modeling')))"
    )
    assert run_python(code).split() == ["True", "False"]


def test_model_types_are_those_of_the_configs():
    mapping = configuration_auto.CONFIG_MAPPING
    for config in (mgm.MGMConfig, ConvNextTowerConfig):
        assert mapping[config.model_type] is config
    assert all(mapping[model_type] is mgm.MGMConfig for model_type in TEXT_TYPE_OF_PUBLISHED)
    assert AutoModelForImageTextToText._model_mapping[mgm.MGMConfig].config_class is mgm.MGMConfig
    assert PROCESSOR_MAPPING[mgm.MGMConfig] is mgm.MGMProcessor


def test_register_is_idempotent():
    before, finders = configuration_auto.CONFIG_MAPPING._extra_content, list(sys.meta_path)
    auto.register()
    importlib.reload(mgm)
    assert configuration_auto.CONFIG_MAPPING._extra_content is before
    assert sys.meta_path == finders


@pytest.mark.process
@pytest.mark.slow
def test_register_after_a_reload_of_an_auto_module():
    code = (
        "import importlib, mgm\n"
        "from mgm import auto\n"
        "from transformers.models.auto import configuration_auto, processing_auto, modeling_auto\n"
        "importlib.reload(configuration_auto)\n"
        "assert 'mgm' not in configuration_auto.CONFIG_MAPPING\n"
        "auto.register()\n"
        "print(configuration_auto.CONFIG_MAPPING['mgm'].__name__)\n"
    )
    assert run_python(code).strip() == "MGMConfig"


def test_registries_are_pickled_and_extended():
    mapping = configuration_auto.CONFIG_MAPPING
    assert pickle.loads(pickle.dumps(mapping))["mgm"] is mgm.MGMConfig
    assert ("mgm", mgm.MGMConfig) in mapping.items()
    assert "mgm" in mapping
    AutoConfig.register("mgm", mgm.MGMConfig, exist_ok=True)
    AutoImageProcessor.register(
        mgm.MGMConfig, image_processor_classes={"pil": mgm.MGMImageProcessor}, exist_ok=True
    )
    assert mapping["mgm"] is mgm.MGMConfig


class Registry:
    def __init__(self, **entries: object) -> None:
        self._extra_content: object = entries


def test_last_registration_wins():
    entries = LazyEntries({"a": 1, "b": 2}, {"b": "no.module:None", "c": "pathlib:Path"})
    assert dict(entries) == {"a": 1, "b": 2, "c": Path}
    entries["c"] = 3
    assert (entries["c"], len(entries)) == (3, 3)
    del entries["c"]
    assert "c" not in entries
    by_class = LazyEntries({}, {"pathlib:Path": {"pil": "pathlib:PurePath"}})
    assert Path in by_class
    assert list(by_class) == [Path]
    assert by_class[Path]["pil"].__name__ == "PurePath"


NAME = "transformers.models.auto.processing_auto"


def test_finder_delegates_the_search(monkeypatch):
    finder = AutoModuleFinder({NAME})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, NAME)
    spec = importlib.util.find_spec(NAME)
    assert spec.loader.get_source(NAME).startswith("#")
    assert copy.copy(spec.loader).get_source(NAME)
    assert finder in sys.meta_path, "only looked for"
    assert importlib.util.find_spec("json").loader.__class__.__module__ != "mgm.auto"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert finder not in sys.meta_path
    assert type(module.__spec__.loader).__module__ != "mgm.auto"
    assert "mgm.auto" not in type(module.__loader__).__module__
    assert module.PROCESSOR_MAPPING[mgm.MGMConfig] is mgm.MGMProcessor


def test_module_without_its_registry_yet():
    finder = AutoModuleFinder({NAME})
    module = ModuleType(NAME)
    finder.register_in(module)
    assert finder._missing == {NAME}
    module.PROCESSOR_MAPPING = Registry()
    finder.register_in(module)
    assert not finder._missing
