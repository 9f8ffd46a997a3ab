"""A web server for one file, with ETag and ranges, whose connections may break."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class File:
    """The served file, and the behaviour of the server.

    Attributes:
        content: content of the file; may be changed between requests.
        tag: its ETag; empty: none.
        ranges: whether range requests are supported.
        heeds: whether the whole file is sent if If-Range names another version.
        total: total length in Content-Range; empty: the true one.
        breaks: offsets at which successive connections break.
        chunk: bytes that are sent every 0.01 s; None: all at once.
        requests: headers Range and If-Range of each request.
    """

    content: bytes
    tag: str = '"one"'
    ranges: bool = True
    heeds: bool = True
    total: str = ""
    breaks: list[int] = field(default_factory=list)
    chunk: int | None = None
    requests: list[tuple[str | None, str | None]] = field(default_factory=list)


@contextmanager
def serving(file: File) -> Iterator[str]:
    """Serve the file under every name; yields the address of the folder."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            range_header, same = self.headers["Range"], self.headers["If-Range"]
            file.requests.append((range_header, same))
            start, content = 0, file.content
            if range_header and file.ranges and (same in (None, file.tag) or not file.heeds):
                start = int(range_header[6:-1])
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                span = f"bytes {start}-{len(content) - 1}/{file.total or len(content)}"
                self.send_header("Content-Range", span)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            if file.tag:
                self.send_header("ETag", file.tag)
            self.end_headers()
            end = file.breaks.pop(0) if file.breaks else len(content)
            step = file.chunk or len(content) or 1
            with suppress(OSError):
                for offset in range(start, end, step):
                    self.wfile.write(content[offset : min(offset + step, end)])
                    time.sleep(0.01 if file.chunk else 0)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
