import subprocess

import pytest

from mgm.errors import MGMError
from playground.ablation.execution.checkout import current_checkout, worktree_at


@pytest.fixture
def repository(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", *identity, *words], cwd=tmp_path / "main", check=True)

    (tmp_path / "main").mkdir()
    git("init", "-q")
    for content in ("first", "second"):
        (tmp_path / "main/code.py").write_text(content)
        git("add", ".")
        git("commit", "-qm", content)
    return tmp_path / "main"


@pytest.mark.process
def test_worktree_has_the_code_of_its_commit_whatever_happens_in_the_repository(
    repository, tmp_path
):
    first = worktree_at(repository, "HEAD~1", tmp_path / "out")
    assert (first.folder / "code.py").read_text() == "first"
    (repository / "code.py").write_text("changed")
    assert (first.folder / "code.py").read_text() == "first"
    assert worktree_at(repository, first.commit, tmp_path / "out") == first
    head = worktree_at(repository, "HEAD", tmp_path / "out")
    assert head.folder != first.folder
    assert current_checkout(repository).commit == f"{head.commit}+changes"
    (head.folder / "code.py").write_text("changed")
    with pytest.raises(MGMError, match="differs from"):
        worktree_at(repository, "HEAD", tmp_path / "out")
    with pytest.raises(MGMError, match=r"git rev-parse .*nowhere"):
        worktree_at(repository, "nowhere", tmp_path / "out")
