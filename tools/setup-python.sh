#!/usr/bin/env bash
# Make the project's virtual environment once: setup-python.sh [DIRECTORY]
# Does nothing while pyproject.toml is the one that was installed from.
set -euo pipefail
cd "$(dirname "$0")/.."

venv="${1:-.venv}"
stamp="$venv/.installed-from"
wanted="$(cksum < pyproject.toml) $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c "" 2>/dev/null; then
    exit 0
fi

find_python() {
    local name
    for name in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        [ -n "$name" ] || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "dinoscope needs Python 3.11 or newer; none was found on the path." >&2
    echo "Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2
    return 1
}

if ! "$venv/bin/python" -c "" 2>/dev/null; then
    python="$(find_python)"
    echo "== virtual environment $venv from $("$python" --version) ($python)"
    rm -rf "$venv"
    # Debian keeps the installer of pip inside an environment in another package (python3-venv);
    # where that is missing, the pip outside fills the environment.
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet pip
    fi
fi

echo "== installing dinoscope and its tests (several minutes the first time: torch is large)"
# One call for everything: torch and torchvision are resolved together and fit each other.
# The log is kept out of sight and shown when something goes wrong.
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
started=$SECONDS
if ! "$venv/bin/python" -m pip install --no-input --progress-bar off -e ".[test]" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "The installation failed; the lines above say why. Mend it and run the same command again." >&2
    exit 1
fi
echo "== installed in $((SECONDS - started)) s"
echo "$wanted" >"$stamp"
