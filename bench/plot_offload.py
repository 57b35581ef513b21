#!/usr/bin/env python3
"""Plots a CSV of offload_bench: tokens per second over the budget, for every technique, beside what bounds it.

    bench/offload.sh    # or: offload_bench --csv one.csv
    bench/plot_offload.py one.csv offload.png [--peer peer.csv]

The dotted lines are 1 / max(bytes / bandwidth, compute) of the technique of the same colour: what it could reach with the
bytes that it reads. Needs matplotlib (Debian: python3-matplotlib).
"""

import argparse
import csv
import os
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WITH_BOUND = ("next-layer 1.0", "hobbit", "lru")


def read(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def series(rows):
    """{technique: [(budget, tokens per second, bound)]} of one trace and one sequence, and {name: tokens per second} of
    what has no budget."""
    first = (rows[0]["trace"], rows[0]["batch"])
    lines, levels = defaultdict(list), {}
    for row in rows:
        if (row["trace"], row["batch"]) != first:
            continue
        speed = float(row["tokens_per_s"])
        if row["technique"] in ("resident", "on-demand"):
            levels[row["technique"]] = speed
        else:
            bound = float(row["bound_ms"])
            lines[row["technique"]].append((float(row["budget"]), speed, 1e3 / bound if bound > 0 else None))
    return {name: sorted(points) for name, points in lines.items()}, levels


def plot(lines, levels, peers, path):
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    for name, points in lines.items():
        budgets = [p[0] for p in points]
        line, = axes.plot(budgets, [p[1] for p in points], marker="o", markersize=4, label=name)
        if name in WITH_BOUND and all(p[2] for p in points):
            axes.plot(budgets, [p[2] for p in points], linestyle=":", color=line.get_color())
    for name, speed in levels.items():
        axes.axhline(speed, color="black" if name == "resident" else "gray", linewidth=1, linestyle="--")
        axes.annotate(name, (axes.get_xlim()[1], speed), ha="right", va="bottom", fontsize=8)
    for row in peers:
        axes.plot(float(row["budget"]), float(row["tokens_per_s"]), marker="x", color="red", linestyle="none",
                  label=row["technique"])
    axes.set(yscale="log", xlabel="memory for experts, % of their bytes", ylabel="tokens per second")
    axes.legend(fontsize=7, ncols=2)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=85)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", help="output of offload_bench --csv; its first trace is plotted")
    parser.add_argument("image", help="picture to write (.png, .svg, .pdf)")
    parser.add_argument("--peer", help="CSV of bench/peers/llama_offload.py")
    arguments = parser.parse_args()
    lines, levels = series(read(arguments.csv))
    plot(lines, levels, read(arguments.peer) if arguments.peer else [], arguments.image)
    print(f"{arguments.image}: {os.path.getsize(arguments.image) / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
