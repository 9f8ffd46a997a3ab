"""Git worktrees at a fixed commit, so that later changes of the code do not affect a run."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mgm.errors import MGMError, one_line


@dataclass(frozen=True)
class Checkout:
    """A folder with the code of one commit.

    Attributes:
        folder: root folder of the code.
        commit: hash of the commit, with the suffix "+changes" if tracked files differ from it.
    """

    folder: Path
    commit: str

    def environment(self) -> dict[str, str]:
        """Environment variables of programs that run its code, with one thread each."""
        python = Path(sys.executable).parent  # on PATH, as the scripts call `python`
        return os.environ | {
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # As in playground/recipe.sh: keep freed memory, since each step allocates the same.
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": "100000000000",
        }


def current_checkout(folder: Path) -> Checkout:
    """Get the code in a folder in its current state.

    Raises:
        MGMError: the folder is not in a git repository.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Checkout(folder, f"{commit}+changes" if changed else commit)


def worktree_at(repository: Path, commit: str, folder: Path) -> Checkout:
    """Get a worktree of `repository` at a commit; reuses that of an earlier run.

    Args:
        repository: any folder of the repository.
        commit: any revision that git understands.
        folder: parent folder of the worktree, whose name contains the hash.

    Raises:
        MGMError: the commit is unknown, or the worktree was changed.
    """
    full = _git(repository, "rev-parse", "--verify", f"{commit}^{{commit}}")
    path = folder / f"code-{full[:12]}"
    if not (path / ".git").exists():
        _git(repository, "worktree", "prune")
        _git(repository, "worktree", "add", "--force", "--detach", str(path), full)
    checkout = current_checkout(path)
    if checkout.commit != full:
        raise MGMError(f"{path}: differs from {full}; remove it, git worktree prune, and run again")
    return checkout


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        reason = one_line(getattr(error, "stderr", None) or error)
        raise MGMError(f"git {' '.join(arguments)}: {reason}") from error
    return done.stdout.strip()
