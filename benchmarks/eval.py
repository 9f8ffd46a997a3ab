"""Questions per second of mgm.eval's runner and of a loop that works as the published scripts do.

    python -m benchmarks.eval [--images 125] [--questions 4] [--batch-size 32]
                              [--num-speculative-tokens 8]

The loop runs one question at a time, encodes the image again for each, and uses eager attention and
the published forms of CLIP and mining. Both decode greedily. Where responses differ, the smallest
difference of the two highest logits in the loop is printed. N-gram speculative decoding is off
unless `--num-speculative-tokens` is given. Writes benchmarks/results/eval.json.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import mgm
from benchmarks.published import eager_clip, eager_engine, image_features
from mgm.data.images.loading import open_image
from mgm.engine.scheduler.config import SchedulerConfig
from mgm.eval.harness.models import EngineModel
from mgm.eval.harness.question import Question
from mgm.eval.harness.response_cache import ResponseCache
from mgm.eval.harness.runner import cached_responses, generate_responses
from mgm.eval.registry import BENCHMARKS
from mgm.model.vision.image_views import ImageViews
from playground.generate import generate

ROOT = Path(__file__).parents[1]
NANO = ROOT / "playground" / "mgm-nano"
RESULTS = ROOT / "benchmarks" / "results" / "eval.json"


def main() -> None:
    """Run the benchmark; print and save the results."""
    parser = argparse.ArgumentParser(
        description="Questions per second of mgm.eval and of a published-style loop."
    )
    parser.add_argument("--images", type=int, default=125, help="number of images")
    parser.add_argument("--questions", type=int, default=4, help="questions per image")
    parser.add_argument("--batch-size", type=int, default=32, help="batch size of mgm")
    parser.add_argument(
        "--num-speculative-tokens",
        type=int,
        default=0,
        help="n-gram draft tokens per decode step of mgm; 0: no speculation; default: %(default)s",
    )
    parser.add_argument("--device", default=None, help="default: CUDA if available")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        questions = nano_questions(folder, options.images, options.questions)
        published, seconds = published_loop(questions, options.device)
        results: dict[str, Any] = {
            "questions": len(questions),
            "published": {"seconds": seconds, "questions_per_second": len(questions) / seconds},
        }
        print("published", json.dumps(results["published"]))
        engine = mgm.load(
            NANO,
            device=options.device,
            num_speculative_tokens=options.num_speculative_tokens,
            scheduler_config=SchedulerConfig.offline(options.batch_size),
        )
        warm_up(engine, questions)
        start_time = time.perf_counter()
        cache = ResponseCache(folder / "answers", "nano")
        generate_responses(questions, EngineModel(engine, options.batch_size), cache)
        seconds = time.perf_counter() - start_time
        ours = [one.text for one in cached_responses(questions, cache)]
        results["ours"] = {"seconds": seconds, "questions_per_second": len(questions) / seconds}
        print("ours", json.dumps(results["ours"]))
        differ = [n for n, text in enumerate(ours) if text != published[n][0]]
        results["ratio"] = results["published"]["seconds"] / results["ours"]["seconds"]
        results["same"] = 1 - len(differ) / len(questions)
        results["margins"] = [published[n][1] for n in differ]
    results["num_speculative_tokens"] = options.num_speculative_tokens
    results["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(f"{results['ratio']:.1f} times as fast, {results['same']:.1%} of the responses equal")
    for number in differ:
        print(f"  {published[number][0]!r}, ours {ours[number]!r}: {published[number][1]:.1e}")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def nano_questions(folder: Path, images: int, count: int) -> list[Question]:
    """Nano questions about generated images, `count` per image."""
    data = folder / "nano"
    generate(data, "held_out", 2 * images, seed=3, min_cap_height=12)
    by_image: dict[str, list[Question]] = {}
    for question in BENCHMARKS["nano"].questions(data, "held_out", "paper"):
        by_image.setdefault(question.group, []).append(question)
    groups = [group[:count] for group in by_image.values() if len(group) >= count][:images]
    return [question for group in groups for question in group]


@torch.inference_mode()
def published_loop(
    questions: list[Question], device: str | None
) -> tuple[list[tuple[str, float]], float]:
    """Responses of a loop over single questions with their `min_margin`, and its seconds."""
    engine = eager_engine(NANO, device)
    model: Any = engine.model
    processor = engine.processor
    clip, views = eager_clip(model.vision_tower), ImageViews.of(model.config)

    def respond(question: Question) -> tuple[str, float]:
        opened = [open_image(one, "image") for one in question.images]
        pixels = processor.image_processor(opened, do_normalize=False)["pixel_values_aux"]
        high = views.normalise(pixels.to(model.device))
        features = image_features(model, clip, views.low_resolution(high), high)
        prompt = engine.prompt(mgm.Request(question.text, images=opened))
        ids = torch.tensor([processor.encode(prompt)], device=model.device)
        settings: dict[str, Any] = {
            "input_ids": ids,
            "image_features": features,
            "max_new_tokens": question.max_new_tokens,
            "do_sample": False,
            "output_scores": True,
            "return_dict_in_generate": True,
        }
        output = model.generate(**settings)
        text = processor.tokenizer.decode(output.sequences[0, ids.shape[1] :], True)
        return text.strip(), min_margin(output.scores)

    respond(questions[0])
    start_time = time.perf_counter()
    responses = [respond(question) for question in tqdm(questions, "published")]
    return responses, time.perf_counter() - start_time


def min_margin(scores: tuple[Tensor, ...]) -> float:
    """The smallest difference of the two highest logits over all steps."""
    pairs = torch.cat(scores).float().topk(2).values
    return float((pairs[:, 0] - pairs[:, 1]).min())


def warm_up(engine: mgm.Engine, questions: list[Question]) -> None:
    """Warm up with an image that is in no question."""
    image = open_image(questions[0].images[0], "image").rotate(90)
    engine.answer([mgm.Request(questions[0].text, images=[image], max_new_tokens=4)])


if __name__ == "__main__":
    main()
