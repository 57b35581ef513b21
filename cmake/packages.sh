# shellcheck shell=bash disable=SC2034
# Sourced by test.sh, demo.sh and .ci/run: installs what is missing, and says so.
# Each argument of need_packages is PACKAGE=PROBE, the probe a command or the absolute path of a file that the
# package brings. Only Debian and its relatives are installed on; elsewhere the list is printed and the work goes on.

need_packages() {
  local pair probe missing=()
  for pair in "$@"; do
    probe=${pair#*=}
    # shellcheck disable=SC2086  # the probe may be a pattern
    case $probe in
      /*) compgen -G $probe >/dev/null || missing+=("${pair%%=*}") ;;
      *) command -v "$probe" >/dev/null || missing+=("${pair%%=*}") ;;
    esac
  done

  if [ ${#missing[@]} -gt 0 ]; then
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    if command -v apt-get >/dev/null && { [ ${#as_root[@]} -eq 0 ] || command -v sudo >/dev/null; }; then
      echo "Installing with apt-get: ${missing[*]}"
      "${as_root[@]}" apt-get -qq update
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
        "${missing[@]}" >/dev/null
    else
      echo "Missing here, and not installed by this script (these are Debian's names): ${missing[*]}"
      echo "Going on with what there is; optional parts are left out."
    fi
  fi

  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p') || true
  if ! printf '3.25\n%s\n' "${version:-0}" | sort -VC; then
    echo "moelayer needs CMake 3.25 or newer, found ${version:-none}" >&2
    exit 1
  fi
}

# Objects are found in ccache, where there is one, by every clone of the repository.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
export CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$(nproc)}

# What every build needs, and what the programs need to read models and their command lines.
build_packages=('g++=g++' cmake=cmake ninja-build=ninja)
program_packages=(nlohmann-json3-dev=/usr/include/nlohmann/json.hpp libcli11-dev=/usr/include/CLI/CLI.hpp
  libxxhash-dev=/usr/include/xxhash.h)
test_packages=(doctest-dev=/usr/include/doctest/doctest.h librapidcheck-dev=/usr/include/rapidcheck.h
  libeigen3-dev=/usr/include/eigen3/Eigen/Core
  libbenchmark-dev=/usr/include/benchmark/benchmark.h pkg-config=pkg-config 'clang=clang++'
  liburing-dev=/usr/include/liburing.h strace=strace)
