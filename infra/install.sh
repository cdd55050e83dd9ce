#!/bin/sh
# Makes .venv from a hashed lock on a machine that has only Python.
# usage: infra/install.sh requirements.lock
set -eu

lock=$1
stamp=.venv/.lineside-$(basename "$lock")
want=$(cat "$lock" pyproject.toml | cksum)
if [ -x .venv/bin/lineside ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    exit 0
fi

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    [ -n "$candidate" ] || continue
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))'; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Lineside needs Python 3.11, 3.12 or 3.13: install it, or name it with PYTHON=/path/to/python3.11" >&2
    exit 2
fi

free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
if [ ! -x .venv/bin/python ] && [ "$free_kb" -lt 9000000 ]; then
    echo "Lineside needs about 9 GB of free disk for its packages; $((free_kb / 1024)) MB are free here" >&2
    exit 2
fi

# Debian's Python refuses `pip install` outside a virtual environment and may lack the venv module.
if [ ! -x .venv/bin/python ]; then
    echo "making .venv with $($python --version)" >&2
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --python "$python" .venv
    elif ! "$python" -m venv .venv >/dev/null 2>&1; then
        rm -rf .venv
        if "$python" -m pip --version >/dev/null 2>&1; then
            "$python" -m pip install --quiet --target .venv-tools uv &&
                .venv-tools/bin/uv venv --quiet --seed --python "$python" .venv
            rm -rf .venv-tools
        else
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            echo "this Python has neither the venv module nor pip: apt install python$version-venv" >&2
            exit 2
        fi
    fi
fi
if [ ! -x .venv/bin/uv ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
fi

echo "installing packages from $lock (several GB the first time)" >&2
# uv and pip stay out of the lock: they install it.
rm -f .venv/.lineside-*
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --require-hashes --requirement "$lock"
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable .
echo "$want" >"$stamp"
