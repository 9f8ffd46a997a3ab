"""Soak test of controller and worker: regular traffic beside malformed and abusive requests.

    python -m benchmarks.serve_soak [--minutes 60] [--users 12]

Regular users send requests in bursts 5 seconds apart, when servers close idle keep-alive
connections; others request long answers meanwhile, streamed and not. In every round abusive clients
send malformed bodies, disconnect early, or send slowly. Every regular request must succeed, with
the same answer each time. Writes benchmarks/results/serve_soak.json; the exit status is 1 if a
request failed.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).parents[1]
NANO = ROOT / "playground" / "mgm-nano"
IMAGES = sorted((ROOT / "images").glob("*.png"))
RESULTS = ROOT / "benchmarks" / "results" / "serve_soak.json"
CHAT = "/v1/chat/completions"
ROUND = 5.0  # seconds; uvicorn's default keep-alive timeout
LONG = 400  # tokens of a long answer
LONE_SURROGATE = b'{"model": "mgm-nano", "messages": [{"role": "user", "content": "\\ud800"}]}'
Send = Callable[["Soak"], Coroutine[Any, Any, None]]


class Soak:
    """Sends requests, and counts responses and failures.

    Args:
        session: HTTP session of all clients.
        controller: address of the controller.
        slow_site: address of a server that sends one byte per second.
        end_tokens: stop tokens of the model, banned in long answers.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        controller: str,
        slow_site: str,
        end_tokens: Sequence[int],
    ) -> None:
        self.session, self.controller, self.slow_site = session, controller, slow_site
        self.ban = {str(token): -100 for token in end_tokens}
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.expected: dict[str, str] = {}
        self.seconds: list[float] = []

    def count(self, kind: str, failure: str | None = None) -> None:
        """Count a request, and keep the reason of a failure."""
        self.counts[kind] += 1
        if failure is not None:
            self.failures.append(f"{kind}: {failure[:300]}")

    async def ask(self, kind: str, body: dict[str, Any]) -> None:
        """Send a regular request; its answer must be the same every time."""
        key = json.dumps(body)
        start_time = time.monotonic()
        try:
            text = await (self._streamed(body) if body.get("stream") else self._whole(body))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            self.count(kind, f"{type(error).__name__}: {error}")
            return
        if kind == "short":
            self.seconds.append(time.monotonic() - start_time)
        same = self.expected.setdefault(key, text) == text
        self.count(kind, None if same else f"{text!r} instead of {self.expected[key]!r}")

    async def _whole(self, body: dict[str, Any]) -> str:
        async with self.session.post(self.controller + CHAT, json=body) as response:
            answer = await response.json()
            if response.status != 200:
                raise ValueError(f"{response.status} {answer}")
        return "\n".join(choice["message"]["content"] for choice in answer["choices"])

    async def _streamed(self, body: dict[str, Any]) -> str:
        texts: Counter[int] = Counter()
        parts: dict[int, str] = {}
        complete = False
        async with self.session.post(self.controller + CHAT, json=body) as response:
            if response.status != 200:
                raise ValueError(f"{response.status} {await response.text()}")
            async for line in response.content:
                event = line.decode().removeprefix("data:").strip()
                complete = complete or event == "[DONE]"
                if not event or complete:
                    continue
                for choice in json.loads(event)["choices"]:
                    texts[choice["index"]] += 1
                    content = choice["delta"].get("content") or ""
                    parts[choice["index"]] = parts.get(choice["index"], "") + content
        if not complete:
            raise ValueError("the stream ended without [DONE]")
        return "\n".join(parts[number] for number in sorted(parts))

    async def refused(
        self, kind: str, path: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        """Send an invalid request, which must get a client error (4xx)."""
        headers = {"Content-Type": "application/json"} | (headers or {})
        try:
            url = self.controller + path
            async with self.session.post(url, data=content, headers=headers) as response:
                text, status = await response.text(), response.status
            self.count(kind, None if 400 <= status < 500 else f"{status} {text}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.count(kind, f"{type(error).__name__}: {error}")


def chat(text: str, images: Sequence[bytes] = (), **more: Any) -> dict[str, Any]:
    """The body of a chat completion with greedy sampling."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for image in images:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    messages = [{"role": "user", "content": parts if images else text}]
    return {"model": NANO.name, "messages": messages, "temperature": 0, "max_tokens": 8} | more


async def regular_round(soak: Soak, users: int, number: int) -> None:
    """A burst, a pause, and a burst just as idle connections close."""
    draw = random.Random(number % 20)

    async def user(delay: float) -> None:
        await asyncio.sleep(delay)
        question = draw.choice(("Hello", "What does the top line say?", "Describe the image."))
        images = [IMAGES[draw.randrange(len(IMAGES))].read_bytes()] * draw.choice((0, 0, 1, 2))
        more: dict[str, Any] = draw.choice(
            (
                {},
                {"stream": True},
                {"logprobs": True, "top_logprobs": 2},
                {"n": 2, "stream": True, "seed": 1, "temperature": 1},
                {"structured_outputs": {"choice": ["yes", "no"]}},
            )
        )
        await soak.ask("short", chat(question, images, **more))

    await asyncio.gather(*(user(0) for _ in range(users)))
    await asyncio.sleep(ROUND - 0.1)
    await asyncio.gather(*(user(index * 0.012) for index in range(2 * users)))


async def long_answers(soak: Soak, stream: bool, until: float) -> None:
    """Request one long answer after the other."""
    while time.monotonic() < until:
        body = chat("Tell me more.", max_tokens=LONG, logit_bias=soak.ban, stream=stream)
        await soak.ask("long, streamed" if stream else "long", body)


async def leave(soak: Soak) -> None:
    """Request a long answer and disconnect."""
    for stream in (False, True):
        body = chat("Tell me all.", max_tokens=LONG, logit_bias=soak.ban, stream=stream)
        with suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(0.3):
                await soak.session.post(soak.controller + CHAT, json=body)
        soak.count("left")


async def drip(soak: Soak) -> None:
    """Request images from a slow server."""
    image = {"type": "image_url", "image_url": {"url": f"{soak.slow_site}/{secrets.token_hex(4)}"}}
    body = chat("What is it?") | {"messages": [{"role": "user", "content": [image]}]}
    content = json.dumps(body).encode()
    await asyncio.gather(*(soak.refused("slow site", CHAT, content) for _ in range(4)))


async def malformed(soak: Soak) -> None:
    """Send malformed bodies of every kind."""
    empty = {"model": NANO.name, "prompt": "", "max_tokens": 5}
    broken = chat("What is it?", [b"\x89PNG\r\n\x1a\n broken"])
    await soak.refused("empty prompt", "/v1/completions", json.dumps(empty).encode())
    await soak.refused("lone surrogate", CHAT, LONE_SURROGATE)
    await soak.refused("broken image", CHAT, json.dumps(broken).encode())
    await soak.refused("no JSON", CHAT, b"{")
    too_long = chat("word " * 5000)
    await soak.refused("too long", CHAT, json.dumps(too_long).encode())
    huge = json.dumps(chat("Hi") | {"temperature": 0}).replace('"temperature": 0', '"seed": 1e999')
    await soak.refused("not finite", CHAT, huge.encode())


async def unregistered_worker(soak: Soak) -> None:
    """Try to register a worker without the key, with a low queue length to attract traffic."""
    status = {"model_names": [NANO.name], "speed": 1e9, "queue_length": -1e9}
    body = {"worker_name": soak.slow_site, "check_heart_beat": False, "worker_status": status}
    await soak.refused("worker without key", "/register_worker", json.dumps(body).encode())


async def slow_head(soak: Soak) -> None:
    """Send request headers slowly, without an end (slowloris)."""
    host, port = soak.controller.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    with suppress(OSError):
        for _ in range(8):
            writer.write(b"X")
            await writer.drain()
            await asyncio.sleep(0.5)
    writer.close()
    soak.count("slow head")


ABUSES: tuple[Send, ...] = (leave, drip, malformed, unregistered_worker, slow_head)


async def run(soak: Soak, minutes: float, users: int) -> None:
    """Send all kinds of traffic for a number of minutes."""
    until = time.monotonic() + 60 * minutes
    readers = [asyncio.create_task(long_answers(soak, stream, until)) for stream in (False, True)]
    abuses: set[asyncio.Task[None]] = set()
    number = 0
    while time.monotonic() < until:
        for send in ABUSES:
            task = asyncio.create_task(send(soak))
            abuses.add(task)
            task.add_done_callback(abuses.discard)
        await regular_round(soak, users, number)
        number += 1
        print(f"round {number}: {sum(soak.counts.values())} requests, {len(soak.failures)} failed",
              *soak.failures[-1:], flush=True)  # fmt: skip
    await asyncio.gather(*readers, *abuses)


async def serve_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond to a request with one byte per second."""
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"\x89")
            await writer.drain()
            await asyncio.sleep(1)


@contextmanager
def program(module: str, port: int, *words: str, **variables: str) -> Generator[psutil.Process]:
    """Start a server; yields its process."""
    command = [sys.executable, "-m", f"mgm.serve.{module}", "--port", str(port), *words]
    environment = os.environ | variables
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def until_served(address: str) -> None:
    """Wait until the controller lists the model."""
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError, KeyError):
                async with session.get(f"{address}/v1/models") as response:
                    if (await response.json())["data"]:
                        return
            await asyncio.sleep(0.2)


async def soak_all(
    address: str, minutes: float, users: int, processes: dict[str, psutil.Process]
) -> dict[str, Any]:
    """Run the traffic; returns counts, failures, latencies and memory."""
    vocabulary = json.loads((NANO / "tokenizer.json").read_text(encoding="utf-8"))
    added = {one["content"]: one["id"] for one in vocabulary["added_tokens"]}
    end = [added[token] for token in ("<|end|>", "</s>") if token in added]
    site = await asyncio.start_server(serve_slowly, "127.0.0.1", 0)
    slow_site = f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}"
    # A connection per request, as many clients do: keep-alive is tested between the two servers.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        soak = Soak(session, address, slow_site, end)
        await run(soak, min(minutes, 0.5), users)  # warm-up: lazy imports are no leak
        before = {name: process.memory_info().rss for name, process in processes.items()}
        await run(soak, minutes, users)
        async with session.post(f"{address}/worker_get_status", json={}) as response:
            queue_length = (await response.json())["queue_length"]
    site.close()
    after = {name: process.memory_info().rss for name, process in processes.items()}
    return {
        "minutes": minutes,
        "users": users,
        "requests": dict(sorted(soak.counts.items())),
        "failures": soak.failures[:20],
        "failed": len(soak.failures),
        "short_seconds_median": sorted(soak.seconds)[len(soak.seconds) // 2],
        "short_seconds_worst": max(soak.seconds),
        "queue_length_at_the_end": queue_length,
        "megabytes": {name: [before[name] / 1e6, after[name] / 1e6] for name in before},
    }


def soak(minutes: float, users: int) -> dict[str, Any]:
    """Start controller and worker, and run the soak test."""
    ports = free_port(), free_port()
    addresses = [f"http://localhost:{port}" for port in ports]
    words = ("--model-path", str(NANO), "--controller", addresses[0], "--worker", addresses[1])
    key = {"MGM_WORKER_KEY": secrets.token_hex(8)}
    with (
        program("controller", ports[0], **key) as controller,
        program("model_worker", ports[1], *words, "--allow-private-urls", **key) as worker,
    ):
        asyncio.run(until_served(addresses[0]))
        processes = {"controller": controller, "worker": worker}
        return asyncio.run(soak_all(addresses[0], minutes, users, processes))


def main() -> int:
    """Run the soak test; print and save the results; returns the exit status."""
    parser = argparse.ArgumentParser(description="Soak test of controller and worker.")
    parser.add_argument("--minutes", type=float, default=60, help="duration")
    parser.add_argument("--users", type=int, default=12, help="users per burst")
    options = parser.parse_args()
    results = soak(options.minutes, options.users)
    print(json.dumps(results, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
