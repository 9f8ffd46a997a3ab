#!/usr/bin/env bash
# Sets up the environment with the development tools, then runs every check and the tests.
#
#   bash scripts/test.sh [--complete] [pytest arguments]
#
# Without --complete the tests marked `slow` are left out: there is one of every kind in the rest.
set -euo pipefail
arguments=(-m "not slow")
if [ "${1:-}" = --complete ]; then
    shift
    arguments=()
fi
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/environment.sh" dev
started=$SECONDS

# The page is tested in a real browser.
if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
    debian_packages chromium
fi

say "Lint"
ruff check .
git ls-files '*.sh' | while IFS= read -r script; do bash -n "$script"; done
say "Format"
ruff format --check .
say "Types"
ty check
say "Tests"
# One thread a process: the tests are small, and processes share the cores better than threads do.
export OMP_NUM_THREADS=1
python -m pytest -n "${MGM_TEST_WORKERS:-auto}" --dist loadscope "${arguments[@]}" "$@"
say "All checks passed in $((SECONDS - started)) s"
