#!/bin/sh
# Make .venv what this checkout needs: `sh tests/venv.sh run` for the exporter, `sh tests/venv.sh test` for its tests.
# It does nothing where all is in place. Whatever was left half-made (by Ctrl-C, a full disk, a network that failed),
# was made for another version of Python, or was moved, is made anew.
# PYTHON names the interpreter; without it, python3 or else a newer one that is found.
set -eu
purpose=$1
cd "$(dirname "$0")/.."
venv=.venv
tests=$PWD/tests

# These would have pip install somewhere else than in .venv; the other settings of pip are the user's, and stay.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    trap - EXIT
    echo "make: $*" >&2
    exit 1
}

# The tag is that of compiled modules, such as cpython-311: a package that is installed for one is none for another.
tag() {
    "$1" -c 'import sys; print(sys.implementation.cache_tag)' 2>/dev/null
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.13 python3.12 python3.11
    fi
    for python; do
        if is_new_enough "$python"; then
            return
        fi
    done
    python=$1
    version=$("$python" --version 2>&1) || fail "$python cannot be run; portspec needs Python 3.11 or later" \
        "(on Debian or Ubuntu: sudo apt-get install python3)"
    fail "portspec needs Python 3.11 or later, and $python is $version; name another one: make PYTHON=python3.12 run"
}

has_ensurepip() {
    "$python" -c 'import ensurepip; ensurepip.version()' 2>/dev/null
}

# One make at a time, for two would take each other's work for a ruin. The lock goes with the last process that has it.
exec 9<Makefile
if command -v flock >/dev/null && ! flock --nonblock 9; then
    echo 'another make is setting up .venv; waiting for it …'
    flock 9
fi

is_whole() {
    [ ! -e $venv/unfinished ] || return 1
    [ "$(cat $venv/made-for 2>/dev/null)" = "$PWD $(tag $venv/bin/python)" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$(tag "$PYTHON")" = "$(tag $venv/bin/python)" ]
}

run_needs=$(cksum pyproject.toml constraints.txt)
test_needs=$(cksum pyproject.toml tests/constraints.txt)
if is_whole && [ "$(cat $venv/run-has 2>/dev/null)" = "$run_needs" ]; then
    [ "$purpose" = test ] || exit 0
    [ "$(cat $venv/test-has 2>/dev/null)" != "$test_needs" ] || exit 0
fi

# From here on something is written.
if [ -e $venv ] && [ ! -w $venv ]; then
    fail "$PWD/$venv belongs to another user and is out of date; remove it first: sudo rm -rf $PWD/$venv"
fi
trap 'echo "make: $PWD/$venv is not finished; mend what is said above and call make again" >&2' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

pip_install() {
    $venv/bin/python -m pip install "$@"
}

if ! is_whole; then
    find_python
    if ! has_ensurepip; then
        package=python3-venv
        [ "$python" = python3 ] || package=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
        [ "$(id -u)" -ne 0 ] || sh "$tests/packages.sh" "$package"
        if ! has_ensurepip; then
            fail "$python has no ensurepip, which makes $venv; install it: sudo apt-get install $package"
        fi
    fi
    echo "setting up $venv, which takes about a minute, once …"
    rm -rf $venv
    mkdir $venv
    : >$venv/unfinished
    "$python" -m venv $venv
    echo "$PWD $(tag $venv/bin/python)" >$venv/made-for
fi
: >$venv/unfinished
rm -f $venv/run-has $venv/test-has
if [ "$purpose" = test ]; then
    # uv, one of the tests' own needs, installs all the others in a tenth of pip's time. It does not read pip's settings
    # (a mirror, say), so where it fails, pip goes on. tests/constraints.txt has all of constraints.txt, too.
    sed -n '/^uv==/,/[^\\]$/p' tests/constraints.txt >$venv/uv.txt
    pip_install --quiet --require-hashes -r $venv/uv.txt
    # It is to compile the modules, as pip does: with PYTHONDONTWRITEBYTECODE each process would compile them again.
    $venv/bin/uv pip install --quiet --compile-bytecode --python $venv/bin/python --require-hashes \
        -r tests/constraints.txt ||
        pip_install --require-hashes -r tests/constraints.txt
else
    pip_install --require-hashes -r constraints.txt
fi
pip_install --no-deps --no-build-isolation -e .
echo "$run_needs" >$venv/run-has
[ "$purpose" != test ] || echo "$test_needs" >$venv/test-has
rm $venv/unfinished
trap - EXIT
