#!/bin/sh
# Bring .venv to what requirements/LAYER.txt locks: sh requirements/install.sh run|dev
#
# Every file is checked against the digests of the lock. The lock is complete, so nothing is
# resolved here (--no-deps), and source packages are built with the locked backend.
set -eu
cd "$(dirname "$0")/.."
layer=$1
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c "$supported" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or 3.12 found; name one with PYTHON=/path/to/python3.11" >&2
    return 1
}

install() {
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-deps \
        --no-build-isolation --no-compile "$@"
}

# A CPU build where an index offers one for this machine (2.13.0+cpu), else what PyPI has.
# PIP_EXTRA_INDEX_URL adds an index.
install_torch() {
    wanted=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements/torch.txt)
    check="import importlib.metadata as m, sys
sys.exit(m.version('torch').partition('+')[0] != '$wanted')"
    if .venv/bin/python -c "$check" 2>/dev/null; then
        return
    fi
    if ! install --require-hashes -r requirements/torch-cpu.txt 2>/dev/null; then
        echo "no CPU build of torch $wanted on offer: installing PyPI's with its libraries" >&2
        install --require-hashes -r requirements/torch.txt
    fi
}

if ! .venv/bin/python -c "$supported" 2>/dev/null; then
    python=$(find_python)
    "$python" -m venv --clear .venv
fi
echo "installing requirements/$layer.txt into .venv (minutes on the first run)" >&2
install --require-hashes -r requirements/pip.txt
install_torch
install --require-hashes -r "requirements/$layer.txt"
install --editable .
.venv/bin/python -m pip --disable-pip-version-check check >&2
