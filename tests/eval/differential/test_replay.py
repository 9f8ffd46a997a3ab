"""Our protocols score and prompt like the harnesses, on recorded responses."""

from pathlib import Path

import pytest

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.registry import get_benchmark
from tests.eval.differential.case import FIXTURES, Case, Record, all_cases, read_fixture
from tests.eval.scripted_judge import ScriptedJudge

MIN_ANSWERS, MIN_SETS, MIN_PROMPTS = 2000, 300, 100
LARGEST = 150_000  # maximum bytes of a fixture
CASES = {case.name: case for case in all_cases()}


def replayed_question(case: Case, record: Record) -> Question:
    if case.question is not None:
        return case.question(record)
    kind, _ = get_benchmark(case.benchmark)
    images = tuple(Path(f"{n + 1}.png") for n in range(record.get("images_in_row", 1)))
    return kind.row_to_question(dict(record["row"]), images, case.protocol, record.get("number", 1))


def credit(case: Case, record: Record, question: Question) -> float:
    kind, _ = get_benchmark(case.benchmark)
    judge = ScriptedJudge(*record["replies"]) if "replies" in record else Judge()
    response = kind.filter_response(Response(question, record["answer"]), case.protocol)
    score = kind.score_one(response, case.protocol, judge)
    if isinstance(judge, ScriptedJudge):
        assert judge.replies == [], "the judge was asked less often than by the harness"
    return score


def differing(case: Case, records: list[Record]) -> list[int]:
    """Numbers of the records that we score or prompt differently."""
    kind, _ = get_benchmark(case.benchmark)
    questions: dict[int, Question] = {}
    credits: dict[int, float] = {}
    differences = []
    for number, record in enumerate(records):
        if "set" in record:
            own = record["set"]
            score = kind.combine([questions[n] for n in own], [credits[n] for n in own])
            right = score == pytest.approx(record["score"], abs=case.rounding)
        elif "prompt" in record:
            question = replayed_question(case, record)
            right = question.text == record["prompt"]
            if "images" in record:
                names = [
                    image.decode() if isinstance(image, bytes) else Path(str(image)).name
                    for image in question.images
                ]
                right = right and names == [f"{n}.png" for n in record["images"]]
        else:
            questions[number] = replayed_question(case, record)
            credits[number] = credit(case, record, questions[number])
            expected = 0 if "raises" in record else record.get("score")
            right = expected is not None and abs(credits[number] - expected) < 1e-6
        if not right:
            differences.append(number)
    return differences


@pytest.mark.parametrize("name", CASES)
def test_protocols_equal_their_harness(name):
    case = CASES[name]
    header, records = read_fixture(case)
    assert (header["harness"], tuple(header["functions"])) == (case.harness, case.functions)
    assert len(header["commit"]) >= 7
    assert case.fixture.stat().st_size < LARGEST
    assert sum("answer" in r and case.differs(r) is None for r in records) >= MIN_ANSWERS
    assert sum("set" in record for record in records) >= MIN_SETS
    if any("prompt" in record for record in records):
        assert sum("prompt" in record for record in records) >= MIN_PROMPTS
    listed = [number for number, record in enumerate(records) if case.differs(record)]
    others = differing(case, records)
    assert [records[number] for number in others if number not in set(listed)] == []
    assert others == listed


def test_every_fixture_has_a_case():
    assert {path.name for path in FIXTURES.iterdir()} == {c.fixture.name for c in CASES.values()}
