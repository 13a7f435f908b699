#!/bin/sh
# Install atheris into the environment whose directory of programs is $1; make fuzz does without where that fails.
set -eu
"$1/python" -c 'import atheris' 2>/dev/null ||
    "$1/uv" pip install --quiet --python "$1/python" --only-binary :all: --require-hashes -r tests/fuzz/constraints.txt ||
    echo 'atheris is not installed, so that inputs are not guided by coverage; there are packages for Linux on x86-64' >&2
