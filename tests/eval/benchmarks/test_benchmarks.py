"""Every benchmark from its data files to its score and submission files."""

import json

import openpyxl
import pytest

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Response
from mgm.eval.registry import BENCHMARKS, get_benchmark
from mgm.eval.report.scoring import score_responses
from tests.eval.fixtures import MAKERS, make_all

COUNTS = {"textvqa": 3, "mme": 8, "mmbench": 3, "mmvet": 2, "mmmu": 30, "mathvista": 2, "pope": 6,
          "gqa": 1, "vqav2": 1, "vizwiz": 1, "seed": 2, "scienceqa": 2, "llava-bench": 1,
          "qbench": 1}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_all(tmp_path_factory.mktemp("data"))


def right(question) -> str:
    """A response with full credit."""
    answer = question.target
    if "problem" in question.metadata and question.metadata["problem"]["choices"]:
        return f"({'AB'[question.metadata['problem']['choices'].index(answer)]})"
    if isinstance(answer, list):
        return answer[0]
    if isinstance(answer, str) and "<" in answer:
        return answer.split("<OR>")[0].replace("<AND>", " and ")
    return str(answer)


def resolve(data, name: str, protocol: str | None = None):
    kind, split = get_benchmark(name)
    protocol = protocol or kind.protocols[0]
    return kind, split, protocol, list(kind.questions(data / kind.folder, split, protocol))


@pytest.mark.parametrize("name", MAKERS)
def test_from_files_to_score(data, name, tmp_path):
    kind, split, protocol, questions = resolve(data, name)
    assert len(questions) == COUNTS[name] == len({one.id for one in questions})
    assert all(one.images for one in questions) or name == "scienceqa"
    full = [Response(one, right(one)) for one in questions]
    score = score_responses(kind, split, protocol, questions, full, Judge())
    if split in kind.scored_splits:
        maximum = 400 if name == "mme" else 100
        assert score.value == pytest.approx(maximum)
        nothing = [Response(one, "%") for one in questions]
        worst = score_responses(kind, split, protocol, questions, nothing, Judge())
        assert worst.value < maximum
        assert worst.low is None or worst.low <= worst.value <= worst.high
        assert bool(score.judge) == (protocol in kind.judged)
    else:
        assert score.value is None
    assert not score.complete  # the benchmark has more questions
    for path in kind.submission(full, tmp_path, split):
        assert path.stat().st_size > 0


def test_textvqa_prompts_of_protocols(data):
    texts = {protocol: [one.text for one in resolve(data, "textvqa", protocol)[3]] for protocol in
             ("paper", "lmms-eval", "vlmevalkit")}  # fmt: skip
    short = "\nAnswer the question using a single word or phrase."
    assert texts["paper"][0] == f"What BRAND is it?\nReference OCR token: ROLEX, 12{short}"
    assert texts["lmms-eval"][0] == f"What brand is it?{short}"
    assert texts["vlmevalkit"][0] == f"What BRAND is it?{short}"


def test_mme_accuracy_plus(data):
    kind, split, protocol, questions = resolve(data, "mme")
    responses = [Response(one, "Yes") for one in questions]
    score = score_responses(kind, split, protocol, questions, responses, Judge())
    assert score.value == 100  # half of the answers of two kinds, no image
    assert score.parts["perception"] == (100, 8)
    assert {one.text for one in questions if one.category == "artwork"} == {
        f"Is it {word}?\nAnswer the question using a single word or phrase." for word in
        ("red", "blue")
    }  # fmt: skip


def test_mmbench_circular_rounds(data, tmp_path):
    kind, split, protocol, questions = resolve(data, "mmbench")
    assert questions[0].text == (
        "Look.\nWhich colour?\nA. red\nB. blue\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert questions[1].text.startswith("How many?\nA. one")
    assert questions[2].images == questions[0].images
    responses = [
        Response(one, "B") for one in questions
    ]  # right in one of two rounds, and once alone
    assert score_responses(kind, split, protocol, questions, responses, Judge()).value == 50
    _, sheet = kind.submission(responses, tmp_path, split)
    rows = list(openpyxl.load_workbook(sheet).active.values)
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1][0] == 0
    assert rows[1][6] == "B"


def test_mmmu_random_letter_is_deterministic(data):
    kind, split, protocol, questions = resolve(data, "mmmu")
    responses = [Response(one, "no idea") for one in questions]
    first = score_responses(kind, split, protocol, questions, responses, Judge())
    again = score_responses(kind, split, protocol, questions, list(reversed(responses)), Judge())
    assert first.credits == again.credits
    assert 0 < first.value < 100
    assert len(questions[0].images) == 1
    assert len(resolve(data, "mmmu", "official")[3][0].images) == 2
    full = [Response(one, right(one)) for one in questions]
    as_lmms = score_responses(kind, split, "lmms-eval", questions, full, Judge())
    assert as_lmms.value == pytest.approx(90)  # open questions are never right there


def test_missing_and_damaged_files(data, tmp_path):
    for name in MAKERS:
        kind, split = get_benchmark(name)
        with pytest.raises(MGMError, match="is missing"):
            list(kind.questions(tmp_path / kind.folder, split, kind.protocols[0]))
    make = tmp_path / "damaged"
    MAKERS["gqa"](make)
    (make / "gqa" / "llava_gqa_testdev_balanced.jsonl").write_text('{"question_id": "20"')
    with pytest.raises(MGMError, match="line 1: not JSON"):
        resolve(make, "gqa")
    MAKERS["textvqa"](make)
    truth = make / "textvqa" / "TextVQA_0.5.1_val.json"
    truth.write_text(json.dumps({"data": []}))
    with pytest.raises(MGMError, match=r"use version 0\.5\.1 of both files"):
        resolve(make, "textvqa")


def test_names():
    assert get_benchmark("mmmu:test")[1] == "test"
    with pytest.raises(MGMError, match="choose from textvqa"):
        get_benchmark("imagenet")
    with pytest.raises(MGMError, match="choose from val, test, dev"):
        BENCHMARKS["mmmu"].check("train", "paper")
    with pytest.raises(MGMError, match="unknown protocol 'official'"):
        BENCHMARKS["textvqa"].check("val", "official")
