"""Peak memory and time of loading a checkpoint, for each format of its weight files.

    python -m benchmarks.loading [--gigabytes 3]

Saves a Mini-Gemini with random weights in the published layout in each format (safetensors and
PyTorch, sharded and not), loads each in a fresh process and reports how far the peak resident
memory (RSS) is above that before loading. The project's limit is the size of the model plus 2 GB.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import mgm
from mgm.model.checkpoint.checkpoint import read_checkpoint
from mgm.model.loading import load_model
from mgm.model.published_layout.weight_names import to_published

GB = 1e9
FLAT = {
    "model_type": "mgm",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "image_aspect_ratio": "pad",
    "image_size_aux": 768,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "none",
    "mm_vision_tower_aux": "none",
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}


def main() -> None:
    """Write, load and report every format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the checkpoint")
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder for the checkpoints; default: a temporary one",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        shards = make(folder / "shards", arguments.gigabytes * GB)
        print(f"{'files':12} {'as':9} {'model GB':>9} {'peak GB':>9} {'over GB':>9} {'s':>6}")
        for kind in ("safetensors", "one file", "bin", "one bin"):
            source = shards if kind == "safetensors" else folder / kind.replace(" ", "_")
            if source != shards:
                rewrite(shards, source, kind)
            for dtype in ("bfloat16", "float32"):
                report(kind, dtype, source)
            if source != shards:
                shutil.rmtree(source)


def make(folder: Path, size: float) -> Path:
    """Write a sharded checkpoint of `size` bytes with random weights and published names."""
    folder.mkdir()
    layers = 1
    while True:
        flat = FLAT | {"num_hidden_layers": layers}
        config = mgm.MGMConfig.from_dict(flat | {"mm_vision_tower_aux": "published"})
        with torch.device("meta"):
            model = mgm.MGMForConditionalGeneration(config)
        parameters = dict(model.named_parameters())
        if sum(parameter.numel() for parameter in parameters.values()) * 2 >= size:
            break
        layers += 1
    (folder / "config.json").write_text(json.dumps(flat))
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    names = list(parameters)
    for name in names:
        shard[to_published(name)] = torch.randn(parameters[name].shape).mul_(0.02).bfloat16()
        shard_bytes = sum(tensor.nbytes for tensor in shard.values())
        if shard_bytes > size / 4 or name == names[-1]:
            file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def rewrite(source: Path, folder: Path, kind: str) -> None:
    """Save the same weights in another format."""
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    stored = read_checkpoint(source).tensors
    weights = {to_published(name): tensor.read() for name, tensor in stored.items()}
    if kind == "one file":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif kind == "one bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        weight_map = {}
        for part in range(3):
            file = f"pytorch_model-{part}.bin"
            names = list(weights)[part::3]
            torch.save({name: weights[name] for name in names}, folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def report(kind: str, dtype: str, folder: Path) -> None:
    """Load in a fresh process and print a row of the table."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=measure, args=(folder, dtype, queue))
    process.start()
    size, peak, seconds = queue.get()
    process.join()
    over = peak - size
    print(
        f"{kind:12} {dtype:9} {size / GB:9.2f} {peak / GB:9.2f} {over / GB:9.2f} {seconds:6.1f}",
        flush=True,
    )


def measure(folder: Path, dtype: str, queue: Any) -> None:
    """Load; puts the size of the model, the peak memory (bytes) and the seconds into `queue`."""
    before = peak_memory()
    start = time.perf_counter()
    model = load_model(folder, dtype=dtype)
    seconds = time.perf_counter() - start
    peak = peak_memory()
    size = sum(parameter.nbytes for parameter in model.parameters())
    queue.put((size, peak - before, seconds))


def peak_memory() -> int:
    """Peak resident memory of the process in bytes, mapped files included (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status: this benchmark needs Linux")


if __name__ == "__main__":
    main()
