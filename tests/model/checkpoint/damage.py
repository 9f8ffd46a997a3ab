"""Damaged copies of whole checkpoints, and what loading each of them comes to.

    python -m tests.model.checkpoint.damage [--layout native] [--file config.json] [--count 200]

prints every damage that does not end in an unchanged model or in one line that names the file.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from mgm.engine.core.request import Request
from mgm.engine.loading import load
from mgm.errors import MGMError
from mgm.model.checkpoint.components import save_stage1
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.published_layout.weight_names import to_published
from tests.golden_files import golden
from tests.model.tiny import TEXT, save_towers
from tests.tiny_model import build, byte_tokenizer

LAYOUTS = ("native", "published", "stage1", "lora")
TIMEOUT = 20.0  # seconds for one load
MEMORY = 6 << 30  # bytes above the parent's memory: a damaged size must not exhaust the machine
REFUSED, SAME, OTHER = "refused", "same", "other model"

# Damages of any file.
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "first half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content.rstrip()[:-1],
    "one byte more": lambda content: content + b"{",
    "random bytes": lambda content: random.Random(0).randbytes(len(content)),
    "zeros": lambda content: bytes(len(content)),
    "latin-1": lambda _: '{"name": "Müller"}'.encode("latin-1"),
    "lone surrogate": lambda _: b'{"model_type": "\\ud800"}',
    "utf-16": lambda content: content.decode("latin-1").encode("utf-16"),
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "null": lambda _: b"null",
    "list": lambda _: b"[]",
    "object": lambda _: b"{}",
    "string": lambda _: b'"x"',
    "infinite number": lambda _: b"1e999",
    "number of 5,000 digits": lambda _: b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "deep nesting": lambda _: b"[" * 100_000 + b"]" * 100_000,
    "deep nesting in an object": lambda _: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "html": lambda _: b"<!DOCTYPE html><html>404</html>",
    "git lfs pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
}
# Replacements of a file's path.
KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "directory": Path.mkdir,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "named pipe": os.mkfifo,
}
NUMBERS: tuple[object, ...] = (
    *(-1, 0, 10**9, 10**18, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("x", None, True, [], {}, [0], [-1], [10**12]),
)
OTHERS: tuple[object, ...] = (-1, 1.5, float("nan"), "x", "", "\ud800", None, True, [], {}, [[]])


@dataclass(frozen=True)
class Damage:
    """One change of one file of a checkpoint."""

    layout: str
    file: str
    name: str
    apply: Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """The result of loading: `REFUSED` for a one-line error that names the file, or another."""

    kind: str
    text: str


def make_layout(layout: str, folder: Path) -> Path:
    """Write a small checkpoint with all folders that it needs; returns the folder to load."""
    if layout == "native":
        return build(folder / "model")
    if layout == "published":
        return Path(shutil.copytree(golden("work_dirs/MGM/MGM-7B"), folder / "model"))
    torch.manual_seed(0)
    base, clip, convnext = (folder / name for name in ("llm", "clip", "convnext"))
    text = TEXT | {"vocab_size": len(byte_tokenizer())}
    LlamaForCausalLM(LlamaConfig(**text)).save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    save_towers(clip, convnext)
    target = folder / "model"
    target.mkdir()
    del text["model_type"]
    flat = text | {
        "_name_or_path": "llm",
        "model_type": "mgm",
        "image_size_aux": 128,
        "mm_hidden_size": 16,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "clip",
        "mm_vision_tower_aux": "convnext",
        "torch_dtype": "float32",
    }
    (target / "config.json").write_text(json.dumps(flat))
    model = MGMForConditionalGeneration.from_parts(base, clip, convnext, image_size_aux=128)
    if layout == "lora":
        _save_lora(model, target)
    else:
        save_stage1(model, target / "mm_projector.bin")
    return target


def _save_lora(model: MGMForConditionalGeneration, folder: Path) -> None:
    import peft

    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    language_model: Any = model.language_model
    peft.get_peft_model(language_model, settings).save_pretrained(folder)
    others = {
        f"base_model.model.{to_published(name)}": value
        for name, value in model.state_dict().items()
        if name.startswith(("mining.", "projector."))
    }
    torch.save(others, folder / "non_lora_trainables.bin")


def damages(layout: str, folder: Path) -> Iterator[Damage]:
    """All damages of a checkpoint that `make_layout` wrote under `folder`."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.name == "README.md":
            continue
        name = file.relative_to(folder).as_posix()
        for kind, content in CONTENTS.items():
            yield Damage(layout, name, kind, lambda path, c=content: _rewrite(path, c))
        for kind, make in KINDS.items():
            yield Damage(layout, name, kind, lambda path, m=make: (path.unlink(), m(path)))
        if os.geteuid():
            yield Damage(layout, name, "unreadable", lambda path: path.chmod(0))
        if file.suffix == ".json":
            values = json.loads(file.read_text(encoding="utf-8"))
            for where, value in _fields(values):
                for other in OTHERS if not _is_number(value) else NUMBERS:
                    if repr(other) != repr(value):
                        field = ".".join(map(str, where))
                        yield Damage(
                            layout,
                            name,
                            f"{field} = {repr(other)[:20]}",
                            lambda path, w=where, o=other: _set_field(path, w, o),
                        )


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _is_number(value: object) -> bool:
    numbers = value if isinstance(value, list) and value else [value]
    return all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)


def _fields(values: object, above: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, object]]:
    """All fields, three levels deep; of long objects and lists the first two."""
    if not isinstance(values, dict | list) or len(above) > 2:
        return
    pairs = list(values.items() if isinstance(values, dict) else enumerate(values))
    for key, value in pairs[: 2 if len(pairs) > 80 or isinstance(values, list) else None]:
        yield (*above, key), value
        yield from _fields(value, (*above, key))


def _set_field(path: Path, where: tuple[Any, ...], value: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    part = content
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    path.write_text(json.dumps(content))


def fingerprint(folder: Path) -> str:
    """Load a checkpoint and generate answers; returns a hash of weights and answers."""
    engine = load(folder, device="cpu", dtype="float32")
    digest = hashlib.sha256()
    for name, tensor in sorted(engine.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    image = Image.radial_gradient("L").convert("RGB")
    answers = engine.answer(
        [Request("a b", [image], max_new_tokens=6), Request("c", max_new_tokens=6)]
    )
    engine.stop()
    texts = [answer.text for answer in answers]
    settings = [engine.model.generation_config.eos_token_id, engine.context_length]
    return digest.hexdigest() + repr(texts) + repr(settings)


def load_damaged(damage: Damage, source: Path, expected: str) -> Outcome:
    """The outcome of loading a damaged copy of `source` (of `make_layout`)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "c"
        shutil.copytree(source, folder)
        damage.apply(folder / damage.file)
        try:
            outputs = fingerprint(folder / "model")
        except MGMError as error:
            text = str(error)
            # If two files contradict each other, either may be named.
            between = "in its processor's settings; make them agree" in text
            if between or Path(damage.file).name in text or damage.name == "missing":
                return Outcome(REFUSED, text)
            return Outcome("file not named", text)
        except BaseException as error:  # noqa: BLE001 - what this looks for, panics too
            last = traceback.extract_tb(error.__traceback__)[-1]
            own = [f for f in traceback.extract_tb(error.__traceback__) if "/mgm/" in f.filename]
            at = f"{own[-1].filename.split('/mgm/')[-1]}:{own[-1].lineno}" if own else ""
            return Outcome(
                "traceback", f"{type(error).__name__}: {error} ({at} <- {last.filename})"[:300]
            )
        return Outcome(SAME if outputs == expected else OTHER, "")


def run_all(
    chosen: list[Damage], sources: dict[str, Path], processes: int = 1
) -> Iterator[tuple[Damage, Outcome]]:
    """Load every damaged checkpoint in a forked process with limits."""
    expected = {layout: fingerprint(folder / "model") for layout, folder in sources.items()}
    waiting = iter(chosen)
    running: dict[int, tuple[Damage, int, float]] = {}
    while True:
        for damage in itertools.islice(waiting, processes - len(running)):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                _child(damage, sources[damage.layout], expected[damage.layout], writer)
            os.close(writer)
            running[child] = (damage, reader, time.monotonic())
        if not running:
            return
        time.sleep(0.005)
        for child, (damage, reader, start) in list(running.items()):
            late = time.monotonic() - start > TIMEOUT
            if late:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0 if late else os.WNOHANG)
            if ended:
                del running[child]
                with os.fdopen(reader, encoding="utf-8", errors="replace") as stream:
                    outcome = stream.read()
                if late:
                    yield damage, Outcome("hang", f"longer than {TIMEOUT:g} s")
                elif not outcome:
                    yield damage, Outcome("died", f"status {status}")
                else:
                    yield damage, Outcome(*json.loads(outcome))


def _child(damage: Damage, source: Path, expected: str, writer: int) -> None:
    """The forked process: load, write the outcome, and exit without clean-up of the parent."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        outcome = load_damaged(damage, source, expected)
        os.write(writer, json.dumps([outcome.kind, outcome.text[:2000]]).encode())
    finally:
        os._exit(0)


def main() -> None:
    """Print damages that neither leave the model equal nor give an error that names the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", choices=LAYOUTS, action="append")
    parser.add_argument("--file", help="only of files whose path ends so")
    parser.add_argument("--field", default="", help="only damages whose name holds this")
    parser.add_argument("--count", type=int, help="so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="print what is refused too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        sources = {}
        for layout in args.layout or LAYOUTS:
            sources[layout] = Path(root) / layout
            sources[layout].mkdir()
            make_layout(layout, sources[layout])
        chosen = [
            damage
            for layout, folder in sources.items()
            for damage in damages(layout, folder)
            if damage.file.endswith(args.file or "") and args.field in damage.name
        ]
        random.Random(args.seed).shuffle(chosen)
        counts: dict[str, int] = {}
        for damage, outcome in run_all(chosen[: args.count], sources, args.processes):
            counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
            if args.all or outcome.kind not in (SAME, REFUSED):
                where = f"{damage.layout}/{damage.file}: {damage.name}"
                sys.stdout.write(f"{outcome.kind:14} {where}  {outcome.text}\n")
                sys.stdout.flush()
        sys.stdout.write(f"{counts}\n")


if __name__ == "__main__":
    main()
