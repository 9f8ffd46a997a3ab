# Makes the environment .venv and activates it; sourced by the other scripts.
#
#   source scripts/environment.sh EXTRA     EXTRA: an extra of pyproject.toml (playground, dev, ...)
#
# MGM_PYTHON names the Python to use, MGM_VENV the environment's folder (default .venv).
# An environment that already fits is used as it is.

mgm_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$mgm_root" || exit 1

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# Install Debian packages, or say which ones to install where we may not.
debian_packages() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            say "error: these system packages are missing; install them, then run this again:"
            say "    sudo apt-get install -y $*"
            exit 2
        fi
    fi
    say "Installing system packages: $*"
    "${as_root[@]}" apt-get update -qq >/dev/null
    if ! DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq \
        --no-install-recommends "$@" >/dev/null; then
        say "error: apt-get could not install: $*"
        exit 2
    fi
}

# Whether a Python is there and of a version that the project runs on.
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

python=${MGM_PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3.13 python3; do
        if fits "$candidate"; then
            python=$candidate
            break
        fi
    done
fi
if [ -z "$python" ]; then
    debian_packages python3 python3-venv
    python=python3
fi
if ! fits "$python"; then
    say "error: $python is not Python 3.11 to 3.13; install one and name it with MGM_PYTHON"
    exit 2
fi

extra=$1
environment=${MGM_VENV:-.venv}
# pip comes before this script: where it is missing, making the environment was interrupted.
if [ ! -f "$environment/bin/activate" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        debian_packages python3-venv
    fi
    say "Making the environment $environment"
    "$python" -m venv "$environment" || exit 1
fi
# shellcheck disable=SC1091
source "$environment/bin/activate"

stamp="$environment/.mgm-$extra"
wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    say "Installing mgm[$extra] (a few minutes, about 6 GB the first time)"
    pip install --quiet --disable-pip-version-check --root-user-action=ignore \
        --constraint constraints.txt --editable ".[$extra]" || exit 1
    echo "$wanted" >"$stamp"
fi

# Fonts for the pictures that the playground draws.
fonts=$(python -m playground.faces) || exit 1
if [ -n "$fonts" ]; then
    # shellcheck disable=SC2086
    debian_packages $fonts
fi
export TOKENIZERS_PARALLELISM=false
