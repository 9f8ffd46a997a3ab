"""A worker of the published shape, to compare with: a thread and a whole `generate` per request.

    python -m benchmarks.published_worker --model-path playground/mgm-nano --port 21002

At most five requests at a time; every one encodes its image and reads its whole conversation.
Attention is written out, and CLIP and mining are as published.
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

CONCURRENCY = 5  # of the published worker


def main() -> None:
    """Serve until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--port", type=int, default=21002)
    options = parser.parse_args()
    engine = eager_engine(options.model_path)
    uvicorn.run(application(engine), port=options.port, log_level="warning")


def application(engine: mgm.Engine) -> FastAPI:
    """The one endpoint that is compared."""
    app = FastAPI()
    places = asyncio.Semaphore(CONCURRENCY)
    clip, views = eager_clip(engine.model.vision_tower), ImageViews.of(engine.model.config)
    images = ImageFetcher()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/worker_generate_stream")
    async def stream(request: Request) -> StreamingResponse:
        body = await request.json()

        async def frames() -> AsyncGenerator[bytes]:
            async with places:
                pieces = iter(answer(engine, clip, views, images, body))
                text = body["prompt"]
                while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                    text += piece
                    yield encode_frame(text)

        return StreamingResponse(frames())

    return app


@torch.inference_mode()
def answer(
    engine: mgm.Engine, clip: Any, views: ImageViews, images: ImageFetcher, body: dict[str, Any]
) -> Iterator[str]:
    """The answer, piece by piece, from a thread that generates."""
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
    """Write an answer into its streamer."""
    model.generate(**arguments)


if __name__ == "__main__":
    main()
