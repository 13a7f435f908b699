#!/bin/sh
# Write DIRECTORY/portspec-VERSION.cdx.json, a bill of materials in CycloneDX 1.6: sbom.sh DIRECTORY
# It has each dependency of constraints.txt with its version, its purl and the hashes of its files, and is reproducible.
set -eu
directory=$(realpath "$1")
cd "$(dirname "$0")/.."
bin=.venv/bin
version=$($bin/hatchling version)
project=$(mktemp)
trap 'rm -f "$project"' EXIT
# cyclonedx-py takes the version from this table only. It warns that a list of requirements does not say which of them
# needs which.
sed "s/^dynamic = .*/version = \"$version\"/" pyproject.toml >"$project"
PYTHONWARNINGS=ignore::UserWarning $bin/cyclonedx-py requirements constraints.txt --pyproject "$project" \
    --spec-version 1.6 --output-reproducible --output-file "$directory/portspec-$version.cdx.json"
