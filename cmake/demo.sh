#!/usr/bin/env bash
# Builds the program `generate` in release and lets our model write.
set -euo pipefail

if [ "${1:-}" = --help ]; then
  echo "usage: bash cmake/demo.sh [OPTIONS OF generate]"
  echo "Installs what is missing (Debian: with apt-get), builds the preset 'release' in build/release and generates"
  echo "400 bytes of text with the mixture-of-experts model of examples/models/kjv-mixtral."
  exit 0
fi

cd "$(dirname "$0")/.."
. cmake/packages.sh
need_packages "${build_packages[@]}" "${program_packages[@]}"

echo "Building the program 'generate' in build/release ..."
cmake --preset release >/dev/null
cmake --build --preset release --target generate

generate=(build/release/bin/generate --model examples/models/kjv-mixtral --prompt "In the beginning"
  --tokens 400 --temperature 0.6 --seed 3 "$@")
echo "Running a mixture-of-experts model on this machine's CPU, every feed-forward of it a moe::MoELayer:"
printf '$'
printf ' %q' "${generate[@]}"
printf '\n\n'
"${generate[@]}"
