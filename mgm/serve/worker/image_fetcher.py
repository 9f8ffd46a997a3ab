"""Fetches request images: public http(s) URLs (SSRF protection), data URLs, base64; no files."""

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

MAX_PIXELS = NETWORK_LIMITS.max_pixels  # pixels of one image
DECODE_THREADS = 2  # threads that decode base64 and image headers


class ImageFetcher:
    """Fetches the images of requests.

    A slow site delays only the requests that use it: downloads have a deadline, and need no slot
    and no thread of other requests. Their requests count as waiting.

    Args:
        downloader: downloads http(s) URLs; None: one with default limits.
        max_pixels: maximum pixels of one image.
    """

    def __init__(
        self, downloader: ImageDownloader | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.downloader = downloader or ImageDownloader()
        self.max_pixels = max_pixels
        self._threads = ThreadPoolExecutor(DECODE_THREADS, "images")

    async def fetch_all(self, sources: Sequence[object]) -> list[bytes]:
        """Fetch the image files of a request, without decoding them: they may be damaged.

        Args:
            sources: each a data URL, an http(s) URL, or an image file in base64.

        Raises:
            MGMError: a source is invalid, cannot be downloaded in time, or has too many bytes or
                pixels; the message says which.
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
        """Decode an image that is in the request itself.

        Args:
            source: a data URL, or an image file in base64.
            label: label of the image; error messages begin with it.

        Raises:
            MGMError: the source is neither, or has too many pixels.
        """
        if not isinstance(source, str) or not source:
            raise bad_image(f"{label}: is not a string; give a data URL, an http(s) URL, or base64")
        scheme = _scheme(source)
        if scheme and scheme != "data":
            raise bad_image(f"{label}: {scheme} URLs are not supported; give a data or http(s) URL")
        try:
            content = (decode_data_url if scheme else decode_base64)(source, label)
            self._check_size(content, label)
        except MGMError as error:
            raise bad_image(str(error)) from error
        return content

    def _check_size(self, content: bytes, label: str) -> None:
        """Check width and height in the header, before pixels are decoded."""
        image_size(content, label, replace(NETWORK_LIMITS, max_pixels=self.max_pixels))

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.wrap_future(self._threads.submit(call, *arguments))


def _scheme(source: object) -> str:
    """The scheme of a URL, in lower case; empty: it is not a URL."""
    head = source.strip()[:10] if isinstance(source, str) else ""
    return head.split(":", 1)[0].lower() if ":" in head else ""
