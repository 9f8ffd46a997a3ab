"""Multiple-choice benchmarks from tables and hub data sets to scores."""

import base64
from pathlib import Path

import pytest

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Response
from mgm.eval.prepare import main as prepare
from mgm.eval.registry import BENCHMARKS, expand_groups, get_benchmark
from mgm.eval.report.scoring import score_responses
from tests.eval.differential.made_up import OTHERS
from tests.eval.fixtures import png
from tests.eval.tasks.test_dataset_source import image, parquet, table

LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
CHOICES = {"question": "Which?", "A": "red", "B": "blue", "answer": "B", "category": "colour"}
ENCODED = base64.b64encode(png("red")).decode()
# File, rows and prompt of each: of lmms-eval, and of VLMEvalKit.
HUB = {
    "vstar:test": (
        "data/test-0.parquet",
        [{"image": image(), "text": "Which? (A) red (B) blue", "label": "B", "question_id": "7",
          "category": "relative_position"}],
        f"Which?\nA. red\nB. blue\n{LETTER_PROMPT}",
    ),
    "hrbench:8k": (
        "hrbench_version_split/hrbench_8k-0.parquet",
        [CHOICES | {"index": n, "image": ENCODED, "cycle_category": str(n)} for n in range(4)],
        "Which?\nA. red\nB. blue\nAnswer the option letter directly.",
    ),
    "mme-realworld:lite": (
        "data/train-0.parquet",
        [{"index": 3, "bytes": ENCODED, "question": "Which?", "answer": "B",
          "multi-choice options": ["(A) red", "(B) blue"], "category": "Perception/OCR",
          "l2-category": "sign"}],
        "Which? The choices are listed below:\n(A) red\n(B) blue\nSelect the best answer to the "
        "above multiple-choice question based on the image. Respond with only the letter (A, B, C, "
        "D, or E) of the correct option.\nThe best answer is: ",
    ),
    "ai2d:test-no-mask": (
        "data/test-0.parquet",
        [{"image": image(), "question": "Which?", "options": ["red", "blue"], "answer": "1"}],
        f"Which?\nA. red\nB. blue\n{LETTER_PROMPT}",
    ),
    "realworldqa:test": (
        "data/test-0.parquet",
        [{"image": image(), "question": "Which? ", "answer": one} for one in ("B", "Downhill")],
        "Which?",
    ),
    "mmvp:test": (
        "data/train-0.parquet",
        [{"Index": n, "image": image(), "Question": "Open?", "Options": "(a) yes (b) no",
          "Correct Answer": right} for n, right in ((1, "(a)"), (2, "(b)"))],
        f"Open?\nA. yes\nB. no\n{LETTER_PROMPT}",
    ),
    "mmstar:val": (
        "mmstar.parquet",
        [{"index": 0, "question": "Which? A: red, B: blue", "image": image(), "answer": "B",
          "category": "math", "l2_category": "geometry", "meta_info": {"source": "x"}}],
        f"Which? A: red, B: blue\n{LETTER_PROMPT.removesuffix('.')}",
    ),
    "mmmu-pro:vision": (
        "vision/test-0.parquet",
        [{"id": "test_Art_1", "image": image(), "options": "['red', 'blue']", "answer": "B",
          "subject": "Art"}],
        "Answer with the option letter from the given choices directly.",
    ),
}  # fmt: skip
SELECT = "Question: Which?\nOptions:\nA. red\nB. blue\n" + (
    "Please select the correct answer from the options above. \n"
)
TABLES = {
    "vstar:test": ("VStarBench.tsv", {}, SELECT),
    "hrbench:4k": ("hr_bench_4k.tsv", {"cycle_category": "0"}, SELECT),
    "mme-realworld:lite": (
        "mme_realworld_lite.tsv",
        {"multi-choice options": "['(A) red', '(B) blue']", "l2-category": "sign"},
        HUB["mme-realworld:lite"][2].replace(".\nThe best answer is: ", ". \nThe best answer is:"),
    ),
    "mme-realworld:test": (
        "MME-RealWorld.tsv",
        {"multi-choice options": "The choices are listed below:\n(A) red\n(B) blue"},
        HUB["mme-realworld:lite"][2].replace(".\nThe best answer is: ", ". \nThe best answer is:"),
    ),
    "ai2d:test": ("AI2D_TEST.tsv", {}, SELECT),
    "realworldqa:test": ("RealWorldQA.tsv", {}, SELECT),
    "mmvp:test": ("MMVP.tsv", {}, SELECT),
    "mmstar:val": ("MMStar.tsv", {}, SELECT),
    "mmmu-pro:vision": (
        "MMMU_Pro_V.tsv",
        {},
        "Answer the following multiple-choice question in the image. Answer directly with the "
        "option letter from the given choices. ",
    ),
}


def check(name: str, protocol: str, folder: Path, prompt: str) -> list:
    """The questions, after checking that only right responses get full credit."""
    kind, split = get_benchmark(name)
    kind.check(split, protocol)
    questions = list(kind.questions(folder, split, protocol))
    assert questions[0].text == prompt
    assert [Path(str(one)).read_bytes() for one in questions[0].images] == [png("red")]
    full = [Response(one, one.target) for one in questions]
    score = score_responses(kind, split, protocol, questions, full, Judge())
    assert score.value == 100
    assert not score.complete
    assert score.judge == ("rules" if protocol in kind.judged else "")
    junk = [Response(one, "%") for one in questions]
    assert score_responses(kind, split, protocol, questions, junk, Judge()).value == 0
    return questions


@pytest.mark.parametrize("name", HUB)
def test_hub_data_sets(tmp_path, name):
    folder, rows, prompt = HUB[name]
    parquet(tmp_path / "hub" / folder, rows)
    assert len(check(name, "lmms-eval", tmp_path, prompt)) == len(rows)


@pytest.mark.parametrize("name", TABLES)
def test_vlmevalkit_tables(tmp_path, name):
    file, more, prompt = TABLES[name]
    row = CHOICES | {"image": ENCODED} | more
    category = {"category": "Perception/OCR"} if name.startswith("mme") else {}
    table(tmp_path / file, [row | category | {"index": str(n)} for n in range(2)])
    assert len(check(name, "vlmevalkit", tmp_path, prompt)) == 2


def test_mmmu_pro_letter_after_the_mark(tmp_path):
    folder, rows, _ = HUB["mmmu-pro:vision"]
    parquet(tmp_path / "hub" / folder, rows)
    kind = BENCHMARKS["mmmu-pro"]
    (question,) = kind.questions(tmp_path, "vision", "official")
    assert question.text.endswith("where LETTER is one of options.")
    expected = {"It is A. Answer: B": 1, "Answer: A or B": 1, "Answer: A": 0, "(B)": 1}
    for text, credit in expected.items():
        assert kind.score_one(Response(question, text), "official", Judge()) == credit
    drawn = [kind.score_one(Response(question, text), "official", Judge()) for text in ("hm", "?")]
    assert drawn[0] == drawn[1]


def test_parts():
    """Single questions of MMVP; perception and reasoning of MME-RealWorld."""
    mmvp, kinds = BENCHMARKS["mmvp"], BENCHMARKS["mme-realworld"]
    rows = [CHOICES | {"index": str(n)} for n in range(4)]
    pairs = [mmvp.row_to_question(row, (), "vlmevalkit", n) for n, row in enumerate(rows, start=1)]
    assert mmvp.combine(pairs, [1, 1, 1, 0]) == 50
    assert mmvp.combine(pairs[:3], [1, 0, 1]) == 0  # half of a pair does not count
    assert mmvp.parts(pairs, [1, 1, 1, 0]) == {"single questions": (75, 4)}
    row = HUB["mme-realworld:lite"][1][0]
    others = [row, row | {"category": "Reasoning/OCR"}]
    questions = [
        kinds.row_to_question(dict(one), (Path("1.png"),), "lmms-eval", 1) for one in others
    ]
    assert kinds.parts(questions, [1, 0]) == {
        "Perception": (100, 1), "Reasoning": (0, 1), "Perception/OCR": (100, 1),
        "Reasoning/OCR": (0, 1),
    }  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_any_response_is_scored(tmp_path, name):
    folder, rows, _ = HUB[name]
    parquet(tmp_path / "hub" / folder, rows)
    kind, split = get_benchmark(name)
    question = next(kind.questions(tmp_path, split, "lmms-eval"))
    for text in (*OTHERS, "B" * 100_000):
        response = kind.filter_response(Response(question, text), "lmms-eval")
        assert kind.score_one(response, "lmms-eval", Judge()) in (0, 1)


def test_groups():
    assert expand_groups(["paper"]) == ["textvqa", "mmbench", "mme", "mmvet", "mmmu", "mathvista"]
    highres = expand_groups(["highres", "vstar", "mme"])
    assert len(highres) == len(set(highres))
    assert {"vstar", "hrbench", "hrbench:8k", "mme-realworld", "mme"} <= set(highres)
    assert set(expand_groups(["all"])) - {"hrbench:8k"} == set(BENCHMARKS) - {"nano"}
    for name in expand_groups(["all"]):
        get_benchmark(name)


def test_prepare_lists_tables(tmp_path, caplog):
    caplog.set_level("INFO", "mgm.eval")
    words = ["--protocol", "vlmevalkit", "--data-dir", str(tmp_path), "--offline"]
    assert prepare(["hrbench:8k", "mme-realworld", "mmbench", *words]) == 1
    text = caplog.text
    assert "huggingface.co/datasets/DreamMr/HR-Bench/resolve/main/hr_bench_8k.tsv" in text
    assert "utils/benchmarks/MMBench/MMBench_DEV_EN.tsv" in text
    assert "MME-RealWorld.tsv\n" in text
