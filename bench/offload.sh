#!/bin/sh
# Makes the figures of experts larger than memory, one CSV a question, and the README's plot. About two hours on a quiet
# machine with 24 GB of memory; 11 GB of disk for the records, 9 GB more for the peer's model.
#
#   bench/offload.sh [build/release] [FOLDER ON THE DISK TO MEASURE] [FOLDER FOR THE FIGURES]
#
#   one.csv        every technique, one sequence, budgets of 7, 10, 25 and 50 %
#   taste.csv      the same at 25 % with routing that favours frequency instead of recency
#   own.csv        the same at 25 and 50 % with the routing of the library's own model
#   batch.csv      16 sequences at once at 25 %
#   balanced.csv   the same, with as much other work as reading (ExpertFlow's regime)
#   rings.csv      SE-MoE's ring where reading a layer takes as long as computing it, and less
#   peer.csv       llama.cpp with a mapped file under the same limit of memory as ours; needs PEERS, the folder of a
#                  virtual environment as bench/peers/llama_offload.py describes it, and the right to make cgroups
#   offload.png    the plot; needs a Python with matplotlib, PYTHON if it is not python3
#
# Every program prints the project's targets beside what it measured, and fails if an output is not the resident one.
set -eu
build=${1:-build/release}
disk=${2:-/var/tmp/moe-offload}
out=${3:-$build/offload}
here=$(dirname "$0")
mkdir -p "$out"

bench() {
  name=$1
  shift
  echo "== $name"
  "$build/bin/offload_bench" --dir "$disk" --csv "$out/$name.csv" "$@" | tee "$out/$name.txt"
}

bench one --budgets 7 10 25 50
bench taste --traces taste --budgets 25
if [ -x "$build/bin/generate" ]; then
  "$build/bin/generate" --model "$here/../examples/models/kjv-mixtral" --prompt "And it came to pass" --tokens 80 \
    --trace "$out/own-model.jsonl" >/dev/null
  bench own --traces "$out/own-model.jsonl" --budgets 25 50
fi
of_batches="lru lru-per-layer lfu next-layer adapmoe expertflow resident"
# shellcheck disable=SC2086
bench batch --batches 16 --budgets 25 --warmup 3 --tokens 5 --techniques $of_batches
# shellcheck disable=SC2086
bench balanced --batches 16 --budgets 25 --warmup 3 --tokens 5 --balance --techniques $of_batches
bench rings --rings
if [ -n "${PEERS:-}" ]; then
  "$PEERS/bin/python" "$here/peers/llama_offload.py" --bench "$build/bin/offload_bench" --dir "$disk" \
    --csv "$out/peer.csv" | tee "$out/peer.txt"
  set -- --peer "$out/peer.csv"
else
  set --
fi
"${PYTHON:-python3}" "$here/plot_offload.py" "$out/one.csv" "$out/offload.png" "$@"
