"""The published commands, in a folder with their layout."""

import subprocess
from pathlib import Path

import pytest

from tests.eval.fixtures import make_all
from tests.preloaded import environment
from tests.serve.servers import ROOT
from tests.tiny_model import build

NAMES = ("textvqa", "mmbench", "mme", "mmvet", "mmmu", "mmmu_test", "math_vista")
LEFT = {
    "textvqa": ["work_dirs/textvqa/answers/MGM/tiny/merge.jsonl"],
    "mmbench": [
        "data/MGM-Eval/mmbench/answers/mmbench_dev_20230712/MGM/tiny.jsonl",
        "data/MGM-Eval/mmbench/answers_upload/mmbench_dev_20230712/MGM/tiny.xlsx",
    ],
    "mme": [
        "data/MGM-Eval/MME/answers/MGM/tiny.jsonl",
        "data/MGM-Eval/MME/eval_tool/answers/MGM/tiny/existence.txt",
    ],
    "mmvet": ["data/MGM-Eval/mm-vet/results/MGM/tiny/MGM/tiny.json"],
    "mmmu": ["work_dirs/MMMU/answers/MGM/tiny/merge.jsonl", "work_dirs/MMMU/MGM/tiny/val.json"],
    "math_vista": ["data/MGM-Eval/MathVista/answers/MGM/tiny/merge.jsonl"],
}


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    make_all(folder / "data" / "MGM-Eval")
    (folder / "work_dirs" / "MGM").mkdir(parents=True)
    build(folder / "work_dirs" / "MGM" / "tiny", positions=2048)
    return folder


def test_all_published_commands_exist():
    for family in ("gemma", "llama", "llama3", "mixtral", "yi"):
        names = {path.stem for path in (ROOT / "scripts" / family / "eval").glob("*.sh")}
        assert names == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT)
def test_commands_write_the_published_files(work_folder, name):
    ended = subprocess.run(
        ["bash", str(ROOT / "scripts" / "llama" / "eval" / f"{name}.sh"), "--device", "cpu"],
        cwd=work_folder,
        env=environment(CKPT="MGM/tiny", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    for path in LEFT[name]:
        assert (work_folder / path).stat().st_size > 0, path
