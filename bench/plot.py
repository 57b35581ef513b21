#!/usr/bin/env python3
"""Plots JSON of layer_bench: time per call over tokens, and the share of the ceiling measured in the same run.

    build/release/bin/layer_bench --benchmark_out=layer.json --benchmark_out_format=json
    bench/plot.py layer.json layer.png

Needs matplotlib (Debian: python3-matplotlib).
"""

import argparse
import json
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_series(path):
    """{(format, threads): {tokens: (microseconds, share of the ceiling)}}, medians where runs were repeated."""
    with open(path, encoding="utf-8") as file:
        runs = json.load(file)["benchmarks"]
    medians = [run for run in runs if run.get("aggregate_name") == "median"]
    series = defaultdict(dict)
    for run in medians or runs:
        parts = run["name"].split("/")
        values = dict(part.split(":") for part in parts if ":" in part)
        key = (parts[1], int(values["threads"].split("_")[0]))
        series[key][int(values["T"])] = (run["real_time"], run["of_ceiling"])
    return series


def plot(series, path):
    figure, (time, share) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (name, threads), points in sorted(series.items()):
        tokens = sorted(points)
        label = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
        time.plot(tokens, [points[t][0] for t in tokens], marker="o", label=label)
        share.plot(tokens, [100 * points[t][1] for t in tokens], marker="o", label=label)
    time.set(xscale="log", yscale="log", xlabel="tokens per call", ylabel="microseconds per call")
    share.set(xscale="log", ylim=(0, 105), xlabel="tokens per call", ylabel="% of max(read, multiply-add) ceiling")
    share.legend()
    for axes in (time, share):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", help="output of layer_bench --benchmark_out")
    parser.add_argument("image", help="picture to write (.png, .svg, .pdf)")
    arguments = parser.parse_args()
    plot(read_series(arguments.json), arguments.image)


if __name__ == "__main__":
    main()
