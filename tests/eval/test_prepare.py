"""Downloads from a real server whose connections break."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from mgm.errors import MGMError
from mgm.eval.download.hub import fetched_revision
from mgm.eval.prepare import main, provide
from mgm.eval.registry import BENCHMARK_GROUPS, expand_groups, get_benchmark, resolve_benchmark
from mgm.eval.tasks.benchmark import PROTOCOLS
from mgm.eval.tasks.dataset_source import RequiredFile
from tests.eval.download.file_server import File, serving
from tests.eval.fixtures import make_all
from tests.hub_server import TOKEN, hub
from tests.preloaded import PYTHON

ROOT = Path(__file__).parents[2]


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, text in files.items():
            made.writestr(name.replace("__", "/"), text)
    return content.getvalue()


@contextmanager
def served(content: bytes, breaks_at: int | None = None):
    """Serve a file; the first response ends too early."""
    starts: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            starts.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = breaks_at if breaks_at and len(starts) == 1 else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", starts
    finally:
        server.shutdown()


def test_interrupted_download_resumes(tmp_path, caplog):
    content = b"x" * 50_000 + b"end"
    md5 = hashlib.md5(content).hexdigest()
    with served(content, breaks_at=20_000) as (address, starts):
        needed = RequiredFile("file.tsv", "somewhere", f"{address}/file.tsv", md5)
        with caplog.at_level("INFO", logger="mgm"):
            assert not provide(needed, tmp_path)
            assert "missing: put somewhere here" in caplog.text
            assert provide(needed, tmp_path)
        assert starts == [0, 20_000]
        assert (tmp_path / "file.tsv").read_bytes() == content
        assert provide(needed, tmp_path)  # it exists
        (tmp_path / "file.tsv").write_bytes(b"other")
        with pytest.raises(MGMError, match="of another version"):
            provide(needed, tmp_path)


def test_archives_are_extracted(tmp_path):
    with served(archive(outer__images__1="one")) as (address, _):
        assert provide(RequiredFile("images", "", f"{address}/a.zip"), tmp_path)
        assert (tmp_path / "images" / "1").read_text() == "one"
        assert not list(tmp_path.glob(".*.part"))
    with (
        served(archive(**{"..__evil": b"x"})) as (address, _),
        pytest.raises(MGMError, match="outside its folder"),
    ):
        provide(RequiredFile("evil", "", f"{address}/b.zip"), tmp_path)
    assert not (tmp_path.parent / "evil").exists()
    with served(b"no archive") as (address, _), pytest.raises(MGMError, match="damaged archive"):
        provide(RequiredFile("c", "", f"{address}/c.zip"), tmp_path)


def test_offline_lists_missing_files(tmp_path, caplog):
    with caplog.at_level("INFO", logger="mgm"):
        assert main(["textvqa", "mmmu", "--offline", "--data-dir", str(tmp_path)]) == 1
    log = caplog.text
    for path in ("textvqa/TextVQA_0.5.1_val.json", "textvqa/train_images", "MMMU/Accounting"):
        assert str(Path(tmp_path) / path) in log
    assert "33 files are missing" in log
    make_all(tmp_path)
    assert main(["textvqa", "mme", "gqa", "--offline", "--data-dir", str(tmp_path)]) == 0


KILLED = """
import sys
from pathlib import Path
from mgm.eval.prepare import provide
from mgm.eval.tasks.dataset_source import RequiredFile
address, folder = sys.argv[1], Path(sys.argv[2])
files = [RequiredFile("list.json", "", f"{address}/all.zip"), RequiredFile("images", "")]
print(all([provide(one, folder, others=files) for one in files]))
"""


@pytest.mark.slow
@pytest.mark.process
def test_kills_during_download_and_extraction(tmp_path):
    """SIGKILL at several times: partial results are not used, and nothing starts over."""
    images = {f"all/images/{n}.png": bytes([n % 256]) * 2000 for n in range(1500)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name, text in images.items():
            made.writestr(name, text)
        made.writestr("all/list.json", b"{}")
    file = File(content.getvalue(), chunk=40_000)
    folder, starts = tmp_path / "to", []
    words = ["-c", KILLED]

    def wait_until(ready) -> None:
        until = time.monotonic() + 60
        while not ready() and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.001)

    part, unpacking = folder / ".all.zip.part", folder / ".all.zip.unpacking"
    with serving(file) as address:
        for ready in (
            lambda: part.exists() and part.stat().st_size > 500_000,
            lambda: part.stat().st_size > 1_500_000,
            lambda: len(list(unpacking.rglob("*.png"))) > 10,
            lambda: len(list(unpacking.rglob("*.png"))) > 700,
        ):
            process = subprocess.Popen(
                [PYTHON, *words, address, str(folder)], cwd=ROOT, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            wait_until(ready)
            process.kill()
            process.communicate()
            starts.append(part.stat().st_size)
            assert not (folder / "list.json").exists()
        done = subprocess.run(
            [PYTHON, *words, address, str(folder)], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    assert done.stdout == "True\n", done.stderr
    assert starts == sorted(starts)
    assert starts[2] == starts[3] == len(file.content)  # it was not downloaded again
    assert [one for one, _ in file.requests] == [None, *(f"bytes={n}-" for n in starts[:2])]
    extracted = {
        f"all/images/{one.name}": one.read_bytes() for one in (folder / "images").iterdir()
    }
    assert extracted == images
    assert sorted(path.name for path in folder.iterdir()) == ["images", "list.json"]


def test_error_of_one_file_does_not_stop_others(tmp_path, caplog):
    (tmp_path / "mmbench").mkdir()
    (tmp_path / "mmbench" / "MMBench_DEV_EN.tsv").write_bytes(b"other")
    words = [
        "mmbench",
        "pope",
        "--protocol",
        "vlmevalkit",
        "--offline",
        "--data-dir",
        str(tmp_path),
    ]
    with caplog.at_level("INFO", logger="mgm"):
        assert main(words) == 1
    assert "MMBench_DEV_EN.tsv: has the md5" in caplog.text
    assert "missing: put VLMEvalKit's table here" in caplog.text


def test_file_with_a_wrong_digest(tmp_path):
    file = File(b"other")
    with serving(file) as address:
        needed = RequiredFile("a.tsv", "", f"{address}/a.tsv", "0" * 32)
        for _ in range(2):
            with pytest.raises(MGMError, match=r"has the md5 .* expected 000"):
                provide(needed, tmp_path)
            assert list(tmp_path.iterdir()) == []  # it is downloaded again


def test_published_names_of_folders(tmp_path):
    mmbench = get_benchmark("mmbench")[0]
    assert mmbench.folder_in(tmp_path) == tmp_path / "mmbench"
    (tmp_path / "MMB").mkdir()
    assert mmbench.folder_in(tmp_path) == tmp_path / "MMB"
    (tmp_path / "mmbench").mkdir()
    assert mmbench.folder_in(tmp_path) == tmp_path / "mmbench"


@pytest.mark.slow
def test_hub_data_sets(tmp_path):
    """With huggingface_hub and a local hub: only needed files, once each."""
    files = tmp_path / "hub" / "lmms-lab-encoder" / "POPE" / "main"
    for name in ("data/test-0.parquet", "data/other-0.parquet", "Full/random-0.parquet"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(b"PAR1" + name.encode())
    data = tmp_path / "data"
    words = ["-m", "mgm.eval.prepare", "pope", "--protocol", "lmms-eval", "--data-dir", str(data)]
    with hub(tmp_path / "hub") as (address, _):
        more = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
        more |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        for _ in range(2):
            done = subprocess.run(
                [PYTHON, *words],
                env=os.environ | more, capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert f"exists: {data / 'pope' / 'hub' / 'data' / 'test-0.parquet'}" in done.stderr
    tables = list((data / "pope" / "hub").rglob("*.parquet"))
    assert [file.name for file in tables] == ["test-0.parquet"]
    assert tables[0].read_bytes() == b"PAR1data/test-0.parquet"
    record = json.loads((data / "pope" / "hub" / "revisions.json").read_text())
    revision = record["lmms-lab-encoder/POPE"]["revision"]
    assert fetched_revision(data / "pope" / "hub", "lmms-lab-encoder/POPE") == revision
    assert record["lmms-lab-encoder/POPE"]["files"] == {
        "data/test-*.parquet": ["data/test-0.parquet"]
    }
    # Offline it lists missing files, and counts existing ones.
    assert main([*words[2:], "--offline"]) == 0
    assert main(["gqa", "--protocol", "lmms-eval", "--data-dir", str(data), "--offline"]) == 1
    tables[0].unlink()  # one of the needed files is missing, as after a kill
    (tables[0].parent / "test-1.parquet").write_bytes(b"PAR1")
    assert main([*words[2:], "--offline"]) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("group", BENCHMARK_GROUPS)
def test_group_with_a_protocol(tmp_path, caplog, group, protocol):
    """Benchmarks without the protocol fall back to their default."""
    words = [group, "--protocol", protocol, "--data-dir", str(tmp_path), "--offline"]
    assert main(words) == 1
    log = caplog.text
    for name in expand_groups([group]):
        kind, split, resolved = resolve_benchmark(name, protocol)
        warned = (
            f"{kind.name}:{split} has no protocol {protocol}; falling back to {resolved}" in log
        )
        assert warned == (resolved != protocol)
        assert resolved in kind.protocols_of(split)


def test_split_with_a_protocol():
    assert get_benchmark("seed")[1] == "test"
    assert get_benchmark("seed", "vlmevalkit")[1] == "test-img"
    assert get_benchmark("seed:test", "vlmevalkit")[1] == "test"
    assert get_benchmark("vqav2", "lmms-eval")[1] == "val"
    assert get_benchmark("gqa", "official")[1] == "testdev"


@pytest.mark.parametrize("entry", [None, [], 1, {"files": []}, {"files": {"*": 1}}])
def test_invalid_revisions(tmp_path, entry):
    (tmp_path / "revisions.json").write_text(json.dumps({"owner/name": entry}))
    assert fetched_revision(tmp_path, "owner/name") is None
