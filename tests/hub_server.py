"""A local Hugging Face hub: repositories in folders, for huggingface_hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

TOKEN = "hf_right"


class Handler(BaseHTTPRequestHandler):
    """Serves `root/<owner>/<name>/<revision>/...` to requests with the token; models and data sets
    are not distinguished.
    """

    root: Path
    uploaded: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path).split("?")[0]
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
            return
        if path.startswith(("/api/models/", "/api/datasets/")):
            owner, name, *rest = path.split("/")[3:]
            revision = rest[1] if len(rest) > 1 else "main"
            folders = (self.root / owner / name).glob("*")
            folder = next((p for p in folders if revision in (p.name, commit(p))), None)
            if folder is None:
                self.reply(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
                return
            if rest[:1] == ["tree"]:
                target = folder.joinpath(*rest[2:])
                deep = "recursive=true" in self.path.lower()
                entries = sorted(target.rglob("*") if deep else target.glob("*"))
                if target.is_dir():
                    self.reply(200, [entry(one, folder) for one in entries])
                else:
                    self.reply(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})
            else:
                files = sorted(file for file in folder.rglob("*") if file.is_file())
                siblings = [{"rfilename": str(file.relative_to(folder))} for file in files]
                content = {"id": f"{owner}/{name}", "sha": commit(folder), "siblings": siblings}
                self.reply(200, content)
            return
        path = path.strip("/").removeprefix("datasets/")
        owner, name, _, revision, file = path.split("/", 4)
        for folder in (self.root / owner / name).glob("*"):
            if revision in (folder.name, commit(folder)) and (folder / file).is_file():
                content = (folder / file).read_bytes()
                tag = hashlib.sha1(content).hexdigest()
                headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit(folder)}
                range_header = self.headers.get("range")
                if range_header and self.command == "GET":
                    first, last = range_header.removeprefix("bytes=").split("-")
                    self.reply(206, content[int(first) : int(last or len(content)) + 1], headers)
                else:
                    self.reply(200, content, headers)
                return
        self.reply(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid username or password."})
        elif self.path.endswith("/repos/create"):
            self.reply(200, {"url": f"{self.address}/owner/{json.loads(body)['name']}"})
        elif "/paths-info/" in self.path:
            owner, name, _, revision = unquote(self.path).split("/")[3:7]
            folders = (self.root / owner / name).iterdir()
            folder = next(one for one in folders if revision in (one.name, commit(one)))
            paths = [folder / path for path in requested_paths(body)]
            self.reply(200, [entry(path, folder) for path in paths if path.exists()])
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self.reply(200, {"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.uploaded[value["path"]] = base64.b64decode(value["content"])
            self.reply(
                200,
                {
                    "commitUrl": f"{self.address}/owner/copy/commit/1",
                    "commitOid": "1",
                    "success": True,
                },
            )
        else:
            self.reply(200, {})

    def reply(
        self, status: int, content: bytes | dict | list, headers: dict[str, str] | None = None
    ) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    @property
    def address(self) -> str:
        return f"http://{self.headers['host']}"

    def log_message(self, *_args: object) -> None:
        pass


def requested_paths(body: bytes) -> list[str]:
    """The paths of a request, in JSON or as a form."""
    if body.startswith(b"{"):
        return json.loads(body)["paths"]
    return parse_qs(body.decode()).get("paths", [])


def entry(file: Path, folder: Path) -> dict[str, object]:
    name = str(file.relative_to(folder))
    if file.is_dir():
        return {"type": "directory", "path": name, "oid": commit(file)}
    content = file.read_bytes()
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": name, "oid": oid, "size": len(content)}


def commit(folder: Path) -> str:
    return hashlib.sha1(folder.name.encode()).hexdigest()


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Run a hub; yields its address, and the files uploaded to it by path."""
    uploaded: dict[str, bytes] = {}
    handler = type("Bound", (Handler,), {"root": root, "uploaded": uploaded})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", uploaded
    finally:
        server.shutdown()
        server.server_close()
