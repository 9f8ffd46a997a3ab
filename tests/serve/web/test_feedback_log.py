import json
import time

import pytest

from mgm.errors import MGMError
from mgm.serve.web.feedback_log import FeedbackLog
from mgm.serve.web.state import ChatHistory, ChatTurn


@pytest.fixture
def history(image_files):
    return ChatHistory([ChatTurn("which?", tuple(image_files), "red", model="m")])


def entries(folder) -> list[dict]:
    return [json.loads(line) for file in folder.glob("*-conv.json") for line in file.open()]


def test_only_votes_are_logged_by_default(history, tmp_path):
    log = FeedbackLog(tmp_path / "log")
    log.log_answer(history, "m", time.time(), "10.0.0.1")
    assert not (tmp_path / "log").exists()
    log.log_vote(history, "m", "upvote", "10.0.0.1")
    (entry,) = entries(tmp_path / "log")
    assert (entry["type"], entry["model"], entry["ip"]) == ("upvote", "m", "10.0.0.1")
    assert entry["state"] == {"messages": [["USER", "which?"], ["ASSISTANT", "red"]]}
    assert len(set(entry["images"])) == 2
    assert [path.name for path in (tmp_path / "log").iterdir()] == [
        f"{time.strftime('%Y-%m-%d')}-conv.json"
    ]


def test_conversations_and_images_with_their_flags(history, image_files, tmp_path):
    log = FeedbackLog(tmp_path / "log", conversations=True, images=True)
    start_time = time.time()
    log.log_answer(history, "m", start_time, None)
    log.log_answer(history, "m", start_time, None)
    first, second = entries(tmp_path / "log")
    assert first["type"] == "chat"
    assert start_time <= first["start"] + 1e-3 <= first["finish"] + 2e-3
    kept = {
        path.name: path for path in (tmp_path / "log" / "serve_images").rglob("*") if path.is_file()
    }
    assert set(kept) == set(first["images"]) == set(second["images"])
    for name, file in zip(first["images"], image_files, strict=True):
        assert kept[name].read_bytes() == file.read_bytes()


def test_write_errors(history, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MGMError, match="the log cannot be written"):
        FeedbackLog(tmp_path / "file").log_vote(history, "m", "flag", None)
