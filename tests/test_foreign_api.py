"""Private and undocumented names of other libraries: each is there, and one file of ours uses it.

Of accelerate and Gradio none is used.

A release may drop or change such a name without a word. Where we call it we fail, but where we
override it or set it nothing happens any more; so this fails first, and says which file to look at.
"""

import ast
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

pytestmark = pytest.mark.heavy  # importing all these libraries takes long
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mgm", "playground", "benchmarks", "scripts")
DOCUMENTED = {"_exit", "_replace"}  # names of os, and of named tuples
BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


@dataclass(frozen=True)
class Foreign:
    """Names of one class or module of a library.

    Attributes:
        owner: the file of ours that uses them.
        holder: class or module.
        names: of attributes there, or paths of attributes, with spaces between.
        since: the first version of the library that has them; "": all that we allow.
        in_source: whether they are no attributes of the holder (instances get them, or it looks for
            them in what it is given), so that they have to occur in its source.
    """

    owner: str
    holder: str
    names: str
    since: str = ""
    in_source: bool = False


TABLE = (
    # transformers
    *(
        Foreign(
            "mgm/auto.py", f"transformers.models.auto.{registry}", "_extra_content", in_source=True
        )
        for registry in ("configuration_auto._LazyConfigMapping", "auto_factory._LazyAutoMapping")
    ),
    Foreign(
        "mgm/train/trainer.py",
        "transformers.Trainer",
        "_get_train_sampler _prepare_inputs",
    ),
    Foreign(
        "mgm/train/checkpointing_trainer.py",
        "transformers.Trainer",
        "_load_from_checkpoint _load_rng_state _save_checkpoint _save_optimizer_and_scheduler",
    ),
    Foreign(
        "mgm/train/trainer.py",
        "transformers.Trainer",
        "_defer_fsdp_gradient_reduction",
        since="5.23",
    ),
    Foreign(
        "mgm/train/trainer.py",
        "transformers.Trainer",
        "is_distributed_loading_by_transformers",
        since="5.19",
        in_source=True,
    ),
    Foreign(
        "mgm/train/args/arguments.py",
        "transformers.HfArgumentParser",
        "_argument_group_name",
        in_source=True,
    ),
    Foreign(
        "mgm/model/checkpoint/pretrained_model.py",
        "transformers.PreTrainedModel",
        "_can_compile_fullgraph _hf_peft_config_loaded _init_weights _no_split_modules "
        "_skip_keys_device_placement _supports_attention_backend _supports_flash_attn "
        "_supports_flex_attn _supports_sdpa",
    ),
    Foreign(
        "mgm/model/vision/convnext.py",
        "transformers.PreTrainedModel",
        "_gradient_checkpointing_func",
        in_source=True,
    ),
    Foreign("mgm/model/ops/attention.py", "transformers.PreTrainedConfig", "_attn_implementation"),
    Foreign(
        "mgm/model/generation.py", "transformers.GenerationMixin", "_expand_inputs_for_generation"
    ),
    # torch
    Foreign("mgm/engine/kv_cache/kv_cache.py", "torch", "_dynamo.mark_static_address"),
    Foreign("mgm/model/files/lazy_tensor.py", "torch", "_subclasses.fake_tensor.FakeTensorMode"),
    Foreign("mgm/model/files/lazy_tensor.py", "torch.UntypedStorage", "_checkpoint_offset"),
    Foreign(
        "mgm/model/ops/fused_linear_cross_entropy.py",
        "torch",
        "_C._autograd._get_current_graph_task_keep_graph",
    ),
    Foreign(
        "mgm/train/optim/activation_checkpointing.py",
        "torch.ops.aten",
        "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_cudnn_attention _scaled_dot_product_flash_attention_for_cpu",
    ),
    # libraries of training and kernels
    Foreign(
        "mgm/train/distributed/deepspeed_start.py",
        "deepspeed.ops",
        "__compatible_ops__",
        in_source=True,
    ),
    Foreign(
        "mgm/model/ops/causal_lm_loss.py",
        "deepspeed.runtime.zero.partition_parameters",
        "ds_id",
        in_source=True,
    ),
    Foreign(
        "mgm/train/lora/adapter.py",
        "peft.tuners.lora.LoraModel",
        "is_loaded_in_4bit is_loaded_in_8bit",
        in_source=True,
    ),
    Foreign(
        "mgm/model/ops/liger.py", "liger_kernel.transformers", "_apply_liger_kernel_to_instance"
    ),
    Foreign("mgm/data/sources/hf_table.py", "datasets.Dataset", "_fingerprint", in_source=True),
    # servers
    Foreign("mgm/serve/http/server.py", "uvicorn.Server", "handle_exit"),
    Foreign(
        "mgm/serve/http/connection.py",
        "uvicorn.protocols.http.h11_impl.H11Protocol",
        "connection_lost connection_made data_received handle_events on_response_complete "
        "pause_writing resume_writing send_400_response",
    ),
    Foreign(
        "mgm/serve/http/connection.py",
        "uvicorn.protocols.http.h11_impl",
        "conn connections cycle disconnected flow message_event response_complete "
        "response_started timeout_keep_alive_task transport",
        in_source=True,
    ),
    # Python itself
    Foreign(
        "mgm/train/args/validation.py",
        "argparse._ActionsContainer",
        "_option_string_actions",
        in_source=True,
    ),
    Foreign("mgm/train/distributed/process_errors.py", "atexit", "_run_exitfuncs"),
    Foreign("mgm/data/sources/shards.py", "tarfile.TarFile", "members", in_source=True),
    # in environments of their own, where only these are checked
    Foreign(
        "mgm/engine/vllm/model.py",
        "vllm.multimodal.processing.BaseMultiModalProcessor",
        "_call_hf_processor _get_mm_fields_config _get_prompt_updates",
    ),
    Foreign(
        "mgm/engine/vllm/model.py",
        "vllm.multimodal.processing.BaseDummyInputsBuilder",
        "_get_dummy_images",
    ),
    Foreign(
        "mgm/engine/vllm/model.py",
        "vllm.model_executor.models.interfaces.SupportsMultiModal",
        "_mark_language_model _mark_tower_model",
    ),
    Foreign(
        "mgm/eval/lmms/model.py", "lmms_eval.api.model.lmms", "_rank _world_size", in_source=True
    ),
)

# Overrides with fewer parameters than the library's method, and why that is right.
NARROWER = {
    "mgm/data/processing_mgm.py MGMProcessor.from_pretrained": "options come by name",
    "mgm/model/configuration_mgm.py MGMConfig.from_pretrained": "options come by name",
    "mgm/model/vision/patch_info_mining.py _KeyAffine.forward": "only its own file calls it",
}


def resolve(path: str) -> Any:
    """What a path of packages, modules, classes and attributes leads to."""
    first, *rest = path.split(".")
    value: Any = importlib.import_module(first)
    for name in rest:
        first = f"{first}.{name}"
        try:
            value = getattr(value, name)
        except AttributeError:
            value = importlib.import_module(first)
    return value


@cache
def words_of(holder: Any) -> set[str]:
    """All names and texts in the source of a class or module."""
    tree = ast.parse(inspect.getsource(holder))
    return {word for node in ast.walk(tree) for word in words(node)}


def words(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "name", "asname", "value"):
        if isinstance(word := getattr(node, field, None), str):
            yield word


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED | {"_"}


@cache
def sources() -> dict[str, ast.Module]:
    """Our files, by their paths from the root."""
    return {
        file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
    }


@cache
def classes(file: str) -> list[ast.ClassDef]:
    return [node for node in ast.walk(sources()[file]) if isinstance(node, ast.ClassDef)]


def reached(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names by which code reaches into objects and modules, and the lines where it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((part, node.lineno) for a in node.names for part in a.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            path = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            yield from ((part, node.lineno) for part in path)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") in BY_NAME
            and isinstance(node.args[1], ast.Constant)
        ):
            yield str(node.args[1].value), node.lineno


def set_on_self(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }


def members(definition: ast.ClassDef) -> set[str]:
    """What a class defines in its body, and its methods on `self`."""
    names = set_on_self(definition)
    for node in definition.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        names |= {part.id for part in assigned(node) if isinstance(part, ast.Name)}
    return names


def assigned(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


@cache
def defined(file: str) -> set[str]:
    """Names that a file gives to its own things."""
    tree = sources()[file]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    names |= {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return names | set_on_self(tree)


@cache
def inherited(file: str) -> set[str]:
    """What the classes of a file have of classes of ours in other files."""
    homes = {definition.name: other for other in sources() for definition in classes(other)}
    bases = {
        ast.unparse(base).split("[")[0] for definition in classes(file) for base in definition.bases
    }
    others = {homes[base] for base in bases if base in homes} - {file}
    return {name for other in others for name in defined(other) | inherited(other)}


def classes_with_foreign_bases() -> Iterator[tuple[str, ast.ClassDef, type, list[type]]]:
    """Our classes with bases of other libraries: file, source, class, these bases."""
    for file in sources():
        derived = [
            definition
            for definition in classes(file)
            if definition.bases and definition in sources()[file].body
        ]
        if not file.startswith("mgm/") or not derived:
            continue
        try:
            module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        except ModuleNotFoundError as error:
            if str(error.name).startswith("mgm"):
                raise
            continue  # of an extra that is not installed
        for definition in derived:
            built = getattr(module, definition.name)
            theirs = [base for base in built.__mro__ if is_foreign(base)]
            if theirs:
                yield file, definition, built, theirs


def is_foreign(base: type) -> bool:
    return base.__module__.split(".")[0] not in ("mgm", "builtins", "typing", "abc")


def has(base: type, name: str) -> bool:
    """Whether a class has an attribute, or a class of its file gives one to its instances."""
    return name in vars(base) or name in given_to_self(base.__module__)


@cache
def given_to_self(module: str) -> set[str]:
    """Attributes that a module's classes use on `self`; no parsing, which takes seconds."""
    try:
        return set(re.findall(r"\bself\.(\w+)", inspect.getsource(importlib.import_module(module))))
    except (OSError, TypeError):  # it is not written in Python
        return set()


def uses() -> Iterator[tuple[str, str, int]]:
    """Private names of others that we use or override: file, name, line."""
    for file, tree in sources().items():
        ours = defined(file) | inherited(file)
        for name, line in reached(tree):
            if is_private(name) and name not in ours:
                yield file, name, line
    for file, definition, _, theirs in classes_with_foreign_bases():
        for name in filter(is_private, members(definition)):
            if any(has(base, name) for base in theirs):
                yield file, name, definition.lineno


def table() -> set[tuple[str, str]]:
    """Owners with their names; of paths the private parts."""
    rows = set()
    for entry in TABLE:
        for path in entry.names.split():
            parts = [part for part in path.split(".") if is_private(part)] or [path]
            rows |= {(entry.owner, part) for part in parts}
    return rows


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: f"{entry.holder} in {entry.owner}")
def test_names_are_there(entry):
    library = entry.holder.split(".")[0]
    pytest.importorskip(library)
    if entry.since and Version(importlib.metadata.version(library)) < Version(entry.since):
        pytest.skip(f"{library} has it from {entry.since} on")
    holder = resolve(entry.holder)
    for name in entry.names.split():
        if entry.in_source:
            assert name in words_of(holder), f"{entry.holder} knows no {name}"
        else:
            resolve(f"{entry.holder}.{name}")


def test_table_has_every_private_name():
    listed = table()
    unknown = [f"{file}:{line} {name}" for file, name, line in uses() if (file, name) not in listed]
    assert not unknown, "use something public, ask the file that owns it, or add to TABLE"


def test_every_name_is_used_by_its_owner_alone():
    mentions = {
        file: {name for name, _ in reached(tree)}
        | {name for definition in classes(file) for name in members(definition)}
        for file, tree in sources().items()
    }
    for owner, name in sorted(table()):
        assert name in mentions[owner], f"{owner} does not use {name} any more"
        # A class that defines such a name itself means its own; `uses` finds overrides.
        others = [f for f in mentions if f != owner and name in mentions[f] - defined(f)]
        assert not others, f"{name} is of {owner}"


def parameters(owner: type, name: str) -> list[inspect.Parameter] | None:
    """Of a method, without `self`; None: it is no method."""
    function = inspect.getattr_static(owner, name)
    bound = not isinstance(function, staticmethod)
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function):
        return None
    return list(inspect.signature(function).parameters.values())[bound:]


def is_variadic(one: inspect.Parameter) -> bool:
    return one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)


def refused(ours: list[inspect.Parameter], theirs: list[inspect.Parameter]) -> list[str]:
    """What callers of their method may give, or leave out, and ours does not take so."""
    kinds = {one.kind for one in ours}
    in_order = [p.name for p in ours if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = {p.name for p in ours if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    wrong = []
    for position, one in enumerate(theirs):
        if is_variadic(one):
            continue
        if one.kind != one.POSITIONAL_ONLY and one.name not in by_name:
            wrong += [one.name] * (one.VAR_KEYWORD not in kinds)
        if one.kind != one.KEYWORD_ONLY and in_order[position : position + 1] != [one.name]:
            wrong += [one.name] * (one.VAR_POSITIONAL not in kinds or position < len(in_order))
    given = {one.name for one in theirs if one.default is one.empty}
    needed = {p.name for p in ours if p.default is p.empty and not is_variadic(p)}
    return sorted({*wrong, *(needed - given)})


def overrides() -> Iterator[tuple[str, list[str]]]:
    """Our overrides of methods of other libraries, and what they refuse."""
    for file, definition, built, theirs in classes_with_foreign_bases():
        for name in sorted(members(definition) & vars(built).keys()):
            base = next((base for base in theirs if name in vars(base)), None)
            if base is None or name.startswith("__"):
                continue
            own, other = parameters(built, name), parameters(base, name)
            if own is None or other is None:
                continue
            # Modules and functions of torch accept any arguments, until a subclass defines them.
            if not other or not all(map(is_variadic, other)):
                yield f"{file} {definition.name}.{name}", refused(own, other)


def test_overrides_take_what_the_library_gives():
    wrong = {name: faults for name, faults in overrides() if faults and name not in NARROWER}
    assert not wrong, "it is called with these, or without them"


def test_nothing_abstract_is_left_open():
    for file, definition, built, theirs in classes_with_foreign_bases():
        open_names = getattr(built, "__abstractmethods__", ())
        left = [name for name in open_names if any(name in vars(base) for base in theirs)]
        assert not left, f"{file}: {definition.name} lacks {left}"
