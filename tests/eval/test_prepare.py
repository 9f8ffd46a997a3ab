"""Files that are fetched, from a real server whose connections break."""

import hashlib
import http.server
import io
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.eval.benchmark import Needed
from mgm.eval.prepare import main, provide
from tests.eval.fixtures import make_all


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, text in files.items():
            made.writestr(name.replace("__", "/"), text)
    return content.getvalue()


@contextmanager
def served(content: bytes, breaks_at: int | None = None):
    """The address of a file; the first answer ends too early."""
    begun: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            begun.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = breaks_at if breaks_at and len(begun) == 1 else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", begun
    finally:
        server.shutdown()


def test_a_fetch_goes_on_where_it_broke_off(tmp_path, caplog):
    content = b"x" * 50_000 + b"end"
    md5 = hashlib.md5(content).hexdigest()
    with served(content, breaks_at=20_000) as (address, begun):
        needed = Needed("file.tsv", "somewhere", f"{address}/file.tsv", md5)
        with caplog.at_level("INFO", logger="mgm"):
            assert not provide(needed, tmp_path)
            assert "missing: put somewhere here" in caplog.text
            assert provide(needed, tmp_path)
        assert begun == [0, 20_000]
        assert (tmp_path / "file.tsv").read_bytes() == content
        assert provide(needed, tmp_path)  # it is there
        (tmp_path / "file.tsv").write_bytes(b"other")
        with pytest.raises(MGMError, match="of another version"):
            provide(needed, tmp_path)


def test_archives_are_unpacked_to_their_place(tmp_path):
    with served(archive(outer__images__1="one")) as (address, _):
        assert provide(Needed("images", "", f"{address}/a.zip"), tmp_path)
        assert (tmp_path / "images" / "1").read_text() == "one"
        assert not list(tmp_path.glob(".*.part"))
    with (
        served(archive(**{"..__evil": b"x"})) as (address, _),
        pytest.raises(MGMError, match="outside of its folder"),
    ):
        provide(Needed("evil", "", f"{address}/b.zip"), tmp_path)
    assert not (tmp_path.parent / "evil").exists()
    with served(b"no archive") as (address, _), pytest.raises(MGMError, match="damaged archive"):
        provide(Needed("c", "", f"{address}/c.zip"), tmp_path)


def test_without_a_network_it_says_what_goes_where(tmp_path, caplog):
    with caplog.at_level("INFO", logger="mgm"):
        assert main(["textvqa", "mmmu", "--offline", "--data", str(tmp_path)]) == 1
    told = caplog.text
    for path in ("textvqa/TextVQA_0.5.1_val.json", "textvqa/train_images", "MMMU/Accounting"):
        assert str(Path(tmp_path) / path) in told
    assert "33 files are missing" in told
    make_all(tmp_path)
    assert main(["textvqa", "mme", "gqa", "--offline", "--data", str(tmp_path)]) == 0
