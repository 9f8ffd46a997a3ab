"""Unusual texts, names and numbers: each record is used, or is one bad sample."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mgm.data.datasets.mixture import MixedDataset
from mgm.data.datasets.streaming import Order, StreamedDataset
from mgm.data.datasets.training_dataset import TrainingDataset
from mgm.data.doctor import __main__ as doctor
from mgm.data.processing_mgm import MGMProcessor
from mgm.data.sources.bad_samples import BadSamples
from mgm.data.sources.mixture_config import MixtureSource, read_mixture
from mgm.errors import MGMError
from tests.shared_folders import shared_folder
from tests.tiny_model import build

HALF = "\\ud83d"  # escaped as JSON


def record(question='"<image>\\nWhich?"', answer='"red"', image='"0.png"', more=""):
    """JSON text, since Python values cannot express all of it."""
    turns = f'[{{"from": "human", "value": {question}}}, {{"from": "gpt", "value": {answer}}}]'
    return f'{{"image": {image}, "conversations": {turns}{more}}}'


BAD = {
    "half a pair in an answer": (
        record(answer=f'"it is {HALF}"'),
        "message 1 has a lone surrogate",
    ),
    "the other half in a question": (
        record(question='"<image> \\ude00"'),
        "message 0 has a lone surrogate (\\ude00) at position 8",
    ),
    "half a pair in a name": (
        record(image=f'"{HALF}.png"'),
        "the name of image 1 has a lone surrogate",
    ),
    "half a pair as role": (
        record().replace('"human"', f'"{HALF}"'),
        "\\ud83d",
    ),
    "NUL in a name": (record(image='"a\\u0000b.png"'), "with a NUL character"),
    "a name too long": (
        record(image=f'"{"n" * 300}.png"'),
        "a string of 304 characters as image 1 of 1",
    ),
    "a path too long": (
        record(image=f'"{"n/" * 3000}.png"'),
        "a string of 6,004 characters as image 1 of 1",
    ),
    "a line break in a name": (record(image='"a\\nb.png"'), "there is no such file"),
    "a folder": (record(image='"folder"'), "is a folder"),
    "the folder itself": (record(image='"."'), "is a folder"),
    "above": (record(image='"../nothing.png"'), "there is no such file"),
    "a path through a file": (record(image='"0.png/1.png"'), "cannot be read (Not a directory)"),
    "a pipe": (record(image='"pipe.png"'), "is a pipe or a device"),
    "a device": (record(image='"/dev/zero"'), "is a pipe or a device"),
    "a link to itself": (record(image='"loop.png"'), "cannot be read (Too many levels"),
    "no words": (record('""', '" \\t"', "null"), "every message is empty"),
}
GOOD = {
    "a whole pair": record(answer='"it is \\ud83d\\ude00"'),
    "half a pair in a key": record(more=f', "{HALF}": 1'),
    "half a pair in an id": record(more=f', "id": "{HALF}"'),
    "half a pair deep in a field": record(more=f', "meta": [{{"a": ["{HALF}", "\\\\{HALF}"]}}]'),
    "a number of 400 digits": record(more=f', "n": {"9" * 400}'),
    "a number of 9000 digits": record(more=f', "n": {"9" * 9000}'),
    "no number": record(more=', "n": [NaN, Infinity, -Infinity, 1e999]'),
    "NUL in a text": record(answer='"a\\u0000b"'),
    "control characters": record(answer='"a\\u001b[31m\\u0007\\u0085\\u2028\\ufeff\\u200f"'),
    "no characters": record(answer='"\\uffff\\ufffe\\udbff\\udfff"'),
    "many levels": record(more=f', "deep": {"[" * 300 + "]" * 300}'),
    "a path with ..": record(image='"folder/../0.png"'),
    "a link": record(image='"link.png"'),
    "a name of signs": record(image='"%23 ?#&<b>\\".png"'),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return shared_folder(tmp_path_factory, "tiny-strange-texts", build)


@pytest.fixture(scope="module")
def processor(model):
    return MGMProcessor.from_pretrained(model)


@pytest.fixture
def folder(tmp_path):
    image = tmp_path / "0.png"
    Image.new("RGB", (30, 20), "red").save(image)
    shutil.copy(image, tmp_path / '%23 ?#&<b>".png')
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.png").symlink_to("0.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


def written(folder, records, ending):
    path = folder / f"data{ending}"
    if ending == ".tar":
        with tarfile.open(path, "w") as archive:
            for number, text in enumerate(records):
                content = text.encode()
                # The images of a tar's samples are members; here a path is used.
                member = tarfile.TarInfo(f"{number}.json")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path
    text = "\n".join(records) if ending == ".jsonl" else f"[{','.join(records)}]"
    path.write_text(text)
    return path


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_reported_and_skipped(name, ending, folder, processor):
    text, reason = BAD[name]
    path = written(folder, [record(), text, record()], ending)
    with pytest.raises(MGMError) as caught:
        TrainingDataset(path, processor)
    message = str(caught.value)
    assert message.startswith(f"{path}: sample 1"), message
    assert reason in message
    assert len(message) < 700
    message.encode()  # can be written to any file and terminal
    assert message.isprintable()
    bad_samples = BadSamples(folder / "bad.jsonl")
    dataset = TrainingDataset(path, processor, bad_samples=bad_samples)
    assert [dataset.file_index(index) for index in range(len(dataset))] == [0, 2]
    assert [item["index"].item() for item in dataset] == [0, 2]
    (entry,) = bad_samples.entries()
    assert entry.sample == 1
    assert reason in entry.reason


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
@pytest.mark.parametrize("name", GOOD)
def test_good_samples(name, ending, folder, processor):
    path = written(folder, [record(), GOOD[name]], ending)
    dataset = TrainingDataset(path, processor)
    assert len(dataset) == 2
    assert len(dataset[1]["pixel_values_aux"]) == 1


@pytest.mark.parametrize("ending", [".jsonl", ".tar"])
def test_streams_skip_the_same_samples(ending, folder, processor):
    records = [record(), *(text for text, _ in BAD.values()), *GOOD.values()]
    path = written(folder, records, ending)
    bad_samples = BadSamples(folder / "bad.jsonl")
    stream = StreamedDataset(
        *(str(path), [MixtureSource(str(path))], processor, Order(0, 1), str(folder), bad_samples)
    )
    read = {}
    for _, (item, cursor) in zip(range(4 * len(records)), stream, strict=False):
        read[int(item["index"])] = "input_ids" in item
        if cursor["block"]:
            break
    good = {0, *range(1 + len(BAD), len(records))}
    assert {index for index, usable in read.items() if usable} == good
    assert {entry.sample for entry in bad_samples.entries()} == set(range(1, 1 + len(BAD)))


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_doctor_reports_the_same_samples(ending, folder, model, processor, capsys):
    pytest.importorskip("matplotlib")
    records = [record(), *(text for text, _ in BAD.values()), *GOOD.values()]
    path = written(folder, records, ending)
    clean = folder / f"clean{ending}"
    words = [str(path), "--model", str(model), "--model-max-length", "400", "--fix", str(clean)]
    words += ["--report", str(folder / "report.json"), "--plot", str(folder / "plot.png")]
    words += ["--render-sample", str(len(records) - 1), "--html", str(folder / "page.html")]
    assert doctor.main(words) == 1
    output = capsys.readouterr().out
    assert all(character.isprintable() or character in "\n" for character in output)
    report = json.loads((folder / "report.json").read_text())
    unusable = {
        finding["sample"] for finding in report["findings"] if finding["kind"] != "duplicate image"
    }
    assert unusable == set(range(1, 1 + len(BAD)))
    assert report["usable"] == len(records) - len(BAD)
    page = (folder / "page.html").read_text()
    assert "%2523%20%3F%23%26%3Cb%3E%22.png" in page  # a file URL
    dataset = TrainingDataset(clean, processor)
    assert len(dataset) == 1 + len(GOOD)
    assert len(list(dataset)) == 1 + len(GOOD)
    assert doctor.main([str(clean)]) == 0


def test_fixed_copy_is_equal(folder):
    """A lone surrogate stays escaped."""
    path = written(folder, list(GOOD.values()), ".jsonl")
    clean = folder / "clean.jsonl"
    assert doctor.main([str(path), "--fix", str(clean)]) == 0
    for ours, theirs in zip(clean.read_text().strip().split("\n"), GOOD.values(), strict=True):
        if "9" * 9000 not in theirs and "NaN" not in theirs:
            assert json.loads(ours) == json.loads(theirs)


def test_long_text_is_fast(folder, processor):
    """Half a megabyte, with one token per byte."""
    path = written(folder, [record(answer=f'"{"word " * 100_000}"')], ".json")
    assert len(TrainingDataset(path, processor)[0]["input_ids"]) > 500_000


def test_too_deep_nesting(folder, processor):
    path = written(folder, [record(more=f', "deep": {"[" * 100_000}')], ".jsonl")
    with pytest.raises(MGMError, match="is not valid JSON"):
        TrainingDataset(path, processor)
    assert doctor.main([str(path)]) == 1


@pytest.mark.parametrize("value", ['{"path": "a\\u0000b.json"}', f'{{"path": "{HALF}.json"}}'])
def test_names_in_a_mixture(value, folder, processor):
    path = folder / "mixture.json"
    path.write_text(f'{{"datasets": [{value}]}}')
    with pytest.raises(MGMError) as caught:
        MixedDataset(path, read_mixture(path), processor)
    assert str(caught.value).isprintable()


def test_file_name_that_is_not_utf_8(folder, model, capsys):
    """File names are bytes."""
    source = written(folder, [record(), record(image='"gone.png"')], ".json")
    path = folder / os.fsdecode(b"data\xff.json")
    source.rename(path)
    words = [str(path), "--model", str(model), "--report", str(folder / "report.json")]
    words += ["--render-sample", "0", "--html", str(folder / "page.html")]
    assert doctor.main(words) == 1
    assert "data\\udcff.json" in capsys.readouterr().out
    assert Path(folder / "report.json").read_text()


def test_table_that_is_not_utf_8(folder, processor):
    """Parquet does not check its strings."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    answers = pa.array([b"whole", b"ok \xff\xfe", b"whole"])
    column = pa.Array.from_buffers(pa.string(), 3, answers.buffers())
    parquet.write_table(
        pa.table({"image": ["0.png"] * 3, "caption": column}), folder / "data.parquet"
    )
    path = folder / "data.parquet"
    with pytest.raises(MGMError, match=r"sample 1: contains text that is not UTF-8"):
        TrainingDataset(path, processor)
    bad_samples = BadSamples(folder / "bad.jsonl")
    assert len(TrainingDataset(path, processor, bad_samples=bad_samples)) == 2
    assert [entry.sample for entry in bad_samples.entries()] == [1]
    assert doctor.main([str(path), "--fix", str(folder / "clean.parquet")]) == 1
    assert len(TrainingDataset(folder / "clean.parquet", processor)) == 2
