import json

import pytest
from PIL import Image

from mgm.errors import MGMError
from playground.corpus import text_sample
from playground.generate import generate
from playground.scenes import KINDS
from playground.scenes.qa import SHORT_SUFFIX


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "set"
    generate(path, "train", 16, 3, KINDS)
    return path


def test_published_format(folder):
    records = json.loads((folder / "conversations.json").read_text())
    captions = json.loads((folder / "captions.json").read_text())
    assert [record["id"] for record in records] == [record["id"] for record in captions]
    assert len(records) == len({record["id"] for record in records}) == 16
    for record in records + captions:
        names = record["image"] if isinstance(record["image"], list) else [record["image"]]
        first, *rest = record["conversations"]
        assert first["value"].startswith("<image>\n" * len(names))
        assert sum(message["value"].count("<image>") for message in (first, *rest)) == len(names)
        assert [message["from"] for message in record["conversations"]] == ["human", "gpt"] * (
            len(record["conversations"]) // 2
        )
        for name in names:
            with Image.open(folder / "images" / name) as image:
                image.load()
                assert image.mode == "RGB"
    for record in records:
        turns = len(record["conversations"]) // 2
        assert len(record["kinds"]) == len(record["text_heights"]) == turns


def test_existing_data_is_kept(folder):
    before = (folder / "conversations.json").stat().st_mtime_ns
    generate(folder, "train", 16, 3, KINDS)
    assert (folder / "conversations.json").stat().st_mtime_ns == before
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["count"], manifest["seed"]) == (16, 3)


@pytest.mark.slow
def test_number_of_processes_does_not_change_the_data(folder, tmp_path):
    generate(tmp_path / "again", "train", 16, 3, KINDS, workers=2)
    for name in ("conversations.json", "captions.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_other_options_replace_the_data(tmp_path):
    generate(tmp_path / "set", "train", 2, 3, ("emoji",))
    generate(tmp_path / "set", "held_out", 3, 3, ("emoji",))
    assert len(json.loads((tmp_path / "set" / "conversations.json").read_text())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_other_folders_are_not_changed(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for manifest in (None, {"name": "app"}, ["app"]):
        if manifest:
            (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(MGMError, match="not a data set of ours"):
            generate(tmp_path, "train", 2, 3)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_unknown_kind(tmp_path):
    with pytest.raises(MGMError, match=r"'graph' is unknown.*receipt"):
        generate(tmp_path / "set", "train", 2, 3, ("graph",))


def test_texts_contain_their_answers():
    read, contained = 0, 0
    for seed in range(200):
        text, turns = text_sample(seed)
        assert text
        assert turns
        assert (text, turns) == text_sample(seed)
        for question, answer in turns:
            if question.endswith(SHORT_SUFFIX) and not question.startswith(
                ("Spell", "How", "Write", "Is ", "Do", "Are", "Which im", "What is the first char")
            ):
                read += 1
                contained += answer.strip().lower() in text.lower()
    assert read > 100
    assert contained / read > 0.97
