#!/bin/sh
# Install Debian packages that are missing: those named, or else those of tests/packages.txt. Releases have a program
# in different packages: a|b is a if the release has it, else b.
# Without root or apt-get it says what is missing and goes on: the tests that need it are skipped (with CI=true: fail).
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=
[ $# -eq 0 ] || missing=" $*"
if [ $# -eq 0 ]; then
    while read -r package program; do
        case $package in \#* | '') continue ;; esac
        case $program in
            /*) [ -e "$program" ] || missing="$missing $package" ;;
            *) command -v "$program" >/dev/null 2>&1 || missing="$missing $package" ;;
        esac
    done <"$(dirname "$0")/packages.txt"
fi
[ -n "$missing" ] || exit 0

# Print packages with a space before each; of a|b, the first that this release has.
known_of() {
    for package in $1; do
        found=${package%%|*}
        for name in $(echo "$package" | tr '|' ' '); do
            if apt-cache show "$name" >/dev/null 2>&1; then
                found=$name
                break
            fi
        done
        printf ' %s' "$found"
    done
}

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    missing=$(known_of "$missing")
    echo "not installed:$missing (on Debian or Ubuntu: sudo apt-get install$missing)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# A test machine wants the programs, not the services: nothing of what is installed here is started.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
echo "installing:$missing …"
apt-get update -qq
missing=$(known_of "$missing")
# shellcheck disable=SC2086  # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
