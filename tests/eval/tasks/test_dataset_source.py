"""Data of lmms-eval and VLMEvalKit: hub data sets, and tables with embedded images."""

import base64
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mgm.atomic import process_tag
from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.registry import BENCHMARKS
from mgm.eval.report.scoring import score_responses
from tests.eval.fixtures import png
from tests.eval.scripted_judge import ScriptedJudge

SHORT = "Answer the question using a single word or phrase."
LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
PEOPLE = ["red"] * 6 + ["dark red"] * 4


def parquet(path: Path, rows: list[dict]) -> None:
    arrow = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    from pyarrow import parquet as files

    files.write_table(arrow.Table.from_pylist(rows), path)


def image(colour: str = "red") -> dict:
    return {"bytes": png(colour), "path": "1.png"}


def table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


HUB: Mapping[str, tuple[str, list[dict], str]] = {
    "textvqa:val": (
        "data/validation-00000-of-00001.parquet",
        [{"image_id": "a", "question_id": 7, "question": "What BRAND is it?", "image": image(),
          "answers": PEOPLE}],
        f"What brand is it?\n{SHORT}",
    ),
    "mme:test": (
        "data/test-00000-of-00001.parquet",
        [{"question_id": "code_reasoning/0020.png", "image": image(), "category": "code_reasoning",
          "question": f"Is it {word}? Please answer yes or no.", "answer": answer}
         for word, answer in (("one", "Yes"), ("two", "No"))],
        f"Is it one?\n{SHORT}",
    ),
    "mmvet:test": (
        "data/test-00000-of-00001.parquet",
        [{"question_id": "v1_0", "image": image(), "question": "What is x?", "answer": "-1",
          "capability": "ocr,math"}],
        "First please perform reasoning, and think step by step to provide best answer to the "
        "following question: \n\nWhat is x?",
    ),
    "mmbench:dev": (
        "en/dev-00000-of-00001.parquet",
        [{"index": 3, "question": "Which?", "hint": "Look.", "A": "red", "B": "blue", "C": "nan",
          "D": "nan", "answer": "B", "category": "colour", "image": image(), "source": "s",
          "L2-category": "l", "comment": "nan", "split": "dev"}],
        f"Look. Which? There are several options:\nA. red\nB. blue\n\n{LETTER_PROMPT}",
    ),
    "pope:test": (
        "data/test-00000-of-00001.parquet",
        [{"question_id": str(n), "question": "Is there a dog?", "answer": answer,
          "image": image(), "category": "popular"} for n, answer in enumerate(("yes", "no"))],
        f"Is there a dog?\n{SHORT}",
    ),
    "scienceqa:test-img": (
        "ScienceQA-IMG/test-00000-of-00001.parquet",
        [{"image": image(), "question": "Which?", "choices": ["a", "b"], "answer": 1,
          "hint": "Think."}],
        f"Context: Think.\nWhich?\nA. a\nB. b\n{LETTER_PROMPT}",
    ),
    "seed:test": (
        "data/test-00000-of-00001.parquet",
        [{"question_id": "v1", "question": "Which?", "choice_a": "a", "choice_b": "b",
          "choice_c": "c", "choice_d": "d", "answer": "C", "data_id": "x", "data_type": "video",
          "question_type_id": 11, "image": [image(), image("blue")]}],
        f"Which?\nA. a\nB. b\nC. c\nD. d\n{LETTER_PROMPT}",
    ),
    "vqav2:val": (
        "data/validation-00000-of-00001.parquet",
        [{"question_id": 7, "image_id": 3, "question": "Which?", "answer_type": "other",
          "image": image(), "answers": [{"answer": one, "answer_id": n}
                                        for n, one in enumerate(PEOPLE)]}],
        f"Which?\n{SHORT}",
    ),
    "mathvista:testmini": (
        "data/testmini-00000-of-00001.parquet",
        [{"pid": "1", "question": "Which?", "image": "images/1.jpg", "decoded_image": image(),
          "choices": ["red", "blue"], "unit": None, "precision": None, "answer": "blue",
          "question_type": "multi_choice", "answer_type": "text", "query": "Hint: x",
          "metadata": {"task": "textbook"}}],
        f"Which?\nA. red\nB. blue\n{LETTER_PROMPT}",
    ),
    "docvqa:val": (
        "DocVQA/validation-00000-of-00001.parquet",
        [{"questionId": "337", "question": "Which NAME?", "image": image(), "docId": 279,
          "answers": ["Dr. Who", "dr who"], "data_split": "val"}],
        f"Which NAME?\n{SHORT}",
    ),
    "infovqa:val": (
        "InfographicVQA/validation-00000-of-00001.parquet",
        [{"questionId": "65718", "question": "How many?", "image": image(), "answers": ["4"],
          "answer_type": ["single span"]}],
        f"How many?\n{SHORT}",
    ),
    "chartqa:test": (
        "data/test-00000-of-00001.parquet",
        [{"type": kind, "question": "Which year?", "answer": "2018", "image": image()}
         for kind in ("human_test", "augmented_test")],
        "Which year?\nAnswer the question with a single word.",
    ),
    "ocrbench:test": (
        "data/test-00000-of-00001.parquet",
        [{"dataset": "HME100k", "question": "Write out the formula. ", "answer": ["x ^ { 2 }"],
          "question_type": "Handwritten Mathematical Expression Recognition", "image": image()},
         {"dataset": "SROIE", "question": "Who?", "answer": ["ACME", "Acme Ltd."],
          "question_type": "Key Information Extraction", "image": image()}],
        "Write out the formula.",
    ),
    "countbenchqa:test": (
        "data/test-00000-of-00001.parquet",
        [{"image": image(), "text": "Six cups.", "question": "How many cups?", "number": 6}],
        "Six cups.\n\nHow many cups?\nAnswer with a single number.",
    ),
    "vizwiz:val": (
        "data/val-00000-of-00001.parquet",
        [{"question_id": "VizWiz_val_1", "image": image(), "question": "what IS it?",
          "answers": PEOPLE, "category": "other"}],
        "What is it?\nWhen the provided information is insufficient, respond with "
        f"'Unanswerable'.\n{SHORT}",
    ),
}  # fmt: skip


def content(question: Question) -> tuple[bytes, ...]:
    return tuple(Path(str(image)).read_bytes() for image in question.images)


def right(answer: object) -> str:
    return answer[0] if isinstance(answer, list) else str(answer)


def check(name: str, protocol: str, folder: Path) -> list:
    """The questions, after checking that only right responses get full credit."""
    kind, split = BENCHMARKS[name.split(":")[0]], name.split(":")[1]
    kind.check(split, protocol)
    questions = list(kind.questions(folder, split, protocol))
    full = [Response(one, right(one.target)) for one in questions]
    score = score_responses(kind, split, protocol, questions, full, Judge())
    assert score.value == (200 if name == "mme:test" else 100)
    assert not score.complete
    junk = [Response(one, "%") for one in questions]
    assert score_responses(kind, split, protocol, questions, junk, Judge()).value == 0
    return questions


@pytest.mark.parametrize("name", HUB)
def test_hub_data_sets(tmp_path, name):
    folder, rows, prompt = HUB[name]
    parquet(tmp_path / "hub" / folder, rows)
    questions = check(name, "lmms-eval", tmp_path)
    assert len(questions) == len(rows)
    assert questions[0].text == prompt
    column = BENCHMARKS[name.split(":")[0]].sources[name.split(":")[1], "lmms-eval"].image
    images = rows[0][column] if isinstance(rows[0][column], list) else [rows[0][column]]
    assert content(questions[0]) == tuple(one["bytes"] for one in images)


def test_mmmu_as_multiple_choice_with_interleaved_images(tmp_path):
    pictures = [base64.b64encode(png(colour)).decode() for colour in ("red", "blue")]
    rows = [
        CHOICES | {"index": "1", "id": "dev_Art_1", "answer": "B", "split": "dev", "image":
                   pictures[0], "category": "Art"},
        {"index": "2", "id": "validation_Art_1", "question": "Is <image 2> as <image 1>?",
         "hint": "", "A": "<image 1>", "B": "no", "C": "", "D": "", "answer": "B",
         "split": "validation", "image": str(pictures), "category": "Art"},
        {"index": "3", "id": "validation_Art_2", "question": "How many? <image 1>", "hint": "",
         "A": "", "B": "", "C": "", "D": "", "answer": "twelve", "split": "validation",
         "image": pictures[0], "category": "Art"},
    ]  # fmt: skip
    file, mmmu = tmp_path / "MMMU_DEV_VAL.tsv", BENCHMARKS["mmmu"]
    table(file, rows)
    choice, opened = check("mmmu:val", "vlmevalkit", tmp_path)
    assert choice.text.startswith("Question: Is <image> as <image>?\nOptions:\nA. <image>\nB. no")
    assert content(choice) == (png("blue"), png("red"), png("red"))
    assert opened.text == "Question: How many? <image>\n"
    assert mmmu.score_one(Response(opened, "It is twelve."), "vlmevalkit", Judge()) == 1
    assert mmmu.score_one(Response(opened, "It is ten."), "vlmevalkit", Judge()) == 0
    assert mmmu.score_one(Response(opened, "ten"), "vlmevalkit", ScriptedJudge("B")) == 0
    assert mmmu.parts([choice, opened], [1.0, 0.0])["Art and Design"] == (50.0, 2)
    (question,) = check("mmmu:dev", "vlmevalkit", tmp_path)
    assert (question.id, len(question.images)) == ("dev_Art_1", 1)
    assert len(list((tmp_path / "unpacked").iterdir())) == 1
    assert mmmu.expected("val", "vlmevalkit") == 900
    table(file, [rows[2] | {"question": "Is it <image 3>?"}])
    with pytest.raises(MGMError, match="refers to <image 3> of 1 images"):
        list(mmmu.questions(tmp_path, "val", "vlmevalkit"))


def test_docvqa(tmp_path):
    """Also the file for its server, for splits without public targets."""
    hub, docvqa = tmp_path / "hub" / "DocVQA", BENCHMARKS["docvqa"]
    row = {"questionId": "9", "question": "Which?", "image": image(), "answers": ["a  b c"]}
    parquet(hub / "validation-0.parquet", [row])
    parquet(hub / "test-0.parquet", [row | {"answers": None}])
    (question,) = docvqa.questions(tmp_path, "val", "official")
    for protocol in ("official", "lmms-eval"):  # both collapse repeated whitespace
        assert docvqa.score_one(Response(question, "a b c"), protocol, Judge()) == 1
        assert docvqa.score_one(Response(question, "a b x"), protocol, Judge()) == pytest.approx(
            5 / 6
        )
    assert docvqa.score_one(Response(question, "x"), "lmms-eval", Judge()) == 0
    (question,) = docvqa.questions(tmp_path, "test", "official")
    (file,) = docvqa.submission([Response(question, "a b")], tmp_path, "test")
    assert json.loads(file.read_text()) == [{"questionId": 9, "answer": "a b"}]
    assert docvqa.required_files("test", "official")[0].dataset == "lmms-lab-encoder/DocVQA"


def test_gqa_images_in_separate_tables(tmp_path):
    hub = tmp_path / "hub"
    row = {"id": "20", "imageId": "n1", "question": "Which?", "answer": "red"}
    row |= {"types": {"structural": "query"}}
    parquet(hub / "testdev_balanced_instructions" / "testdev-0.parquet", [row])
    parquet(
        hub / "testdev_balanced_images" / "testdev-0.parquet", [{"id": "n1"} | {"image": image()}]
    )
    (question,) = check("gqa:testdev", "lmms-eval", tmp_path)
    assert (content(question), question.category) == ((png("red"),), "query")
    assert BENCHMARKS["gqa"].score_one(Response(question, "Red!"), "lmms-eval", Judge()) == 1
    parquet(
        hub / "testdev_balanced_images" / "testdev-0.parquet", [{"id": "n2"} | {"image": image()}]
    )
    with pytest.raises(MGMError, match="question 20 has no image n1"):
        check("gqa:testdev", "lmms-eval", tmp_path)


CHOICES = {"question": "Which?", "hint": "", "A": "red", "B": "blue", "C": "", "D": ""}
SELECT = "Question: Which?\nOptions:\nA. red\nB. blue\n" + (
    "Please select the correct answer from the options above. \n"
)
TABLES: Mapping[str, tuple[str, dict[str, str], str]] = {
    "textvqa:val": (
        "TextVQA_VAL.tsv", {"question": "What BRAND?", "answer": str(PEOPLE)},
        f"What BRAND?\n{SHORT}",
    ),
    "mme:test": (
        "MME.tsv",
        {"category": "OCR", "question": "Is it? Please answer yes or no.", "answer": "Yes"},
        "Is it? Please answer yes or no.",
    ),
    "mmvet:test": (
        "MMVet.tsv", {"question": "Who?", "answer": "a cat", "category": "rec,ocr"}, "Who?",
    ),
    "mathvista:testmini": (
        "MathVista_MINI.tsv",
        {"question": "Hint: y\nQuestion: Which?", "choices": "['red', 'blue']", "unit": "",
         "precision": "", "answer": "blue", "answer_option": "B", "task": "textbook",
         "question_type": "multi_choice", "answer_type": "text"},
        "Hint: y\nQuestion: Which?",
    ),
    "docvqa:val": (
        "DocVQA_VAL.tsv", {"question": "Which?", "answer": "['Dr. Who', 'who']"},
        f"Which?\n{SHORT}",
    ),
    "infovqa:val": (
        "InfoVQA_VAL.tsv", {"question": "Which?", "answer": "['4', 'four']"}, f"Which?\n{SHORT}",
    ),
    "chartqa:test": (
        "ChartQA_TEST.tsv", {"question": "Which?", "answer": "14", "split": "test_human"},
        f"Which?\n{SHORT}",
    ),
    "ocrbench:test": (
        "OCRBench.tsv",
        {"question": "Who?", "answer": "['ACME']", "category": "Key Information Extraction"},
        "Who?",
    ),
    "countbenchqa:test": (
        "CountBenchQA.tsv", {"question": "How many cups?", "answer": "6"},
        "How many cups? Note that: answer with a number directly e.g. 3. Do not include any "
        "additional text.",
    ),
    "pope:test": (
        "POPE.tsv", {"question": "Is there a dog?", "answer": "Yes", "category": "random"},
        "Is there a dog?",
    ),
    "mmbench:dev": ("MMBench_DEV_EN.tsv", CHOICES | {"answer": "A", "category": "c"}, SELECT),
    "mmbench:dev-cn": ("MMBench_DEV_CN.tsv", CHOICES | {"answer": "B"}, SELECT),
    "scienceqa:test-img": ("ScienceQA_TEST.tsv", CHOICES | {"answer": "B"}, SELECT),
    "seed:test-img": ("SEEDBench_IMG.tsv", CHOICES | {"answer": "A", "category": "x"}, SELECT),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_vlmevalkit_tables(tmp_path, name):
    file, row, prompt = TABLES[name]
    row = row | {"index": "5", "image": base64.b64encode(png("red")).decode()}
    rows = [row]
    if name == "mme:test":  # two questions per image
        other = {"index": "6", "question": "Is it not? Please answer yes or no.", "answer": "No"}
        rows.append(row | other)
    table(tmp_path / file, rows)
    questions = check(name, "vlmevalkit", tmp_path)
    assert questions[0].text == prompt
    assert content(questions[0]) == (png("red"),)


def test_images_of_a_table(tmp_path):
    """Several in a list, and references to an earlier row."""
    pictures = [base64.b64encode(png(colour)).decode() for colour in ("red", "blue")]
    rows = [CHOICES | {"index": "1", "answer": "A", "image": str(pictures)},
            CHOICES | {"index": "2", "answer": "A", "image": "1"},
            CHOICES | {"index": "3", "answer": "A", "image": "9"}]  # fmt: skip
    file = tmp_path / "SEEDBench_IMG.tsv"
    table(file, rows[:2])
    both = (png("red"), png("blue"))
    seed = BENCHMARKS["seed"]
    questions = list(seed.questions(tmp_path, "test-img", "vlmevalkit"))
    assert [content(one) for one in questions] == [both] * 2
    assert questions[0].images == questions[1].images  # an image is stored once
    table(file, rows)
    with pytest.raises(MGMError, match="index 3: refers to the image of '9', not an earlier row"):
        list(seed.questions(tmp_path, "test-img", "vlmevalkit"))


def test_errors(tmp_path):
    pope, vqa = BENCHMARKS["pope"], BENCHMARKS["vqav2"]
    with pytest.raises(
        MGMError,
        match=r"data/test-\*\.parquet: is missing \(data set lmms-lab-encoder/POPE\); .*prepare",
    ):
        list(pope.questions(tmp_path, "test", "lmms-eval"))
    with pytest.raises(MGMError, match=r"POPE\.tsv: is missing; .*prepare"):
        list(pope.questions(tmp_path, "test", "vlmevalkit"))
    file = tmp_path / "hub" / "data" / "test-0.parquet"
    parquet(file, [{"question": "Is it?", "image": image()}])
    fault = r"row 1: is not a record of this benchmark \(KeyError: 'answer'\)"
    with pytest.raises(MGMError, match=fault):
        list(pope.questions(tmp_path, "test", "lmms-eval"))
    file.write_bytes(b"PAR1 no")
    with pytest.raises(MGMError, match=r"test-0\.parquet: cannot be read"):
        list(pope.questions(tmp_path, "test", "lmms-eval"))
    with pytest.raises(MGMError, match=r"vqav2:val: unknown protocol 'paper'; .* lmms-eval"):
        vqa.check("val", "paper")
    with pytest.raises(MGMError, match=r"vqav2:test-dev: unknown protocol 'lmms-eval'"):
        vqa.check("test-dev", "lmms-eval")
    assert vqa.protocols_of("val") == ["lmms-eval"]


def test_data_set_is_extracted_once(tmp_path, monkeypatch):
    """Again if its files change; no partial folders remain."""
    folder, rows, _ = HUB["pope:test"]
    pope = BENCHMARKS["pope"]
    source = pope.sources["test", "lmms-eval"]
    parquet(tmp_path / "hub" / folder, rows)
    first = list(pope.questions(tmp_path, "test", "lmms-eval"))
    monkeypatch.setattr(type(source), "read", None)
    assert list(pope.questions(tmp_path, "test", "lmms-eval")) == first
    monkeypatch.undo()
    parquet(tmp_path / "hub" / folder, rows + rows)
    assert len(list(pope.questions(tmp_path, "test", "lmms-eval"))) == 4
    assert len(list((tmp_path / "unpacked").iterdir())) == 2
    (tmp_path / "hub" / folder).write_bytes(b"PAR1 no")
    with pytest.raises(MGMError, match="cannot be read"):
        list(pope.questions(tmp_path, "test", "lmms-eval"))
    assert len(list((tmp_path / "unpacked").iterdir())) == 2


def test_published_files_with_the_same_questions():
    for name in ("textvqa", "mme", "mmvet"):
        assert BENCHMARKS[name].also_published
        assert BENCHMARKS[name].protocols_of(BENCHMARKS[name].splits[0])[0] == "paper"


@pytest.mark.parametrize("protocol", ["vlmevalkit", "lmms-eval"])
def test_judge_extracts_letters(tmp_path, protocol):
    mmbench = BENCHMARKS["mmbench"]
    row = CHOICES | {"index": "5", "answer": "B", "image": base64.b64encode(png("red")).decode()}
    table(tmp_path / "MMBench_DEV_EN.tsv", [row])
    parquet(tmp_path / "hub" / "en" / "dev-0.parquet", [row | {"index": 5, "image": image()}])
    (question,) = mmbench.questions(tmp_path, "dev", protocol)
    judge = ScriptedJudge("It is hard to say.", "B")
    assert mmbench.score_one(Response(question, "the colour of the sky"), protocol, judge) == 1
    assert [temperature for _, temperature in judge.prompts] == [0, 0.5]
    assert all(
        part in judge.prompts[0][0] for part in ("Which?", "A. red", "the colour of the sky")
    )
    # No request to the judge if the rules succeed, and no random letter if the judge has none.
    assert mmbench.score_one(Response(question, "B"), protocol, ScriptedJudge()) == 1
    assert (
        mmbench.score_one(Response(question, "hm"), protocol, ScriptedJudge("no", "no", "no")) == 0
    )
    score = score_responses(
        mmbench, "dev", protocol, [question], [Response(question, "B")], Judge()
    )
    assert score.judge == "rules"


def test_damaged_rows_are_skipped(tmp_path):
    """With too many or too few columns, without an image, with an invalid image."""
    red = base64.b64encode(png("red")).decode()
    rows = [["1", "red", red], ["2", "red", red, "more"], ["3", "red", ""], ["4", "red", "[" * 99],
            ["5"], ["6", "red", str([red, 7])], ["7", "blue", "1"], ["7", "blue", red]]  # fmt: skip
    columns = ["index", "answer", "image", "question", "A", "B"]
    body = [[*row[:3], "Which?", "red", "blue", *row[3:]] if len(row) > 1 else row for row in rows]
    file = tmp_path / "SEEDBench_IMG.tsv"
    with file.open("w", newline="") as made:
        csv.writer(made, delimiter="\t").writerows([columns, *body])
    skipped: list[SkippedQuestion] = []
    questions = list(BENCHMARKS["seed"].questions(tmp_path, "test-img", "vlmevalkit", skipped))
    assert [(one.id, one.source_index) for one in questions] == [("1", "index 1"), ("7", "index 7")]
    assert [content(one) for one in questions] == [(png("red"),)] * 2
    reasons = [one.reason for one in skipped]
    assert len(reasons) == 6
    assert "row 3: more columns than the header" in reasons[0]
    assert reasons[-1] == "duplicate question id"
    with pytest.raises(MGMError, match="more columns"):
        list(BENCHMARKS["seed"].questions(tmp_path, "test-img", "vlmevalkit"))


def test_partial_extraction_is_removed(tmp_path):
    """But not one of a running process."""
    folder, rows, _ = HUB["pope:test"]
    parquet(tmp_path / "hub" / folder, rows)
    pope = BENCHMARKS["pope"]
    first = list(pope.questions(tmp_path, "test", "lmms-eval"))
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    shutil.rmtree(unpacked)
    host, own = process_tag().split("-")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        number: f".{unpacked.name}.{host}-{number}.0123abcd.part.{host}-{number}"
        for number in (int(own), ended.pid)
    }
    for name in names.values():
        (tmp_path / "unpacked" / name / "images").mkdir(parents=True)
    (tmp_path / "unpacked" / f"{unpacked.name}.{host}-{ended.pid}").mkdir()
    assert list(pope.questions(tmp_path, "test", "lmms-eval")) == first
    left = {one.name for one in (tmp_path / "unpacked").iterdir()}
    assert left == {unpacked.name, names[int(own)]}
