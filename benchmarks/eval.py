"""Short-answer questions, several to an image, asked by our runner and by a published-shaped loop.

    python -m benchmarks.eval [--images 125] [--questions 4] [--batch-size 32]
                              [--num-speculative-tokens 8]

The loop asks one question after the other, encodes its image each time, and writes attention out;
CLIP and mining are as published. Both answer the same questions greedily. Where answers differ, the
loop's own logits say how near the two best words were. Ours decodes without n-gram drafts unless
`--num-speculative-tokens` says otherwise. Writes benchmarks/results/eval.json, which states it.
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
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Questions about images, by two ways to ask.")
    parser.add_argument("--images", type=int, default=125)
    parser.add_argument("--questions", type=int, default=4, help="about each image")
    parser.add_argument("--batch-size", type=int, default=32, help="of ours")
    parser.add_argument(
        "--num-speculative-tokens", type=int, default=0, help="of ours; default: %(default)s"
    )
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        questions = drawn(folder, options.images, options.questions)
        published, seconds = loop(questions, options.device)
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
        warm(engine, questions)
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
    print(f"{results['ratio']:.1f} times as fast, {results['same']:.1%} the same")
    for number in differ:
        print(f"  {published[number][0]!r}, ours {ours[number]!r}: {published[number][1]:.1e}")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def drawn(folder: Path, images: int, count: int) -> list[Question]:
    """Questions about pictures that are drawn, `count` to each."""
    made = folder / "nano"
    generate(made, "held_out", 2 * images, seed=3)
    kept: dict[str, list[Question]] = {}
    for question in BENCHMARKS["nano"].questions(made, "held_out", "paper"):
        kept.setdefault(question.group, []).append(question)
    full = [group[:count] for group in kept.values() if len(group) >= count][:images]
    return [question for group in full for question in group]


@torch.inference_mode()
def loop(questions: list[Question], device: str | None) -> tuple[list[tuple[str, float]], float]:
    """Answers one by one with their least margin between the two best words, and the seconds."""
    engine = eager_engine(NANO, device)
    model: Any = engine.model
    processor = engine.processor
    clip, views = eager_clip(model.vision_tower), ImageViews.of(model.config)

    def ask(question: Question) -> tuple[str, float]:
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

    ask(questions[0])
    start_time = time.perf_counter()
    answers = [ask(question) for question in tqdm(questions, "published")]
    return answers, time.perf_counter() - start_time


def min_margin(scores: tuple[Tensor, ...]) -> float:
    """Between the two best words of a step, the smallest of all steps."""
    pairs = torch.cat(scores).float().topk(2).values
    return float((pairs[:, 0] - pairs[:, 1]).min())


def warm(engine: mgm.Engine, questions: list[Question]) -> None:
    """Do what is only done once, about an image that nobody asks for."""
    image = open_image(questions[0].images[0], "image").rotate(90)
    engine.answer([mgm.Request(questions[0].text, images=[image], max_new_tokens=4)])


if __name__ == "__main__":
    main()
