#!/bin/sh
# Fetch and unpack Debian's exim below .packages/exim, for it cannot be installed beside Postfix: `debs` has the packages
# that this machine lacks, `files` what is in those of them that the tests use. It does nothing where they are.
# Where that fails it says so and goes on: the tests that need exim are skipped (with CI=true: fail).
set -eu
cd "$(dirname "$0")/.."
place=.packages/exim
[ ! -e $place/complete ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo 'exim is not fetched: that takes root, on Debian or Ubuntu' >&2
    exit 0
fi
echo 'fetching exim …'
rm -rf $place
mkdir -p $place/debs $place/files
# apt would remove Postfix for it; but nothing is installed.
fetch() {
    apt-get install --download-only -y -qq --no-install-recommends -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        -o Dir::Cache::archives="$PWD/$place/debs" exim4-daemon-light >/dev/null
}
if ! fetch 2>/dev/null && ! { apt-get update -qq && fetch; }; then
    echo 'exim cannot be fetched' >&2
    exit 0
fi
for package in $place/debs/exim4-daemon-light_*.deb $place/debs/exim4-base_*.deb $place/debs/lib*.deb; do
    [ ! -e "$package" ] || dpkg-deb -x "$package" $place/files
done
touch $place/complete
