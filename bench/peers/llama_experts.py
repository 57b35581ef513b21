#!/usr/bin/env python3
"""Times llama.cpp's expert products beside layer_bench: same shape, formats, threads, in turns, in one run.

    python3 -m venv peers && CMAKE_ARGS=-DGGML_NATIVE=ON peers/bin/pip install --no-binary llama-cpp-python llama-cpp-python
    peers/bin/python bench/peers/llama_experts.py --bench build/release/bin/layer_bench

Both sides compute the experts of one MoE layer after routing: llama.cpp the graph that it builds itself (three
mul_mat_id, swiglu, the weighted sum), moelayer a layer with a given table. Both walk through weights larger than the caches.
"""

import argparse
import ctypes
import glob
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

GGML_TYPE = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
GGML_I32 = 26
POINTER, INT64, INT, SIZE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_size_t


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", SIZE), ("mem_buffer", POINTER), ("no_alloc", ctypes.c_bool)]


class Ggml:
    """The few functions of ggml that are needed, by name."""

    SIGNATURES = {
        "ggml_init": (POINTER, InitParams),
        "ggml_new_tensor_2d": (POINTER, POINTER, INT, INT64, INT64),
        "ggml_new_tensor_3d": (POINTER, POINTER, INT, INT64, INT64, INT64),
        "ggml_mul_mat_id": (POINTER, POINTER, POINTER, POINTER, POINTER),
        "ggml_swiglu_split": (POINTER, POINTER, POINTER, POINTER),
        "ggml_mul": (POINTER, POINTER, POINTER, POINTER),
        "ggml_add": (POINTER, POINTER, POINTER, POINTER),
        "ggml_view_2d": (POINTER, POINTER, POINTER, INT64, INT64, SIZE, SIZE),
        "ggml_new_graph": (POINTER, POINTER),
        "ggml_build_forward_expand": (None, POINTER, POINTER),
        "ggml_get_data": (POINTER, POINTER),
        "ggml_nbytes": (SIZE, POINTER),
        "ggml_quantize_chunk": (SIZE, INT, POINTER, POINTER, INT64, INT64, INT64, POINTER),
        "ggml_backend_cpu_init": (POINTER,),
        "ggml_backend_cpu_set_n_threads": (None, POINTER, INT),
        "ggml_backend_cpu_buffer_type": (POINTER,),
        "ggml_backend_alloc_ctx_tensors_from_buft": (POINTER, POINTER, POINTER),
        "ggml_backend_graph_compute": (INT, POINTER, POINTER),
        "ggml_backend_buffer_free": (None, POINTER),
        "ggml_backend_free": (None, POINTER),
        "ggml_free": (None, POINTER),
    }

    def __init__(self):
        root = os.path.dirname(importlib.util.find_spec("llama_cpp").origin)
        paths = [glob.glob(f"{root}/**/{name}", recursive=True)[0]
                 for name in ("libggml-base.so", "libggml-cpu.so", "libggml.so")]
        libraries = [ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL) for path in paths]
        for name, (result, *arguments) in self.SIGNATURES.items():
            function = next(lib[name] for lib in libraries if hasattr(lib, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)

    def context(self, tensors):
        return self.init(InitParams(tensors * 512 + (1 << 20), None, True))


class LlamaLayer:
    """One layer of E experts and the graph that computes it for `tokens` rows."""

    def __init__(self, ggml, shape, name, threads, tokens):
        self.ggml, self.shape, self.tokens = ggml, shape, tokens
        self.held = []
        self.backend = ggml.backend_cpu_init()
        ggml.backend_cpu_set_n_threads(self.backend, threads)
        self.weights = self._weights(name)
        self._graph()

    def close(self):
        for context, buffer in self.held:
            self.ggml.backend_buffer_free(buffer)
            self.ggml.free(context)
        self.ggml.backend_free(self.backend)

    def _allocate(self, context):
        buffer_type = self.ggml.backend_cpu_buffer_type()
        self.held.append((context, self.ggml.backend_alloc_ctx_tensors_from_buft(context, buffer_type)))

    def _weights(self, name):
        g, s, kind = self.ggml, self.shape, GGML_TYPE[name]
        context = g.context(8)
        tensors = [g.new_tensor_3d(context, kind, s.hidden, s.inter, s.experts) for _ in range(2)]
        tensors.append(g.new_tensor_3d(context, kind, s.inter, s.hidden, s.experts))
        self._allocate(context)
        values = numpy.random.default_rng(1).normal(0, 0.05, s.inter * s.hidden).astype(numpy.float32)
        for tensor, columns in zip(tensors, (s.hidden, s.hidden, s.inter)):
            each = g.nbytes(tensor) // s.experts
            one = numpy.empty(each, numpy.uint8)
            g.quantize_chunk(kind, values.ctypes.data, one.ctypes.data, 0, values.size // columns, columns, None)
            for e in range(s.experts):
                ctypes.memmove(g.get_data(tensor) + e * each, one.ctypes.data, each)
        return tensors

    def _graph(self):
        g, s, t = self.ggml, self.shape, self.tokens
        context = g.context(32 + 4 * s.topk)
        self.x = g.new_tensor_3d(context, GGML_TYPE["f32"], s.hidden, 1, t)
        self.ids = g.new_tensor_2d(context, GGML_I32, s.topk, t)
        self.slot_weights = g.new_tensor_3d(context, GGML_TYPE["f32"], 1, s.topk, t)
        gate, up, down = self.weights
        hidden = g.swiglu_split(context, g.mul_mat_id(context, gate, self.x, self.ids),
                                g.mul_mat_id(context, up, self.x, self.ids))
        weighted = g.mul(context, g.mul_mat_id(context, down, hidden, self.ids), self.slot_weights)
        row = 4 * s.hidden
        total = None
        for k in range(s.topk):
            part = g.view_2d(context, weighted, s.hidden, t, row * s.topk, k * row)
            total = part if total is None else g.add(context, total, part)
        self.graph = g.new_graph(context)
        g.build_forward_expand(self.graph, total)
        self._allocate(context)
        self._fill(self.x, numpy.random.default_rng(2).normal(0, 1, (t, s.hidden)).astype(numpy.float32))
        self._fill(self.slot_weights, numpy.full((t, s.topk), 1 / s.topk, numpy.float32))

    def _fill(self, tensor, array):
        ctypes.memmove(self.ggml.get_data(tensor), array.ctypes.data, array.nbytes)

    def median_us(self, seconds, rng):
        times, end = [], time.perf_counter() + seconds
        while len(times) < 5 or time.perf_counter() < end:
            picks = [rng.choice(self.shape.experts, self.shape.topk, replace=False) for _ in range(self.tokens)]
            self._fill(self.ids, numpy.array(picks, numpy.int32))
            begin = time.perf_counter()
            self.ggml.backend_graph_compute(self.backend, self.graph)
            times.append(1e6 * (time.perf_counter() - begin))
        return statistics.median(times[1:])


def moelayer_us(arguments, name, threads, tokens):
    """Median of layer_bench, and its share of the ceiling."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [arguments.bench, f"--hidden={arguments.hidden}", f"--inter={arguments.inter}",
                   f"--experts={arguments.experts}", f"--topk={arguments.topk}", f"--tokens={tokens}",
                   f"--formats={name}", f"--threads={threads}", "--working-set=1", "--given-table",
                   f"--benchmark_min_time={arguments.seconds / 5}", "--benchmark_repetitions=5",
                   f"--benchmark_out={out.name}", "--benchmark_out_format=json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        runs = json.load(open(out.name, encoding="utf-8"))["benchmarks"]
    median = next(run for run in runs if run.get("aggregate_name") == "median")
    return median["real_time"], median["of_ceiling"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/release/bin/layer_bench", help="the program layer_bench")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inter", type=int, default=768)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--topk", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1])
    parser.add_argument("--formats", nargs="+", default=["f32", "bf16", "f16", "q8_0"], choices=list(GGML_TYPE))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="turns; the medians of each side are compared")
    parser.add_argument("--seconds", type=float, default=2.0, help="per turn and side")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    ggml, rng = Ggml(), numpy.random.default_rng(3)
    if not arguments.json:
        print(f"{'format':>6} {'threads':>7} {'tokens':>6} {'llama.cpp us':>13} {'moelayer us':>12} {'ratio':>6} {'of ceiling':>10}")
    for name in arguments.formats:
        for threads in arguments.threads:
            for tokens in arguments.tokens:
                layer = LlamaLayer(ggml, arguments, name, threads, tokens)
                turns = [(layer.median_us(arguments.seconds, rng), *moelayer_us(arguments, name, threads, tokens))
                         for _ in range(arguments.rounds)]
                theirs, ours, share = (statistics.median(column) for column in zip(*turns))
                layer.close()
                if arguments.json:
                    print(json.dumps({"format": name, "threads": threads, "tokens": tokens, "llama_cpp_us": theirs,
                                      "moelayer_us": ours, "ratio": theirs / ours, "of_ceiling": share}))
                else:
                    print(f"{name:>6} {threads:>7} {tokens:>6} {theirs:>13.0f} {ours:>12.0f} {theirs / ours:>6.2f} {share:>10.2f}")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
