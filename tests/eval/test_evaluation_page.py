"""The example benchmark in docs/evaluation.md works as written."""

import base64
import re
from pathlib import Path

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Response
from mgm.eval.registry import BENCHMARK_GROUPS, BENCHMARKS
from mgm.eval.report.scoring import score_responses
from tests.eval.fixtures import png
from tests.eval.tasks.test_dataset_source import table

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_example(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (code,) = [block for block in blocks if "(Benchmark)" in block]
    names: dict = {}
    exec(code, names)
    signs = names["Signs"]()
    row = {"question": "Which?", "A": "stop", "B": "go", "category": "road"}
    rows = [row | {"index": str(n), "answer": answer,
                   "image": base64.b64encode(png("red")).decode()}
            for n, answer in enumerate("AB")]  # fmt: skip
    table(tmp_path / "signs.tsv", rows)
    questions = list(signs.questions(tmp_path, "test", "paper"))
    responses = [Response(one, "B") for one in questions]
    score = score_responses(signs, "test", "paper", questions, responses, Judge())
    assert (score.value, score.complete, score.parts) == (50, True, {"road": (50, 2)})


def test_every_benchmark_is_listed():
    groups = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE))
    for group in ("paper", "highres"):
        (names,) = re.findall(r"`([^`]+)`", groups[group])
        assert set(names.split()) == set(BENCHMARK_GROUPS[group])
    assert all(name in PAGE for name in BENCHMARKS if name != "nano")
