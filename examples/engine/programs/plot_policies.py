#!/usr/bin/env python3
"""Plots what compare_policies measured: bits per byte over experts per token.

    build/release/bin/compare_policies --model DIR --text FILE --json > policies.json
    examples/engine/programs/plot_policies.py policies.json policies.png

Policies whose setting is a number (thresholds, beta) are joined by a line. Needs matplotlib (Debian: python3-matplotlib).
"""

import argparse
import json
import re
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_series(path):
    """{policy without its setting: [(experts per token, bits per byte)]}, in order."""
    with open(path, encoding="utf-8") as file:
        policies = json.load(file)["policies"]
    series = defaultdict(list)
    for line in policies:
        name = re.sub(r",.*=.*$", "", line["policy"])
        series[name].append((line["experts_per_token"], line["bits_per_byte"]))
    return series


def plot(series, path):
    figure, (everything, near) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, points in series.items():
        for axes in (everything, near):
            axes.plot(*zip(*points), marker="o", label=name)
    best = min(bits for points in series.values() for _, bits in points)
    everything.set(yscale="log", ylabel="bits per byte", title="all policies")
    near.set(ylim=(best * 0.999, best * 1.03), title="those within 3 % of the best")
    for axes in (everything, near):
        axes.set(xlabel="experts per token")
        axes.grid(alpha=0.3, which="both")
    everything.yaxis.set_major_formatter("{x:g}")
    everything.yaxis.set_minor_formatter("{x:g}")
    near.legend(fontsize="small")
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", help="output of compare_policies --json")
    parser.add_argument("image", help="picture to write (.png, .svg, .pdf)")
    arguments = parser.parse_args()
    plot(read_series(arguments.json), arguments.image)


if __name__ == "__main__":
    main()
