#!/bin/sh
# build.sh COMPILER PREFIX: builds and runs main.cpp with nothing but a compiler and pkg-config.
set -eu
compiler=$1
prefix=$2
cd "$(dirname "$0")"
export PKG_CONFIG_PATH="$prefix/share/pkgconfig"
# shellcheck disable=SC2046  # the flags are words
"$compiler" -std=c++20 -O2 ../main.cpp $(pkg-config --cflags --libs moelayer) -o "$prefix/consumer"
"$prefix/consumer"
