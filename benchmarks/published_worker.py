"""A worker in the design of the published one, for comparison: one `generate` thread per request.

    python -m benchmarks.published_worker --model-path playground/mgm-nano --port 21002

At most five requests run at a time; each encodes its image and prefills its whole conversation.
Attention is eager, and CLIP and mining are the published implementations.
"""

import argparse
import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from transformers import TextIteratorStreamer

import mgm
from benchmarks.published import eager_clip, eager_engine, image_features
from mgm.data.images.loading import open_image
from mgm.model.vision.image_views import ImageViews
from mgm.serve.http.wire import encode_frame
from mgm.serve.worker.image_fetcher import ImageFetcher

CONCURRENCY = 5  # --limit-model-concurrency of the published worker


def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(description="A worker in the design of the published one.")
    parser.add_argument("--model-path", required=True, help="checkpoint folder")
    parser.add_argument("--port", type=int, default=21002, help="port to listen on")
    options = parser.parse_args()
    engine = eager_engine(options.model_path)
    uvicorn.run(application(engine), port=options.port, log_level="warning")


def application(engine: mgm.Engine) -> FastAPI:
    """The app, with the streaming endpoint and a health check."""
    app = FastAPI()
    slots = asyncio.Semaphore(CONCURRENCY)
    clip, views = eager_clip(engine.model.vision_tower), ImageViews.of(engine.model.config)
    images = ImageFetcher()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/worker_generate_stream")
    async def stream(request: Request) -> StreamingResponse:
        body = await request.json()

        async def frames() -> AsyncGenerator[bytes]:
            async with slots:
                chunks = iter(answer(engine, clip, views, images, body))
                text = body["prompt"]
                while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                    text += chunk
                    yield encode_frame(text)

        return StreamingResponse(frames())

    return app


@torch.inference_mode()
def answer(
    engine: mgm.Engine, clip: Any, views: ImageViews, images: ImageFetcher, body: dict[str, Any]
) -> Iterator[str]:
    """Stream the text of an answer from a thread that runs `generate`."""
    model, processor = engine.model, engine.processor
    opened = [open_image(images.decode(one, "image")) for one in body.get("images", [])]
    features = None
    if opened:
        pixels = processor.image_processor(opened, do_normalize=False)["pixel_values_aux"]
        high = views.normalise(pixels.to(model.device))
        low = views.low_resolution(high)
        features = image_features(model, clip, low, high)
    ids = torch.tensor([processor.encode(body["prompt"])], device=model.device)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    arguments = {
        "input_ids": ids,
        "image_features": features,
        "max_new_tokens": body["max_new_tokens"],
        "do_sample": False,
        "streamer": streamer,
    }
    thread = threading.Thread(target=generate, args=(model, arguments))
    thread.start()
    yield from streamer
    thread.join()


@torch.inference_mode()
def generate(model: Any, arguments: dict[str, Any]) -> None:
    """Run `generate` in inference mode, which is set per thread."""
    model.generate(**arguments)


if __name__ == "__main__":
    main()
