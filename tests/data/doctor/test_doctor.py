"""The data doctor finds every planted error, and nothing else."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mgm.data.doctor import __main__ as doctor
from mgm.data.doctor.checks import FINDING_KINDS
from mgm.data.sources.hf_table import TableFile
from mgm.data.sources.json.json_file import read_samples
from mgm.data.sources.shards import TarShard, records_of
from mgm.errors import MGMError
from tests.data.shards import write_latin_row, write_tar
from tests.tiny_model import build


def asks(image, question="<image>\nWhich colour?", answer="red"):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "kept as it is", "image": image, "conversations": turns}


@pytest.fixture
def folder(tmp_path):
    """Ten valid samples, and one of each kind of error at a fixed index."""
    for number in range(10):
        Image.new("RGB", (30 + number, 20), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
    shutil.copy(tmp_path / "0.png", tmp_path / "same.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    samples = [asks(f"{number}.png") for number in range(10)]
    samples += [
        {"image": "0.png"},  # 10
        asks("0.png") | {"conversations": asks("0.png")["conversations"][:1]},
        asks("0.png") | {"conversations": asks("0.png")["conversations"][:1] * 2},
        asks(["0.png", "1.png"]),
        asks("gone.png"),
        asks("broken.png"),  # 15
        asks("2.png", answer=" "),
        asks("same.png"),
        asks("3.png", question="<image>\n" + "word " * 300),
        asks(["4.png", "5.png"] * 6, question="<image>" * 12 + " the same?"),
    ]
    (tmp_path / "data.json").write_text(json.dumps(samples))
    return tmp_path


PLANTED = {
    "malformed": [10],
    "no answer": [11],
    "roles": [12],
    "markers": [13],
    "missing image": [14],
    "broken image": [15],
    "empty answer": [16],
    "duplicate image": [17],
}


def examined(folder, *options) -> dict:
    path = folder / "report.json"
    doctor.main([str(folder / "data.json"), "--report", str(path), *map(str, options)])
    return json.loads(path.read_text())


def indices(report, kind) -> list[int]:
    return sorted({entry["sample"] for entry in report["findings"] if entry["kind"] == kind})


def test_planted_errors(folder, capsys):
    report = examined(folder)
    assert {
        kind: indices(report, kind) for kind in FINDING_KINDS if indices(report, kind)
    } == PLANTED
    assert report["samples"] == 20
    assert report["usable"] == 14
    assert report["counts"]["duplicate image"] == 1
    output = capsys.readouterr().out
    for kind in PLANTED:
        assert f"x {kind}: a sample {FINDING_KINDS[kind]}" in output
    assert "6 samples cannot be used" in output
    assert "gone.png: there is no such file" in output


@pytest.mark.parametrize("name", ["gone.png", "0.png/inside.png", "."])
def test_folder_instead_of_an_image(folder, name):
    path = folder / "one.json"
    path.write_text(json.dumps([asks(name)]))
    assert indices(examined_file(path), "missing image") == [0]


def test_lengths_with_a_model(folder, tmp_path):
    model = build(tmp_path / "model")
    span = model_span(model)
    limit = span * 2 + 40
    report = examined(folder, "--model", model, "--model-max-length", limit)
    assert indices(report, "too long") == [18, 19]
    assert indices(report, "cut image") == [19]
    assert report["positions"]["max"] > limit
    assert 0 < report["learned"]["sum"] < report["positions"]["sum"]


def model_span(model) -> int:
    from mgm.data.processing_mgm import MGMProcessor

    return MGMProcessor.from_pretrained(model).image_tokens_per_image


@pytest.mark.parametrize("name", ["clean.json", "clean.jsonl"])
def test_fixed_copy_has_no_errors(folder, name):
    clean = folder / name
    assert doctor.main([str(folder / "data.json"), "--fix", str(clean)]) == 1
    assert doctor.main([str(clean)]) == 0
    assert len(read_samples(clean)) == 13
    kept = (
        json.loads(clean.read_text().splitlines()[0])
        if name.endswith("l")
        else json.loads(clean.read_text())[0]
    )
    assert kept == asks("0.png")


def test_malformed_json_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(asks(None, "hi")) + "\n{\n")
    report = examined_file(path)
    assert indices(report, "malformed") == [1]


def examined_file(path) -> dict:
    out = path.with_name("report.json")
    doctor.main([str(path), "--report", str(out)])
    return json.loads(out.read_text())


def test_html_page_and_plot(folder, tmp_path):
    pytest.importorskip("matplotlib")
    model = build(tmp_path / "model")
    page, plot = folder / "page.html", folder / "plot.png"
    options = [
        "--model",
        str(model),
        "--render-sample",
        "3",
        "--html",
        str(page),
        "--plot",
        str(plot),
    ]
    doctor.main([str(folder / "data.json"), *options])
    text = page.read_text()
    assert "image positions" in text
    assert 'class="token learned"' in text
    words = re.sub("<[^>]+>", "", text.split("image positions")[1])
    assert "Which colour?" in words.replace("⏎", "")
    assert "red" in words
    assert "3.png" in text
    with Image.open(plot) as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--render-sample", "1"], "--render-sample needs --model"),
        (["--model-max-length", "9"], "needs --model"),
        (["--fix", "{file}"], "names the file itself"),
        (["--workers", "0"], "give a number from 1"),
    ],
)
def test_invalid_options(folder, options, fault):
    file = str(folder / "data.json")
    with pytest.raises(MGMError, match=fault):
        doctor.main([file, *(option.format(file=file) for option in options)])


def test_missing_sample(folder, tmp_path):
    model = build(tmp_path / "model")
    with pytest.raises(MGMError, match="has samples 0 to 19"):
        doctor.main([str(folder / "data.json"), "--model", str(model), "--render-sample", "20"])
    with pytest.raises(MGMError, match="sample 13: 1 <image> marker"):
        doctor.main([str(folder / "data.json"), "--model", str(model), "--render-sample", "13"])


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def as_table(folder: Path, inside: bool) -> Path:
    """The same samples as a parquet file, with image bytes or image names."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    def held(name: str) -> dict:
        file = folder / name
        here = file.read_bytes() if inside and file.is_file() else None
        return {"bytes": here, "path": name}

    rows = []
    for sample in json.loads((folder / "data.json").read_text()):
        names = sample["image"] if isinstance(sample["image"], list) else [sample["image"]]
        talk = sample.get("conversations")
        rows.append({"images": [held(name) for name in names], "conversations": talk})
    path = folder / "table.parquet"
    # In two row groups, as large tables are written.
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=9)
    return path


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("inside", [True, False], ids=["bytes", "names"])
def test_table_has_the_errors_of_the_json_file(folder, tmp_path, inside, capsys):
    pytest.importorskip("datasets")
    table = as_table(folder, inside)
    report = examined_file(table)
    by_kind = {kind: indices(report, kind) for kind in FINDING_KINDS if indices(report, kind)}
    if inside:  # every use of an image is a copy there
        assert set(by_kind.pop("duplicate image")) > {17}
        assert by_kind == {kind: at for kind, at in PLANTED.items() if kind != "duplicate image"}
    else:
        assert by_kind == PLANTED
    assert "gone.png: there is no such file" in capsys.readouterr().out
    clean = folder / "clean.parquet"
    assert doctor.main([str(table), "--fix", str(clean)]) == 1
    assert "13 of 20 samples" in capsys.readouterr().out
    assert doctor.main([str(clean)]) == 0
    kept = TableFile(str(clean))
    assert len(kept) == 13
    first = kept[0].images[0]
    assert first == ((folder / "0.png").read_bytes() if inside else "0.png")
    with pytest.raises(MGMError, match=r"the copy ends in \.parquet"):
        doctor.main([str(table), "--fix", str(folder / "clean.json")])


def test_html_page_with_an_image_of_a_table(folder, tmp_path):
    pytest.importorskip("datasets")
    table, page = as_table(folder, True), folder / "page.html"
    model = build(tmp_path / "model")
    doctor.main([str(table), "--model", str(model), "--render-sample", "3", "--html", str(page)])
    content = base64.b64encode((folder / "3.png").read_bytes()).decode()
    assert f"data:image;base64,{content}" in page.read_text()


def test_other_formats(folder, tmp_path, capsys):
    """Embedded images are checked, and unsupported content is reported."""
    content = (folder / "2.png").read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    broken = f"data:image/png;base64,{base64.b64encode(content[:50]).decode()}"
    records = [
        {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "red"}]}
        for image in (url, broken, f"{url}!", (folder / "3.png").as_uri())
    ]  # fmt: skip
    records += [asks("0.png") | {"videos": ["a.mp4"]}, asks("0.png", "<image>\n<|image|>What?")]
    path = folder / "chats.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    report = examined_file(path)
    assert indices(report, "broken image") == [1, 2]
    assert indices(report, "unsupported") == [4, 5]
    assert report["usable"] == 2
    output = capsys.readouterr().out
    assert "4: sample 4: field 'videos' has media" in output
    assert "sample 1, image 1" in output
    assert all(len(line) < 300 for line in output.splitlines())
    model, page = build(tmp_path / "model"), folder / "page.html"
    doctor.main([str(path), "--model", str(model), "--render-sample", "0", "--html", str(page)])
    assert f'src="data:image;base64,{base64.b64encode(content).decode()}"' in page.read_text()


def as_tar(folder: Path, name: str) -> Path:
    """The same samples as a tar, with the existing images as members."""
    members: list[tuple[str, bytes | str]] = []
    for index, sample in enumerate(json.loads((folder / "data.json").read_text())):
        names = sample["image"] if isinstance(sample["image"], list) else [sample["image"]]
        if all((folder / image).is_file() for image in names):
            for number, image in enumerate(names):
                members.append((f"{index:04d}.{number}.png", (folder / image).read_bytes()))
            del sample["image"]
        members.append((f"{index:04d}.json", json.dumps(sample)))
    return write_tar(folder / name, members)


@pytest.mark.parametrize("name", ["data.tar", "data.tar.gz"])
def test_tar_has_the_errors_of_the_json_file(folder, tmp_path, name, capsys):
    file = as_tar(folder, name)
    report = examined_file(file)
    by_kind = {kind: indices(report, kind) for kind in FINDING_KINDS if indices(report, kind)}
    assert set(by_kind.pop("duplicate image")) > {17}  # every use of an image is a copy
    assert by_kind == {kind: at for kind, at in PLANTED.items() if kind != "duplicate image"}
    assert "gone.png: there is no such file" in capsys.readouterr().out
    clean = folder / "clean.tar"
    assert doctor.main([str(file), "--fix", str(clean)]) == 1
    assert "13 of 20 samples" in capsys.readouterr().out
    assert doctor.main([str(clean)]) == 0
    first, *_ = records_of(TarShard(str(clean)), 0)
    assert first["0.png"] == (folder / "0.png").read_bytes()
    with pytest.raises(MGMError, match=r"the copy ends in \.tar"):
        doctor.main([str(file), "--fix", str(folder / "clean.json")])
    model, page = build(tmp_path / "model"), folder / "page.html"
    doctor.main([str(file), "--model", str(model), "--render-sample", "3", "--html", str(page)])
    content = base64.b64encode((folder / "3.png").read_bytes()).decode()
    assert f"data:image;base64,{content}" in page.read_text()


def test_renamed_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"PAR1")
    with pytest.raises(MGMError, match=r"a\.tar: is not a tar archive but a parquet table"):
        doctor.main([str(tmp_path / "a.tar")])


def test_mixture_and_pattern(folder, capsys):
    """Each file is checked separately, with its own image folder."""
    as_tar(folder, "part-1.tar")
    (folder / "elsewhere").mkdir()
    for number in range(10):
        shutil.copy(folder / f"{number}.png", folder / "elsewhere")
    good = [asks("0.png"), asks("gone.png")]
    (folder / "good.ndjson").write_text("".join(f"{json.dumps(sample)}\n" for sample in good))
    mixture = folder / "mixture.json"
    sources = [
        {"path": "data.json"},
        {"path": "good.ndjson", "image_folder": "elsewhere", "weight": 2},
        {"path": "part-1.tar"},
    ]
    mixture.write_text(json.dumps({"datasets": sources}))
    report = examined_file(mixture)
    assert report["file"] == str(mixture)
    assert [Path(one["file"]).name for one in report["sources"]] == [
        "data.json",
        "good.ndjson",
        "part-1.tar",
    ]
    assert [one["samples"] for one in report["sources"]] == [20, 2, 20]
    assert indices(report["sources"][1], "missing image") == [1]
    assert f"{folder}/elsewhere/gone.png: there is no such file" in capsys.readouterr().out
    shutil.copy(folder / "part-1.tar", folder / "part-2.tar")
    for pattern in ("part-*.tar", "part-{1..2}.tar"):
        report = examined_file(folder / pattern)
        assert [one["usable"] for one in report["sources"]] == [14, 14]
    for options in (["--fix", "a.json"], ["--plot", "a.png"]):
        with pytest.raises(MGMError, match=r"mixture\.json names 3 data files; give one of them"):
            doctor.main([str(mixture), *options])
    mixture.write_text(json.dumps({"name": "all", "datasets": sources}))
    with pytest.raises(MGMError, match="is not a valid mixture, which is a "):
        doctor.main([str(mixture)])
    mixture.write_text(json.dumps({"datasets": [{"path": "https://example.org/a.tar"}]}))
    with pytest.raises(MGMError, match="is a URL; download the file"):
        doctor.main([str(mixture)])


@pytest.mark.parametrize("name", ["clean.ndjson", "clean.JSON", "clean.JSONL"])
def test_fixed_copies_of_every_json_extension(folder, name):
    assert doctor.main([str(folder / "data.json"), "--fix", str(folder / name)]) == 1
    assert doctor.main([str(folder / name)]) == 0


@pytest.mark.usefixtures("_own_cache")
def test_image_folder_of_a_folder_of_tables(folder):
    pytest.importorskip("datasets")
    tables = folder / "tables"
    tables.mkdir()
    as_table(folder, False).rename(tables / "table.parquet")
    report = examined_file(tables)
    assert indices(report, "missing image") == PLANTED["missing image"]


@pytest.mark.usefixtures("_own_cache")
def test_row_that_is_not_utf_8(folder, tmp_path):
    pytest.importorskip("datasets")
    table = write_latin_row(folder / "latin.parquet")
    assert indices(examined_file(table), "malformed") == [2]
    model = build(tmp_path / "model")
    with pytest.raises(
        MGMError, match="--render-sample 2: sample 2: contains text that is not UTF-8"
    ):
        doctor.main([str(table), "--model", str(model), "--render-sample", "2"])
