"""Throughput and TTFT of chats about images: mgm's worker and one in the design of the published.

    python -m benchmarks.serve [--users 16] [--rounds 3] [--num-speculative-tokens 8] [--soak 60]

Each user has chats of two turns about an image. Both workers get the same requests through the
published endpoint, one worker after the other. N-gram speculative decoding is off unless
`--num-speculative-tokens` is given. `--soak` then runs `benchmarks.serve_soak` for that many
minutes. Writes benchmarks/results/serve.json, with the settings.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from PIL import Image

import mgm
from benchmarks.serve_soak import soak

ROOT = Path(__file__).parents[1]
NANO = ROOT / "playground" / "mgm-nano"
IMAGES = sorted((ROOT / "images").glob("*.png"))
RESULTS = ROOT / "benchmarks" / "results" / "serve.json"
QUESTIONS = ("Describe the image in detail.", "What does the top line say?", "What is in it?")
LIMIT = 64  # maximum tokens of an answer
OURS = ("mgm.serve.model_worker", "--no-register")
PUBLISHED = ("benchmarks.published_worker",)
Answer = dict[str, Any]


def main() -> None:
    """Run the benchmark; print and save the results."""
    parser = argparse.ArgumentParser(
        description="Throughput and TTFT of mgm's worker and a published-style one."
    )
    parser.add_argument("--users", type=int, default=16, help="concurrent users")
    parser.add_argument("--rounds", type=int, default=3, help="chats per user")
    parser.add_argument(
        "--num-speculative-tokens",
        type=int,
        default=0,
        help="drafted tokens of mgm's worker; default: %(default)s",
    )
    parser.add_argument("--soak", type=float, default=0, help="minutes of the soak test; 0: none")
    options = parser.parse_args()
    engine = mgm.load(NANO)
    results: dict[str, Any] = {}
    ours = (*OURS, "--num-speculative-tokens", str(options.num_speculative_tokens))
    for name, arguments in (("published", PUBLISHED), ("ours", ours)):
        with worker(arguments) as (address, _):
            asyncio.run(chats(address, engine, unique_images(2, 1, salt=1), salt=1))  # warm-up
            images = unique_images(options.users, options.rounds, salt=0)
            start_time = time.perf_counter()
            answers = asyncio.run(chats(address, engine, images, salt=0))
            results[name] = figures(answers, time.perf_counter() - start_time)
        print(name, json.dumps(results[name]))
    results["ratios"] = ratios(results["ours"], results["published"])
    print("ratios", json.dumps(results["ratios"]))
    if options.soak:
        results["soak"] = soak(options.soak, options.users)
        print("soak", json.dumps(results["soak"]))
    results["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "users": options.users,
        "rounds": options.rounds,
    }
    results["num_speculative_tokens"] = options.num_speculative_tokens
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


@contextmanager
def worker(arguments: Sequence[str]) -> Generator[tuple[str, psutil.Process]]:
    """Start a worker; yields its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", *arguments, "--model-path", str(NANO), "--port", port]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        address = f"http://localhost:{port}"
        asyncio.run(wait_until_up(address))
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


async def wait_until_up(address: str) -> None:
    """Wait until a worker responds."""
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{address}/health"):
                    return
            await asyncio.sleep(0.2)


def unique_images(users: int, rounds: int, salt: int) -> list[list[bytes]]:
    """A different image for each chat of each user, so that caches never hit across chats."""
    return [[unique_image(user, turn, salt) for turn in range(rounds)] for user in range(users)]


def unique_image(user: int, turn: int, salt: int) -> bytes:
    """A PNG file with a pixel that makes it unique."""
    content = io.BytesIO()
    with Image.open(IMAGES[(user + turn) % len(IMAGES)]) as image:
        image = image.convert("RGB")
    image.putpixel((0, 0), (user % 256, turn % 256, salt))
    image.save(content, "PNG")
    return content.getvalue()


async def chats(
    address: str, engine: mgm.Engine, images: list[list[bytes]], salt: int
) -> list[Answer]:
    """Answers to all users, who send a request when the previous answer is complete."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def user(number: int) -> list[Answer]:
            answers = []
            for image in images[number]:
                answers += await chat(session, address, engine, image, QUESTIONS[number % 3])
            return answers

        answers_by_user = await asyncio.gather(*[user(number) for number in range(len(images))])
        alone = await chat(session, address, engine, unique_image(0, 255, salt), QUESTIONS[0])
        for answer in alone:
            answer["alone"] = True
        answers_by_user.append(alone)
    return list(itertools.chain(*answers_by_user))


async def chat(
    session: aiohttp.ClientSession, address: str, engine: mgm.Engine, image: bytes, question: str
) -> list[Answer]:
    """A chat of two turns about one image."""
    history: list[tuple[str, str]] = []
    answers = []
    for turn, text in enumerate((question, "Are you sure?")):
        request = mgm.Request(text, images=[image], history=history)
        body = {
            "model": NANO.name,
            "prompt": engine.prompt(request),
            "images": [base64.b64encode(image).decode()],
            "temperature": 0,
            "max_new_tokens": LIMIT,
        }
        answer = await ask(session, address, body)
        answer["turn"] = turn
        answer["tokens"] = len(engine.processor.tokenizer.encode(answer["text"]))
        answers.append(answer)
        history.append((text, answer["text"]))
    return answers


async def ask(session: aiohttp.ClientSession, address: str, body: dict[str, Any]) -> Answer:
    """The text of an answer, with the seconds to its first chunk and to its end."""
    start_time, first, last = time.perf_counter(), None, b""
    async with session.post(f"{address}/worker_generate_stream", json=body) as response:
        content = b""
        async for chunk in response.content.iter_any():
            content += chunk
            *whole, content = content.split(b"\0")
            if whole:
                last = whole[-1]
                has_text = len(json.loads(last)["text"]) > len(body["prompt"])
                if first is None and has_text:
                    first = time.perf_counter() - start_time
    end = time.perf_counter() - start_time
    text = json.loads(last)["text"] if last else body["prompt"]
    return {"text": text[len(body["prompt"]) :], "first": first or end, "end": end}


def figures(answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Throughput, TTFT and texts of a run."""
    together = [answer for answer in answers if "alone" not in answer]
    alone = [answer["first"] for answer in answers if "alone" in answer]
    first = [answer["first"] for answer in together]
    return {
        "seconds": seconds,
        "answers": len(together),
        "tokens_per_second": sum(answer["tokens"] for answer in answers) / seconds,
        "first_token_median": statistics.median(first),
        "first_token_p95": statistics.quantiles(first, n=20)[-1],
        "first_turn_alone": alone[0],
        "second_turn_alone": alone[1],
        "texts": [answer["text"] for answer in answers],
    }


def ratios(ours: dict[str, Any], published: dict[str, Any]) -> dict[str, float]:
    """Ratios of mgm to the published design; removes the texts from both."""
    pairs = zip(ours.pop("texts"), published.pop("texts"), strict=True)
    return {
        "tokens_per_second": ours["tokens_per_second"] / published["tokens_per_second"],
        "first_token_p95": ours["first_token_p95"] / published["first_token_p95"],
        "second_turn": ours["second_turn_alone"] / ours["first_turn_alone"],
        "same_answers": statistics.mean(one == other for one, other in pairs),
    }


if __name__ == "__main__":
    main()
