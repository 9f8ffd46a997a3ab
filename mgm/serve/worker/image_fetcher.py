"""Images of requests as bytes: public http(s) URLs, data URLs and base64, never files."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from mgm.data.images.data_url import decode_base64, decode_data_url
from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import image_size
from mgm.errors import MGMError
from mgm.serve.worker.image_download import ImageDownloader, bad_image

MAX_PIXELS = NETWORK_LIMITS.max_pixels  # of one image
DECODE_THREADS = 2  # for base64 and headers of image files, beside those of the worker


class ImageFetcher:
    """Fetches the images of requests.

    However slow a site is, it costs the requests that name it and no other: downloads have a
    deadline, take no slot and no thread that another request needs, and are counted as waiting.

    Args:
        downloader: of http(s) URLs; None: one with its default limits.
        max_pixels: of one image.
    """

    def __init__(
        self, downloader: ImageDownloader | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.downloader = downloader or ImageDownloader()
        self.max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(DECODE_THREADS, "images")

    async def fetch_all(self, sources: Sequence[object]) -> list[bytes]:
        """The bytes of the image files that a request names, which may be damaged.

        Args:
            sources: a data URL, an http(s) URL, or the image file in base64 each.

        Raises:
            MGMError: one is none of these, cannot be downloaded in time, or has too many bytes or
                pixels; the message names it.
            QueueFullError: too many requests download images.
        """
        urls: dict[str, str] = {}
        contents: dict[str, bytes] = {}
        labels = [f"image {number} of {len(sources)}" for number in range(1, len(sources) + 1)]
        for label, source in zip(labels, sources, strict=True):
            if _scheme(source) in ("http", "https"):
                urls[label] = str(source).strip()
            else:
                contents[label] = await self._in_thread(self.decode, source, label)
        if urls:
            for label, content in (await self.downloader.download(urls)).items():
                try:
                    await self._in_thread(self._check_size, content, label)
                except MGMError as error:
                    raise bad_image(str(error)) from error
                contents[label] = content
        return [contents[label] for label in labels]

    def decode(self, source: object, label: str) -> bytes:
        """The bytes of an image that is in the request itself.

        Args:
            source: a data URL, or the image file in base64.
            label: which image it is; errors begin with it.

        Raises:
            MGMError: it is neither, or has too many pixels.
        """
        if not isinstance(source, str) or not source:
            raise bad_image(f"{label}: is no text; give a data URL, an http(s) URL, or base64")
        scheme = _scheme(source)
        if scheme and scheme != "data":
            raise bad_image(f"{label}: {scheme} URLs are not opened; give a data or http(s) URL")
        try:
            content = (decode_data_url if scheme else decode_base64)(source, label)
            self._check_size(content, label)
        except MGMError as error:
            raise bad_image(str(error)) from error
        return content

    def _check_size(self, content: bytes, label: str) -> None:
        """Look at the header, before anything is decoded."""
        image_size(content, label, replace(NETWORK_LIMITS, max_pixels=self.max_pixels))

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.wrap_future(self._threads.submit(call, *arguments))


def _scheme(source: object) -> str:
    """The scheme of a URL, in lower case; empty: it is none."""
    head = source.strip()[:10] if isinstance(source, str) else ""
    return head.split(":", 1)[0].lower() if ":" in head else ""
