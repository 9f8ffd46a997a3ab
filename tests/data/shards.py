"""Data files as tars, JSON lines and tables, and a server that breaks connections."""

import contextlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Generator
from pathlib import Path


def write_tar(file: Path, members: list[tuple[str, bytes | str]]) -> Path:
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def write_latin_row(file: Path, count: int = 5, bad: int = 2) -> Path:
    """Write a parquet file with a text that is not UTF-8."""
    import pyarrow
    from pyarrow import parquet

    texts = [f"text {number}".encode() for number in range(count)]
    texts[bad] = "caf\u00e9".encode("latin-1")
    buffers = pyarrow.array(texts, pyarrow.binary()).buffers()
    column = pyarrow.Array.from_buffers(pyarrow.string(), count, buffers)
    parquet.write_table(pyarrow.table({"text": column, "jpg": [b"i"] * count}), file)
    return file


def as_tars(data: Path, folder: Path, count: int) -> str:
    """Distribute samples of a data file over several tars; returns the pattern of their names."""
    samples = json.loads(data.read_text())
    for number in range(count):
        members: list[tuple[str, bytes | str]] = []
        for index in range(number, len(samples), count):
            sample = samples[index]
            images = sample.get("image") or []
            for image, name in enumerate([images] if isinstance(images, str) else images):
                members.append((f"{index:04d}.{image}.png", (data.parent / name).read_bytes()))
            members.append((f"{index:04d}.json", json.dumps(sample)))
        write_tar(folder / f"part-{number:02d}.tar", members)
    return f"{folder}/part-{{00..{count - 1:02d}}}.tar"


@contextlib.contextmanager
def server(folder: Path, break_after: int | None = None) -> Generator[str]:
    """Serve a folder, with ranges; each of the first responses ends after `break_after` bytes."""
    broken: set[str] = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            file = folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            content, status = file.read_bytes(), 200
            span = self.headers.get("Range")
            if span:
                first, last = span.removeprefix("bytes=").split("-")
                whole = len(content)
                end = min(int(last or whole - 1), whole - 1)
                content, status = content[int(first) : end + 1], 206
            self.send_response(status)
            if span:
                self.send_header("Content-Range", f"bytes {first}-{end}/{whole}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body and break_after is not None and self.path not in broken:
                broken.add(self.path)
                content = content[:break_after]
                self.close_connection = True
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{service.server_port}"
    finally:
        service.shutdown()
        service.server_close()
