"""Compare the answers of vLLM's OpenAI server with those of our engine, token by token.

    python scripts/vllm/compare.py [--model FOLDER] [--tensor-parallel N]

Needs an environment with vLLM, see `scripts/vllm/test.sh`. Exits with status 1 if answers differ.
"""

import argparse
import base64
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from pathlib import Path

import openai
import torch

import mgm
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.processing_mgm import MGMProcessor

ROOT = Path(__file__).parents[2]
NANO = ROOT / "playground" / "mgm-nano"
START_SECONDS = 400.0  # timeout for the start of the server
TOKENS = 32  # maximum tokens of an answer
# Names of images of the repository, and a conversation about them that ends with a question.
CONVERSATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("receipt",), ("What is the total?",)),
    (("receipt",), ("Which item costs $6.90?",)),
    (("sign",), ("What does the top line say?",)),
    (("shapes",), ("How many red circles are there?",)),
    (("table",), ("Describe the image.",)),
    (("bar_chart",), ("Which bar is the tallest?",)),
    (("emoji",), ("What is in the picture?",)),
    (("pair_a", "pair_b"), ("What is different?",)),
    (("sign", "receipt"), ("Which shop is it?",)),
    (("receipt",), ("What is the total?", "The total is $18.50.", "How much is the honey?")),
    ((), ("hello",)),
)


def main() -> int:
    """Compare all answers; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compare vLLM's answers with our engine's.")
    parser.add_argument("--model", type=Path, default=NANO, help="default: the nano model")
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="tensor-parallel size of vLLM"
    )
    parser.add_argument(
        "--hd", action="store_true", help="split images into crops, as HD models do"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = _as_hd(options.model, Path(temporary) / "hd") if options.hd else options.model
        engine = mgm.load(folder, device="cpu", dtype="float32")
        with _server(folder, options.tensor_parallel) as address:
            client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=120)
            equal = [_compare(client, engine, *conversation) for conversation in CONVERSATIONS]
    print(f"{sum(equal)} of {len(equal)} answers are the same")
    return 0 if all(equal) else 1


def _compare(
    client: openai.OpenAI, engine: mgm.Engine, images: Sequence[str], texts: Sequence[str]
) -> bool:
    """Send a question to both, and print their answers; returns whether they are equal."""
    files = [ROOT / "images" / f"{name}.png" for name in images]
    *before, question = texts
    history = list(zip(before[::2], before[1::2], strict=True))
    request = mgm.Request(question, images=files, history=history, max_new_tokens=TOKENS)
    (ours,) = engine.answer([request])
    parts = [{"type": "image_url", "image_url": {"url": _data_url(file)}} for file in files]
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(texts)
    ]
    messages[0]["content"] = [*parts, {"type": "text", "text": texts[0]}]
    completion = client.chat.completions.create(
        model="model",
        messages=messages,  # ty: ignore[invalid-argument-type]
        temperature=0,
        max_tokens=TOKENS,
        extra_body={"return_token_ids": True, "skip_special_tokens": True},
    )
    theirs = list(completion.choices[0].model_extra["token_ids"])  # ty: ignore[not-subscriptable]
    if completion.choices[0].finish_reason == "stop":
        theirs = theirs[:-1]  # without the stop token
    equal = theirs == list(ours.tokens)
    prompt = completion.usage.prompt_tokens if completion.usage else 0
    equal = equal and prompt == ours.prompt_tokens
    print(f"{'same' if equal else 'DIFFERENT'}: {question} -> {ours.text!r}")
    if not equal:
        print(f"  vLLM: {completion.choices[0].message.content!r}, {prompt} prompt tokens")
        print(f"  ours: {ours.text!r}, {ours.prompt_tokens} prompt tokens")
    return equal


def _as_hd(model: Path, folder: Path) -> Path:
    """Write the model with an HD configuration: four crops and a global view, at twice the size."""
    loaded = mgm.MGMForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    config, processor = loaded.config, MGMProcessor.from_pretrained(model)
    config.image_grid, config.image_global = 2, True
    config.image_size_aux *= 2
    images = processor.image_processor
    settings = {
        name: getattr(images, name)
        for name in ("image_size", "image_mean", "image_std", "image_mean_aux", "image_std_aux")
    }
    processor.image_processor = MGMImageProcessor(
        image_size_aux=2 * images.image_size_aux, image_grid=2, image_global=True, **settings
    )
    loaded.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def _server(folder: Path, parallel: int) -> Generator[str]:
    """Run vLLM's server for a model; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        *("--model", str(folder), "--served-model-name", "model", "--dtype", "float32"),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048"),
        *("--limit-mm-per-prompt", '{"image": 2}', "--tensor-parallel-size", str(parallel)),
        "--enforce-eager",
    ]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if parallel > 1:  # bind each process to a core; by default vLLM needs a NUMA node for each
        settings["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(parallel)))
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words],
        env=os.environ | settings,
        start_new_session=True,
    )
    try:
        _wait(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"vLLM's server exited with status {process.returncode}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/health", timeout=2).close()
            return
        time.sleep(1)
    raise SystemExit(f"vLLM's server did not start within {START_SECONDS:.0f} s")


def _data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


if __name__ == "__main__":
    sys.exit(main())
