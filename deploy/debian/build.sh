#!/bin/sh
# Build DIRECTORY/portspec_VERSION_ARCH.deb from a wheel of portspec: build.sh WHEEL DIRECTORY
#
# The package is for the release of Debian or Ubuntu on which it is built, since the virtual environment in it belongs to
# one version of Python. Needs python3-venv and the dependencies of constraints.txt, from pip's index; no root.
# The same sources, wheel and interpreter give the same bytes. PYTHON names an interpreter other than /usr/bin/python3.
set -eu
umask 022
python=${PYTHON:-/usr/bin/python3}
wheel=$(realpath "$1")
directory=$(realpath "$2")
cd "$(dirname "$0")/../.."
unset PIP_TARGET PIP_PREFIX PIP_ROOT PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"

work=$(mktemp -d) # a short path without blanks: pip writes another kind of script for others
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
root=$work/root
venv=$root/opt/portspec
version=$(basename "$wheel" | cut -d - -f 2)
architecture=$(dpkg --print-architecture)
next=$("$python" -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
python_version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# The virtual environment, as docs/deployment/systemd.md has it, but without pip and what only builds wheels.
"$python" -m venv "$work/tools"
"$python" -m venv --without-pip "$venv"
pip() {
    "$work/tools/bin/pip" --quiet --python "$venv/bin/python3" "$@"
}
# Only wheels: what they need of the system is known (PEP 600), and stands in `control` as Depends.
pip install --no-compile --only-binary=:all: --require-hashes -r constraints.txt
pip uninstall --yes editables hatchling pathspec pluggy tomlkit trove-classifiers
pip install --no-compile --no-deps --no-index --find-links "$(dirname "$wheel")" "portspec==$version"
# The same as in the Dockerfile: tests, and the second of two implementations.
find "$venv/lib" \( -path '*/numpy/*/tests' -o -name '_cffi.*.so' \) -prune -exec rm -r {} +
find "$venv/bin" -type f ! -name 'portspec*' -delete
sed -i "s|$root||g" "$venv"/bin/portspec* "$venv/pyvenv.cfg"
sed -i '/^\.\.\/\.\.\/\.\.\//d' "$venv"/lib/python3*/site-packages/*.dist-info/RECORD # hashes of what was just changed
rmdir "$venv"/include/* "$venv/include"

doc=$root/usr/share/doc/portspec
install -d "$doc/examples" "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/usr/share/man"
for name in portspec portspec-send; do
    ln -s "/opt/portspec/bin/$name" "$root/usr/bin/$name"
done
mv "$venv/share/man/man1" "$root/usr/share/man/"
gzip -9n "$root"/usr/share/man/man1/*
for shell in bash-completion/completions zsh/site-functions fish/vendor_completions.d; do
    target=$root/usr/share/$(echo "$shell" | sed 's|site-functions|vendor-completions|') # Debian's name of zsh's
    install -d "$(dirname "$target")"
    mv "$venv/share/$shell" "$target"
done
find "$venv/share" -type d -empty -delete
ln -s /opt/portspec/share/doc/portspec "$doc/docs"
install -m 644 deploy/debian/copyright "$doc/copyright"
gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
install -m 644 deploy/systemd/*.conf "$doc/examples"
install -m 644 deploy/systemd/portspec.service "$root/usr/lib/systemd/system"
install -d -m 750 "$root/etc/portspec"
install -m 640 conf.yml "$root/etc/portspec/portspec.yml"

# The unit may write nowhere, so modules are compiled here. They hold the time of their source.
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
PYTHONHASHSEED=0 "$python" -m compileall -q --invalidation-mode timestamp -s "$root" -p / "$venv/lib"

if grep -rlF "$work" "$root"; then
    echo "build.sh: these files name the directory in which they were built" >&2
    exit 1
fi

install -d "$root/DEBIAN"
(cd "$root" && find opt usr -type f | LC_ALL=C sort | tr '\n' '\0' | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
echo /etc/portspec/portspec.yml >"$root/DEBIAN/conffiles"
# In KiB, as dpkg-gencontrol counts: what a directory takes depends on its past.
size=$(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%s\n' -o -printf '1\n' |
    awk '{ sum += int(($1 + 1023) / 1024) } END { print sum }')
# 1.0rc1 comes before 1.0: 1.0~rc1
version=$(echo "$version" | sed -E 's/\.?(a|b|rc|dev)([0-9]+)/~\1\2/')
sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@PYTHON@/$python_version/; s/@NEXT@/$next/;
    s/@SIZE@/$size/" deploy/debian/control >"$root/DEBIAN/control"
for script in preinst postinst prerm postrm; do
    install -m 755 "deploy/debian/$script" "$root/DEBIAN/$script"
done
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group --build "$root" "$directory/portspec_${version}_$architecture.deb"
