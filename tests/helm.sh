#!/bin/sh
# Build the helm that tests/artefacts/test_helm.py starts, .packages/helm/helm, with `go install`. It does nothing where
# that version is there. Where that fails it says so and goes on: the tests take the helm of the machine, and without
# one they are skipped (with CI=true: fail).
set -eu
cd "$(dirname "$0")/.."
version=v3.19.5
place=.packages/helm
[ ! -e $place/$version ] || exit 0

if ! command -v go >/dev/null 2>&1; then
    echo 'helm is not built: that takes Go, 1.24 or later' >&2
    exit 0
fi
echo 'building helm, which takes minutes, once …'
rm -rf $place
mkdir -p $place
if ! GOBIN="$PWD/$place" nice go install helm.sh/helm/v3/cmd/helm@$version; then
    echo 'helm cannot be built' >&2
    exit 0
fi
touch $place/$version
