"""`--ablate` on native, published and HD checkpoints."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import mgm
from mgm.errors import MGMError
from mgm.eval.__main__ import main
from mgm.eval.ablation import study
from mgm.eval.report.score import load_score
from tests.eval.fixtures import gqa, lines
from tests.golden_files import golden
from tests.tiny_model import build

PICTURES = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A generated nano data set with two questions per image."""
    folder = tmp_path_factory.mktemp("data") / "nano"
    (folder / "images").mkdir(parents=True)
    records = []
    for number in range(PICTURES):
        noise = Image.effect_noise((48, 40), 90).convert("RGB")
        colour = Image.new("RGB", noise.size, ("red", "green", "blue")[number % 3])
        Image.blend(noise, colour, 0.6).save(folder / "images" / f"{number}.png")
        turns = [("human", "<image>\nWhich colour?"), ("gpt", "red"),
                 ("human", "Which number?"), ("gpt", str(number))]  # fmt: skip
        records.append(
            {
                "id": str(number),
                "image": f"{number}.png",
                "conversations": [{"from": who, "value": text} for who, text in turns],
                "kinds": ["shape/color", "shape/number"],
            }
        )
    (folder / "conversations.json").write_text(json.dumps(records))
    return folder.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "tiny", positions=1024)


def words(data: Path, model: Path, output: Path, *more: str) -> list[str]:
    start = ["--model-path", str(model), "--device", "cpu", "--data-dir", str(data)]
    return [
        *start,
        "--benchmark",
        "nano",
        "--max-new-tokens",
        "4",
        "--output-dir",
        str(output),
        *more,
    ]


def test_the_command_line(data, folder, tmp_path, capfd) -> None:
    names = ["hr_off", "grey_vit", "one_query", "blur:24"]
    assert main(words(data, folder, tmp_path, "--ablate", *names)) == 0
    printed = capfd.readouterr().out
    assert "| full model |  | 0.0 (0.0 to " in printed
    for name in names:
        assert re.search(rf"\| {name} \| .* \| 12 \|", printed), name
    kept = tmp_path / "nano/held_out/paper"
    scores = [load_score(kept / "ablations" / f"{n.replace(':', '-')}.json") for n in names]
    assert [score.questions for score in scores] == [2 * PICTURES] * 4
    assert [score.run for score in scores] == [{"ablation": name} for name in names]
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [one["name"] for one in result["ablations"]] == names
    assert result["utilisation"] == []  # no right response that could be lost
    report = (tmp_path / "report.md").read_text()
    assert report.endswith(printed[printed.index("\n### nano pictures, paper: ablations") :])
    assert "<h3>ablations</h3>" in (tmp_path / "report.html").read_text()
    lines = (tmp_path / "answers/answers-0.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == 5 * 2 * PICTURES
    # Responses are cached; a run without ablations keeps them in the report.
    assert main(words(data, folder, tmp_path, "--ablate", *names, "--score-only")) == 0
    assert capfd.readouterr().out == printed
    assert main(words(data, folder, tmp_path)) == 0
    assert "ablation" not in capfd.readouterr().out
    assert (tmp_path / "report.md").read_text() == report
    assert (tmp_path / "answers/answers-0.jsonl").read_text().splitlines() == lines
    # They are not shown beside a score of other questions.
    assert main(words(data, folder, tmp_path, "--limit", "6")) == 0
    assert "ablations" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("name", ["MGM-7B", pytest.param("MGM-7B-HD", marks=pytest.mark.slow)])
def test_published_checkpoints(data, name, tmp_path, capfd) -> None:
    model = golden(f"work_dirs/MGM/{name}")
    ablations = ["utilisation", "pool", "one_query", "shift", "blur", "stage_mean:1", "hr_only"]
    assert main(words(data, model, tmp_path, "--limit", "2", "--ablate", *ablations)) == 0
    printed = capfd.readouterr().out
    rows = [line.strip("| ") for line in printed[printed.index(": ablations") :].splitlines()[4:]]
    blur = "blur:672" if name.endswith("HD") else "blur:336"
    assert [row.split(" | ")[0] for row in rows] == [
        "full model", "hr_off", "grey_vit", "pool", "one_query", "shift:1", blur, "stage_mean:1",
        "hr_only",
    ]  # fmt: skip
    texts = [json.loads(one)["text"] for one in (tmp_path / "answers/answers-0.jsonl").open()]
    assert len(texts) == 9 * 2
    # hr_off and grey_vit follow the full model, in the order of their names.
    assert texts[:2] not in (texts[2:4], texts[4:6])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ablate", "hr"], "--ablate hr: unknown ablation"),
        (["--ablate", "blur:64"], "--ablate blur:64: config: fusion.blur_high_resolution is 64"),
        (["--ablate", "pool", "shift:2", "--score-only"], "--ablate shift:2: config: fusion."),
        (["--ablate", "shift:2"], "valid: below 2, the windows of a crop's side"),
        (["--ablate", "pool", "--score-only"], "no responses yet"),
    ],
)
def test_unsupported_models(data, folder, tmp_path, more, message) -> None:
    with pytest.raises(MGMError) as error:
        main(words(data, folder, tmp_path, *more))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("ablations.json"))


@pytest.mark.parametrize(
    "where", ["--endpoint http://127.0.0.1:9/v1 --model x", "--predictions answers.jsonl"]
)
def test_ablation_needs_a_local_model(data, where) -> None:
    line = f"--benchmark nano --data-dir {data} {where} --ablate pool"
    with pytest.raises(MGMError, match=r"--ablate has no effect with --.*, only with --model-path"):
        main(line.split())


def ablation_names(output: Path) -> list[str]:
    (result,) = json.loads((output / "results.json").read_text())["results"]
    return [one["name"] for one in result["ablations"]]


def test_ablations_without_responses_are_listed(data, folder, tmp_path, caplog, capfd) -> None:
    """A blur is found by its number under either name."""
    assert main(words(data, folder, tmp_path, "--ablate", "hr_off", "blur")) == 0
    more = ["hr_off", "pool", "blur:28", "blur", "shift"]
    assert main(words(data, folder, tmp_path, "--ablate", *more, "--score-only")) == 0
    assert "nano:held_out: not run yet with --ablate pool shift:1" in caplog.text
    assert ablation_names(tmp_path) == ["hr_off", "blur:28"]
    before = (tmp_path / "report.md").read_text()
    assert main(words(data, folder, tmp_path, "--ablate", "pool", "--score-only")) == 2
    assert "with --ablate pool; run again without --score-only" in caplog.text
    assert (tmp_path / "report.md").read_text() == before
    capfd.readouterr()
    assert main(words(data, folder, tmp_path, "--ablate", "hr_off", "blur", "--dry-run")) == 0
    assert "12 questions, protocol paper, repeated with 2 ablations: 36 responses" in (
        capfd.readouterr().out
    )


@pytest.mark.parametrize("failing", ["hr_off", "pool"])
def test_failed_ablation_does_not_end_the_others(
    data, folder, tmp_path, monkeypatch, capfd, caplog, failing
) -> None:
    original = study.run_ablation

    def run_ablation(ablation, *others):
        if ablation.name == failing:
            raise MGMError("out of memory")
        return original(ablation, *others)

    monkeypatch.setattr(study, "run_ablation", run_ablation)
    assert main(words(data, folder, tmp_path, "--ablate", "hr_off", "pool")) == 2
    assert f"error: nano:held_out, --ablate {failing}: out of memory" in caplog.text
    assert "nano pictures (nano:held_out)" in capfd.readouterr().out
    assert ablation_names(tmp_path) == [{"hr_off": "pool", "pool": "hr_off"}[failing]]


def test_failed_benchmark_does_not_end_the_others(data, folder, tmp_path, monkeypatch) -> None:
    original = study.score_responses

    def score_responses(kind, *others, **keywords):
        if kind.name == "nano":
            raise MGMError("no answer can be scored")
        return original(kind, *others, **keywords)

    gqa(data)
    monkeypatch.setattr(study, "score_responses", score_responses)
    line = words(data, folder, tmp_path, "--ablate", "pool")
    line.insert(line.index("nano") + 1, "gqa")
    assert main(line) == 2
    tables = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("ablations.json")]
    assert tables == ["gqa"]


def test_ablations_of_other_responses_are_not_shown(data, folder, tmp_path) -> None:
    """Although score and number of questions are equal."""
    assert main(words(data, folder, tmp_path, "--ablate", "hr_off")) == 0
    assert ablation_names(tmp_path) == ["hr_off"]
    file = tmp_path / "other.jsonl"
    names = [f"{picture}/{n}" for picture in range(PICTURES) for n in range(2)]
    lines(file, [{"question_id": name, "text": "nothing"} for name in names])
    line = ["--benchmark", "nano", "--data-dir", str(data), "--output-dir", str(tmp_path)]
    assert main([*line, "--predictions", str(file)]) == 0
    assert load_score(tmp_path / "nano/held_out/paper/score.json").value == 0
    assert ablation_names(tmp_path) == []
    # Ablations of the model are kept when it is scored again.
    assert main(words(data, folder, tmp_path)) == 0
    assert ablation_names(tmp_path) == ["hr_off"]


def test_model_without_a_high_resolution_encoder(data, tmp_path) -> None:
    engine = mgm.load(build(tmp_path / "two"), device="cpu")
    engine.model.vision_tower_aux = engine.model.mining = None
    engine.model.config.vision_aux_config = None
    engine.save_pretrained(tmp_path / "one")
    with pytest.raises(MGMError, match=r"--ablate hr_off: .* no high-resolution encoder"):
        main(words(data, tmp_path / "one", tmp_path / "out", "--ablate", "hr_off"))
