#!/usr/bin/env python3
"""Decodes a mapped GGUF with llama.cpp where memory holds a quarter of the experts, and offload_bench beside it.

    python3 -m venv peers && peers/bin/pip install gguf numpy
    CMAKE_ARGS=-DGGML_NATIVE=ON peers/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    sudo peers/bin/python bench/peers/llama_offload.py --bench build/release/bin/offload_bench --dir /var/tmp/moe

Both sides run in a cgroup of their own with one limit on memory (the page cache, so the mapped pages, counts): the
budget and --overhead-mib. Both begin cold and compute the same number of tokens, each with top-8 of 128 experts in 7
layers of Qwen3-30B-A3B's sizes in bf16, on all cores of the machine (offload_bench leaves one of them to its reader).
The GGUF (8.5 GiB, written once into --dir, as offload_bench does with its records) has almost no attention and 256
words. Its routing is that of random gates, so offload_bench takes the trace "uniform", which no cache profits from.
Prints the tokens per second of both and their ratio. Needs the right to make cgroups.
"""

import argparse
import csv
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

VOCABULARY, HEAD, HEADS = 256, 32, 4
FADV_DONTNEED, MADV_DONTNEED = 4, 4


# ---- the model


def random_bf16(rng, shape, scale):
    return (rng.normal(0, scale, shape).astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)


class Model:
    """A qwen3moe model file of random weights."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.path = os.path.join(
            sizes.dir, f"moe-offload-{sizes.layers}x{sizes.experts}x{sizes.hidden}x{sizes.ffn}-bf16.gguf")

    def expert_bytes(self):
        s = self.sizes
        return 2 * 3 * s.layers * s.experts * s.hidden * s.ffn

    def make(self):
        if os.path.exists(self.path):
            return
        import gguf
        unfinished = self.path + ".tmp"
        writer = gguf.GGUFWriter(unfinished, "qwen3moe")
        self._describe(writer)
        contents = dict(self._dense())
        for name, array in contents.items():
            writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
        s, kind = self.sizes, gguf.GGMLQuantizationType.BF16
        experts = [(f"blk.{layer}.ffn_{part}_exps.weight", shape) for layer in range(s.layers)
                   for part, shape in (("gate", (s.ffn, s.hidden)), ("up", (s.ffn, s.hidden)), ("down", (s.hidden, s.ffn)))]
        for name, (rows, columns) in experts:
            writer.add_tensor_info(name, (s.experts, rows, columns), numpy.dtype(numpy.uint16),
                                   2 * s.experts * rows * columns, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in contents.values():
            writer.write_tensor_data(array)
        base = random_bf16(numpy.random.default_rng(1), s.ffn * s.hidden, 0.02)
        for i, (name, (rows, columns)) in enumerate(experts):
            if sys.stderr.isatty():
                print(f"\rwriting {self.path}: {100 * i // len(experts):3d} %", end="", file=sys.stderr, flush=True)
            # Every expert has other values: the same ones, moved.
            turned = [numpy.roll(base, 64 * (1 + i * s.experts + e)).reshape(rows, columns) for e in range(s.experts)]
            writer.write_tensor_data(numpy.stack(turned))
        writer.close()
        print(f"\rwrote {self.path}    ", file=sys.stderr)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.rename(unfinished, self.path)

    def _describe(self, writer):
        s = self.sizes
        writer.add_context_length(512)
        writer.add_embedding_length(s.hidden)
        writer.add_block_count(s.layers)
        writer.add_feed_forward_length(s.ffn)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(1)
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
        writer.add_rope_freq_base(10000.0)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_expert_count(s.experts)
        writer.add_expert_used_count(s.topk)
        writer.add_expert_feed_forward_length(s.ffn)
        writer.add_vocab_size(VOCABULARY)
        writer.add_tokenizer_model("none")

    def _dense(self):
        s, rng = self.sizes, numpy.random.default_rng(2)

        def normal(rows, columns):
            return rng.normal(0, columns**-0.5, (rows, columns)).astype(numpy.float32)

        yield "token_embd.weight", normal(VOCABULARY, s.hidden)
        yield "output.weight", normal(VOCABULARY, s.hidden)
        yield "output_norm.weight", numpy.ones(s.hidden, numpy.float32)
        for layer in range(s.layers):
            block = f"blk.{layer}"
            for name, width in (("attn_norm", s.hidden), ("ffn_norm", s.hidden), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)):
                yield f"{block}.{name}.weight", numpy.ones(width, numpy.float32)
            yield f"{block}.attn_q.weight", normal(HEADS * HEAD, s.hidden)
            yield f"{block}.attn_k.weight", normal(HEAD, s.hidden)
            yield f"{block}.attn_v.weight", normal(HEAD, s.hidden)
            yield f"{block}.attn_output.weight", normal(s.hidden, HEADS * HEAD)
            yield f"{block}.ffn_gate_inp.weight", normal(s.experts, s.hidden)


# ---- the memory limit


class Cgroup:
    """Processes that together may not hold more than `limit` bytes, their page cache included."""

    def __init__(self, limit):
        first = os.path.isdir("/sys/fs/cgroup/memory")
        root = "/sys/fs/cgroup/memory" if first else "/sys/fs/cgroup"
        self.peak_file = "memory.max_usage_in_bytes" if first else "memory.peak"
        self.path = f"{root}/moe-offload-{os.getpid()}"
        os.mkdir(self.path)
        with open(f"{self.path}/{'memory.limit_in_bytes' if first else 'memory.max'}", "w", encoding="ascii") as file:
            file.write(str(limit))

    def run(self, command):
        """Standard output of the command, and the most bytes it held."""
        def enter():
            with open(f"{self.path}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=enter, encoding="utf-8").stdout
        with open(f"{self.path}/{self.peak_file}", encoding="ascii") as file:
            return output, int(file.read())

    def close(self):
        os.rmdir(self.path)


# ---- llama.cpp, in a process of its own


def forget(path):
    """Takes a file out of memory: what is mapped of it in this process, and the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if path in line:
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_DONTNEED)
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, FADV_DONTNEED)


def decode(path, tokens, threads):
    """Seconds of each token, from cold."""
    import llama_cpp as llama
    quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    model_parameters = llama.llama_model_default_params()
    model_parameters.use_mmap = True
    model = llama.llama_model_load_from_file(path.encode(), model_parameters)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    parameters = llama.llama_context_default_params()
    parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 128, threads, threads
    context = llama.llama_init_from_model(model, parameters)
    forget(path)
    seconds = []
    for token in numpy.random.default_rng(3).integers(0, VOCABULARY, tokens):
        begin = time.perf_counter()
        one = (llama.llama_token * 1)(int(token))
        if llama.llama_decode(context, llama.llama_batch_get_one(one, 1)) != 0:
            sys.exit("llama_decode failed")
        llama.llama_synchronize(context)
        seconds.append(time.perf_counter() - begin)
    return seconds


# ---- both sides


def peer_turn(a, model, limit):
    group = Cgroup(limit)
    try:
        command = [sys.executable, os.path.abspath(__file__), "--decode", model.path, "--tokens", str(a.tokens),
                   "--threads", str(a.threads)]
        output, peak = group.run(command)
    finally:
        group.close()
    return a.tokens / sum(json.loads(output)), peak


def our_turn(a, limit):
    """Tokens per second of each of our techniques, by name."""
    group = Cgroup(limit)
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        try:
            command = [a.bench, "--dir", a.dir, "--layers", str(a.layers), "--experts", str(a.experts), "--hidden",
                       str(a.hidden), "--ffn", str(a.ffn), "--topk", str(a.topk), "--traces", "uniform", "--batches",
                       "1", "--budgets", str(a.budget), "--warmup", "0", "--tokens", str(a.tokens), "--rounds", "1",
                       "--techniques", *a.techniques, "--no-resident", "--csv", out.name]
            _, peak = group.run(command)
        finally:
            group.close()
        with open(out.name, encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if float(row["budget"]) == a.budget]
    return {row["technique"]: float(row["tokens_per_s"]) for row in rows}, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/release/bin/offload_bench", help="the program offload_bench")
    parser.add_argument("--dir", default="/var/tmp/moe-offload", help="folder of the model files, on the disk to measure")
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=768)
    parser.add_argument("--topk", type=int, default=8)
    parser.add_argument("--budget", type=float, default=25, help="percent of the experts' bytes")
    parser.add_argument("--overhead-mib", type=int, default=384, help="memory of each process beside the experts")
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="turns; medians are compared")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of llama.cpp")
    parser.add_argument("--techniques", nargs="+", default=["lru"], help="of offload_bench")
    parser.add_argument("--csv", help="file that gets a row of llama.cpp's figures, in the columns of offload_bench")
    parser.add_argument("--decode", help=argparse.SUPPRESS)  # the child's part
    a = parser.parse_args()
    if a.decode:
        print(json.dumps(decode(a.decode, a.tokens, a.threads)))
        return
    os.makedirs(a.dir, exist_ok=True)
    model = Model(a)
    model.make()
    # Their files must exist before the limited turns: writing them would fill the cgroup.
    subprocess.run([a.bench, "--dir", a.dir, "--layers", str(a.layers), "--experts", str(a.experts), "--hidden",
                    str(a.hidden), "--ffn", str(a.ffn), "--make-only"], check=True)
    limit = int(a.budget / 100 * model.expert_bytes()) + (a.overhead_mib << 20)
    turns = [(peer_turn(a, model, limit), our_turn(a, limit)) for _ in range(a.rounds)]
    report(a, limit, turns)


def report(a, limit, turns):
    theirs = statistics.median(peer for (peer, _), _ in turns)
    peak = max(bytes_held for (_, bytes_held), _ in turns)
    print(f"limit {limit / 2**20:.0f} MiB, {a.tokens} tokens from cold, medians of {a.rounds} turns")
    print(f"{'llama.cpp, mapped':24} {theirs:8.3f} tokens/s, at most {peak / 2**20:6.0f} MiB")
    for name in turns[0][1][0]:
        ours = statistics.median(figures[name] for _, (figures, _) in turns)
        held = max(bytes_held for _, (_, bytes_held) in turns)
        print(f"{name:24} {ours:8.3f} tokens/s, at most {held / 2**20:6.0f} MiB, {ours / theirs:6.1f} x (target 5 x)")
    if a.csv:
        with open(a.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["trace", "batch", "budget", "technique", "tokens_per_s"])
            writer.writerow(["uniform", 1, a.budget, "llama.cpp mapped", theirs])


if __name__ == "__main__":
    main()
