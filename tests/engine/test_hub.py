"""Download and upload with huggingface_hub, from a local server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mgm
from tests.hub_server import TOKEN, hub
from tests.tiny_model import build

ROOT = Path(__file__).resolve().parents[2]


def python(address: str, home: Path, *lines: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, since huggingface_hub reads its settings at import."""
    variables = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    program = "\n".join(["import mgm", *lines])
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables | more | {"HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.fixture
def repositories(tmp_path) -> Path:
    build(tmp_path / "hub/owner/tiny/main")
    build(tmp_path / "hub/owner/tiny/short", positions=40)
    return tmp_path / "hub"


TRY = """
def attempt(revision, token, name='owner/tiny'):
    try:
        print(mgm.load(name, revision=revision, token=token).context_length)
    except mgm.MGMError as error:
        print(error)
"""


@pytest.mark.slow
def test_revision_token_and_offline_mode(tmp_path, repositories) -> None:
    home = tmp_path / "home"
    with hub(repositories) as (address, _):
        done = python(
            address,
            home,
            TRY,
            f"attempt(None, {TOKEN!r})",
            f"attempt('short', {TOKEN!r})",
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            f"where = dict(revision='short', token={TOKEN!r})",
            "model = AutoModelForImageTextToText.from_pretrained('owner/tiny', **where)",
            "processor = AutoProcessor.from_pretrained('owner/tiny', **where)",
            "print(model.config.text_config.max_position_embeddings, processor.conversation)",
            f"attempt('nowhere', {TOKEN!r})",
            "attempt(None, 'hf_wrong', 'owner/second')",
        )
        lines = done.stdout.splitlines()
        assert lines[:3] == ["512", "40", "40 nano"], done.stderr
        assert lines[3].startswith("owner/tiny (revision nowhere): no such folder, and no download")
        assert lines[4].startswith("owner/second: no such folder, and no download from the hub")
        assert lines[4].endswith(
            "check name, revision, token and connection, or give a local folder"
        )
    # The hub is stopped: downloaded files are used, and others give an error.
    offline = {"HF_HUB_OFFLINE": "1"}
    done = python(address, home, TRY, f"attempt('short', {TOKEN!r})", **offline)
    assert done.stdout.split() == ["40"], done.stderr
    done = python(address, tmp_path / "new", TRY, "attempt(None, None)", **offline)
    assert done.stdout.startswith("owner/tiny: no such folder, and no download from the hub (Loc")


@pytest.mark.slow
def test_push_to_hub(tmp_path, repositories) -> None:
    source = repositories / "owner/tiny/main"
    with hub(repositories) as (address, uploaded):
        done = python(
            address,
            tmp_path / "home",
            f"engine = mgm.load({str(source)!r})",
            f"print(engine.push_to_hub('owner/copy', token={TOKEN!r}))",
            "engine.push_to_hub('owner/copy', token='hf_wrong')",
        )
        assert done.stdout.split() == [f"{address}/owner/copy/commit/1"], done.stderr
        assert "MGMError: owner/copy: not uploaded to the hub" in done.stderr
    assert {"README.md", "model.safetensors", "tokenizer.json", "generation_config.json"} <= (
        uploaded.keys()
    )
    (tmp_path / "copy").mkdir()
    for name, content in uploaded.items():
        (tmp_path / "copy" / name).write_bytes(content)
    request = mgm.Request("hello", max_new_tokens=8)
    answers = [mgm.load(folder).answer([request]) for folder in (source, tmp_path / "copy")]
    assert answers[0] == answers[1]
    assert 'mgm.load("owner/copy")' in (tmp_path / "copy/README.md").read_text()
