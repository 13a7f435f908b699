#!/bin/sh
# Build the RustScan that `make bench` runs beside portspec, .packages/rustscan/bin/rustscan, with `cargo install`. It
# does nothing where that version is there. Where that fails it says so and goes on: the tables then lack RustScan.
set -eu
cd "$(dirname "$0")/.."
version=2.4.1
place=.packages/rustscan
[ ! -e $place/$version ] || exit 0

if ! command -v cargo >/dev/null 2>&1; then
    echo 'RustScan is not built: that takes cargo' >&2
    exit 0
fi
echo 'building RustScan, which takes minutes, once …'
rm -rf $place
mkdir -p $place
if ! cargo install --quiet --locked --root $place --version $version rustscan; then
    echo 'RustScan cannot be built' >&2
    exit 0
fi
touch $place/$version
