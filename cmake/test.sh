#!/usr/bin/env bash
# Builds everything in release and runs all tests.
set -euo pipefail

if [ $# -gt 0 ]; then
  echo "usage: bash cmake/test.sh"
  echo "Installs what is missing (Debian: with apt-get), builds the preset 'release' in build/release, runs all tests"
  echo "and ends with ctest's summary."
  [ "$1" = --help ] && exit 0 || exit 2
fi

cd "$(dirname "$0")/.."
. cmake/packages.sh
need_packages "${build_packages[@]}" "${program_packages[@]}" "${test_packages[@]}"

cmake --workflow --preset release
