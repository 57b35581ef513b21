#!/usr/bin/env python3
"""Plots what replay counted: hit rate and bytes read over the capacity, with Belady's bound.

    replay --trace TRACE --policy all --capacity 5%,10%,25%,50% --csv replay.csv
    examples/offload/plot_replay.py replay.csv replay.png

Needs matplotlib (Debian: python3-matplotlib).
"""

import argparse
import csv
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_series(path):
    """{policy: [(slots, hit rate, bytes)]}, by capacity."""
    series = defaultdict(list)
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            series[row["policy"]].append((int(row["slots"]), float(row["hit_rate"]), float(row["bytes"])))
            if row["policy"] != "min":
                series["min"].append((int(row["slots"]), float(row["min_hit_rate"]), float(row["min_bytes"])))
    return {policy: sorted(set(points)) for policy, points in series.items()}


def plot(series, path):
    figure, (hits, read) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for policy, points in sorted(series.items(), key=lambda item: item[0] == "min"):
        style = {"color": "black", "linestyle": "--", "label": "Belady (min)"} if policy == "min" else {"label": policy}
        slots, rates, amounts = zip(*points)
        hits.plot(slots, [100 * rate for rate in rates], marker=".", **style)
        read.plot(slots, amounts, marker=".", **style)
    hits.set(xlabel="slots", ylabel="hits of the picks served, %", title="hit rate", ylim=(0, 101))
    read.set(xlabel="slots", ylabel="bytes read", title="traffic, prefetches included")
    read.set_ylim(bottom=0)
    for axes in (hits, read):
        axes.grid(alpha=0.3)
    hits.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", help="output of replay --csv")
    parser.add_argument("image", help="picture to write (.png, .svg, .pdf)")
    arguments = parser.parse_args()
    plot(read_series(arguments.csv), arguments.image)


if __name__ == "__main__":
    main()
