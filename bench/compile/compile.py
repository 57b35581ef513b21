"""What including a header costs: CPU seconds that the compiler takes for a file of one #include, medians of one run, beside
nlohmann/json.hpp as the yardstick of the machine.

  python3 bench/compile/compile.py [--rounds 5] [--compiler g++] [--optimise -O0] [HEADER...]
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

INCLUDE = pathlib.Path(__file__).resolve().parents[2] / "include"
YARDSTICK = "nlohmann/json.hpp"
HEADERS = ["moe/moe.hpp", "moe/layer.hpp", "moe/executors/cpu.hpp", "moe/routers/top_k.hpp", "moe/storage/cached.hpp"]


def seconds(command, source):
    """CPU time of one compilation."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, source], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("headers", nargs="*", default=HEADERS, metavar="HEADER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--optimise", default="-O0")
    arguments = parser.parse_args()
    headers = [YARDSTICK, *arguments.headers]
    times = {header: [] for header in headers}
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.compiler, "-std=c++20", arguments.optimise, f"-I{INCLUDE}", "-c", "-o", os.devnull]
        for i, header in enumerate(headers):
            pathlib.Path(folder, f"{i}.cpp").write_text(f"#include <{header}>\n")
        for _ in range(arguments.rounds):  # in turn, so that a noisy moment strikes all alike
            for i, header in enumerate(headers):
                times[header].append(seconds(command, os.path.join(folder, f"{i}.cpp")))
    yardstick = statistics.median(times[YARDSTICK])
    print(f"{'header':<28} {'seconds':>8} {'of json.hpp':>12}")
    for header in headers:
        median = statistics.median(times[header])
        print(f"{header:<28} {median:>8.2f} {median / yardstick:>12.2f}")


if __name__ == "__main__":
    sys.exit(main())
