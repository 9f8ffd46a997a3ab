"""Decode throughput in tokens per second: mgm, eager and compiled, and transformers' `generate`.

    python -m benchmarks.decode [--device cuda]           random weights of MGM-7B's size
    python -m benchmarks.decode --device cpu --nano       the nano model, to test the program

All variants decode the same number of tokens after the same prompt with one image. Time to first
token (TTFT) starts from the bytes of a JPEG. The upper limit at batch size 1 is the measured memory
bandwidth over the bytes of the weights. Writes benchmarks/results/decode.json.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import mgm
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.text.stop_criteria import StopCriteria
from mgm.engine.core.sequence import Sequence
from mgm.engine.core.token_bytes import TokenBytes
from mgm.engine.engine import Engine
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.ops.attention import override_attention

ROOT = Path(__file__).parents[1]
NANO = ROOT / "playground" / "mgm-nano"
RESULTS = ROOT / "benchmarks" / "results" / "decode.json"
VICUNA = ROOT / "scripts" / "llama" / "vicuna-7b.json"
BATCH_SIZE = 16
REPEATS = 3


def main() -> None:
    """Run the benchmark; print and save the results."""
    parser = argparse.ArgumentParser(description="Decode throughput, eager and compiled.")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--nano", action="store_true", help="use the nano model of playground/")
    parser.add_argument("--tokens", type=int, default=256, help="tokens decoded per sequence")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: no CUDA device; use --device cpu --nano")
    # No speculative decoding: random weights repeat tokens, so that every n-gram draft is accepted.
    engine = mgm.load(NANO, device=options.device) if options.nano else large(options.device)
    results: dict[str, Any] = {"tokens": options.tokens, "users": BATCH_SIZE}
    results["limit_tokens_per_second"] = limit(engine.model)
    results["first_token_seconds"] = median_time(lambda: first_token(engine))
    results["eager"] = {
        "alone": rate(lambda: generate_seconds(engine, options.tokens), options.tokens)
    }
    for name in ("ours", "compiled"):
        if name == "compiled":
            start_time = time.perf_counter()
            engine.compile_decode()
            results["compile_seconds"] = time.perf_counter() - start_time
        results[name] = {
            "alone": rate(lambda: decode_seconds(engine, 1, options.tokens), options.tokens),
            "together": rate(
                lambda: decode_seconds(engine, BATCH_SIZE, options.tokens),
                BATCH_SIZE * options.tokens,
            ),
        }
        print(name, json.dumps(results[name]), flush=True)
    results["machine"] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "model": "nano" if options.nano else "7B, random weights",
        "dtype": str(engine.model.dtype),
        "torch": torch.__version__,
    }
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def large(device: str) -> Engine:
    """A model of MGM-7B's size with random weights, and the nano model's tokenizer."""
    sizes = json.loads(VICUNA.read_text(encoding="utf-8"))
    config = MGMConfig(text_config=sizes, vision_aux_config={}, image_token_id=31999)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = MGMForConditionalGeneration(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    nano = MGMProcessor.from_pretrained(NANO)
    processor = MGMProcessor(
        type(nano.image_processor)(image_size_aux=config.image_size_aux),
        nano.tokenizer,
        conversation=nano.conversation,
        image_token_id=config.image_token_id,
        patch_size=config.pixels_per_token,
    )
    return Engine(model, processor)


def limit(model: MGMForConditionalGeneration) -> float:
    """Tokens per second at batch size 1 if only reading the weights of the LM took time."""
    device = model.device
    block = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)

    def read_block() -> float:
        start_time = time.perf_counter()
        block.sum().item()
        return time.perf_counter() - start_time

    bandwidth = block.nbytes / median_time(read_block)
    weight_bytes = sum(parameter.nbytes for parameter in model.language_model.parameters())
    if not model.config.text_config.tie_word_embeddings:  # a step reads one row of the embeddings
        weight_bytes -= sum(
            parameter.nbytes for parameter in model.get_input_embeddings().parameters()
        )
    return bandwidth / weight_bytes


def sequences(engine: Engine, count: int, tokens: int) -> list[Sequence]:
    """Sequences with one image and random prompt tokens, without stop tokens."""
    config, draw = engine.model.config, np.random.default_rng(0)
    width = config.text_config.hidden_size
    features = torch.zeros(
        config.image_tokens_per_image, width, device=engine.model.device, dtype=engine.model.dtype
    )
    vocabulary = TokenBytes(engine.processor.tokenizer)
    stops = StopCriteria(frozenset(), ())
    made = []
    for number in range(count):
        ids = [5] * 35 + [config.image_token_id] * len(features)
        ids += draw.integers(10, 600, 25).tolist()
        token_keys = np.array(ids)
        token_keys[35 : 35 + len(features)] = -1 - number  # a different image for each
        request = mgm.Request("x", max_new_tokens=tokens)
        made.append(Sequence(request, ids, token_keys, [features], vocabulary, stops, tokens))
    return made


def decode_seconds(engine: Engine, count: int, tokens: int) -> float:
    """Seconds to decode `tokens` tokens of each of `count` sequences, without prefill."""
    answers = sequences(engine, count, tokens)
    engine.scheduler.prefix_cache.capacity = 0
    for answer in answers:
        engine.scheduler.add(answer)
    while engine.scheduler.waiting or engine.scheduler.prefiller.prefilling:
        engine.scheduler.step()
    before = sum(len(answer.output_ids) for answer in answers)
    synchronize(engine)
    start_time = time.perf_counter()
    while engine.scheduler.busy:
        engine.scheduler.step()
    synchronize(engine)
    seconds = time.perf_counter() - start_time
    return seconds * count * tokens / (count * tokens - before)


@torch.inference_mode()
def generate_seconds(engine: Engine, tokens: int) -> float:
    """Seconds of transformers' `generate` for `tokens` tokens, with eager attention."""
    (answer,) = sequences(engine, 1, tokens)
    model: Any = engine.model
    settings: dict[str, Any] = {
        "input_ids": torch.tensor([answer.prompt_ids], device=model.device),
        "image_features": torch.stack(answer.image_features),
        "do_sample": False, "eos_token_id": None,
    }  # fmt: skip
    times = []
    with override_attention(model.language_model.config, "eager"):
        for count in (1, tokens + 1):
            synchronize(engine)
            start_time = time.perf_counter()
            model.generate(**settings, max_new_tokens=count, min_new_tokens=count)
            synchronize(engine)
            times.append(time.perf_counter() - start_time)
    return times[1] - times[0]


def first_token(engine: Engine) -> float:
    """Seconds from the bytes of a JPEG to the first token."""
    pixels = np.random.default_rng(time.perf_counter_ns()).integers(0, 255, (768, 1024, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
    synchronize(engine)
    start_time = time.perf_counter()
    features = engine.images.encode([file.getvalue()])
    (answer,) = sequences(engine, 1, 4)
    answer.image_features = tuple(features)
    engine.scheduler.add(answer)
    while not answer.output_ids:
        engine.scheduler.step()
    seconds = time.perf_counter() - start_time
    engine.scheduler.cancel(answer)
    return seconds


def rate(run: Callable[[], float], tokens: int) -> float:
    """Tokens per second of a function that returns its seconds."""
    return tokens / median_time(run)


def median_time(run: Callable[[], float]) -> float:
    """Median of the seconds that `run` returns, after one warm-up run."""
    run()
    return statistics.median(run() for _ in range(REPEATS))


def synchronize(engine: Engine) -> None:
    """Wait until all kernels on the device have finished."""
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
