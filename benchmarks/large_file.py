"""Time to first response and memory of mgm.eval for a question file with 100,000 questions.

    python -m benchmarks.large_file [--questions 100000] [--images 2000] [--answers 300]

Runs `python -m mgm.eval` on questions in GQA's layout, once with few and once with all of them,
until `--answers` responses are written, and compares the peak memory. Writes
benchmarks/results/large_file.json.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
NANO = ROOT / "playground" / "mgm-nano"
RESULTS = ROOT / "benchmarks" / "results" / "large_file.json"
FEW = 40


def main() -> None:
    """Run the benchmark; print and save the results."""
    parser = argparse.ArgumentParser(
        description="mgm.eval on a question file with very many questions."
    )
    parser.add_argument("--questions", type=int, default=100_000, help="questions in the file")
    parser.add_argument("--images", type=int, default=2_000, help="number of images")
    parser.add_argument("--answers", type=int, default=300, help="stop after this many responses")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        few, many = Path(temporary) / "few", Path(temporary) / "many"
        write(few, FEW, 10)
        write(many, options.questions, options.images)
        alone = measure(few, FEW)
        results = measure(many, options.answers)
    result = {
        "questions": options.questions,
        "images": options.images,
        "answers": options.answers,
        "seconds_to_first_answer": results["first"],
        "seconds_to_first_answer_of_few": alone["first"],
        "megabytes_beyond_the_model": (results["memory"] - alone["memory"]) / 1e6,
        "cores": psutil.cpu_count(),
    }
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def write(data: Path, questions: int, images: int) -> None:
    """Write a question file, targets and images in GQA's layout."""
    folder = data / "gqa"
    image_folder = folder / "data" / "images"
    image_folder.mkdir(parents=True)
    drawn = random.Random(0)
    for number in range(images):
        colour = tuple(drawn.randrange(256) for _ in range(3))
        Image.new("RGB", (320, 240), colour).save(image_folder / f"{number}.jpg")
    targets = {
        str(number): {"answer": "red", "types": {"structural": "query"}}
        for number in range(questions)
    }
    (folder / "data" / "testdev_balanced_questions.json").write_text(json.dumps(targets))
    with (folder / "llava_gqa_testdev_balanced.jsonl").open("w") as file:
        for number in range(questions):
            text = f"Which colour is part {number}?\nAnswer the question using a single word."
            record = {"question_id": str(number), "image": f"{number % images}.jpg", "text": text}
            file.write(json.dumps(record) + "\n")


def measure(data: Path, answers: int) -> dict[str, Any]:
    """Seconds from the start of mgm.eval to its first response, and its peak memory in bytes."""
    output = data / "out"
    start_time = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mgm.eval", "--model-path", str(NANO), "--benchmark", "gqa"),
            *("--data-dir", str(data), "--output-dir", str(output)),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    observed, first, memory = psutil.Process(process.pid), 0.0, 0
    file = output / "answers" / "answers-0.jsonl"
    while process.poll() is None:
        memory = max(memory, observed.memory_info().rss)
        written = file.read_bytes().count(b"\n") if file.is_file() else 0
        if written and not first:
            first = time.perf_counter() - start_time
        if written >= answers:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    return {"first": first, "memory": memory}


if __name__ == "__main__":
    main()
