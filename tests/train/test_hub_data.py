"""A data set of the hub by its name: whole, streamed, and with one-line errors."""

import json
import os
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mgm.train.checkpointing.checkpoints import STATE_FILE
from tests.hub_server import TOKEN, hub
from tests.preloaded import PYTHON
from tests.train.conftest import words

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Environment of a program with a local hub that has the data set `lab/chats`."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    root, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    folder = root / "lab" / "chats" / "main" / "data"
    folder.mkdir(parents=True)
    rows = [
        {
            "id": str(number),
            "image": {"bytes": picture(number), "path": f"{number}.png"},
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": f"Picture {number}."},
            ],
        }
        for number in range(6)
    ]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    with hub(root) as (url, _):
        more = {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
        yield os.environ | more | {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}


def picture(number: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), (40 * number, 0, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def program(module: str, flags: list[str], environment: dict[str, str]):
    return subprocess.run(
        [PYTHON, "-m", module, *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["read", "streamed"])
def test_training_on_a_hub_data_set(stage2_flags, environment, tmp_path, streaming):
    flags = stage2_flags | {
        "data_path": "lab/chats",
        "streaming": streaming,
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "group_by_modality_length": False,
        "logging_steps": 1,
        "output_dir": tmp_path,
    }
    done = program("mgm.train", words(flags), environment)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / STATE_FILE).read_text())
    assert len([entry for entry in state["log_history"] if "loss" in entry]) == 3


FAULTS = {
    "no such name": {},
    "no access": {"HF_TOKEN": "hf_wrong"},
    "no connection": {"HF_ENDPOINT": "http://127.0.0.1:9"},
}


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_errors_are_one_line(stage2_flags, environment, tmp_path, fault, streaming):
    flags = stage2_flags | {"data_path": "lab/nothing", "output_dir": tmp_path, "max_steps": 1}
    flags |= {"streaming": streaming, "group_by_modality_length": False}
    done = program("mgm.train", words(flags), environment | FAULTS[fault])
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "lab/nothing" in last
    assert "--data_config" in last
    assert "Traceback" not in done.stderr
