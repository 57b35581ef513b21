#!/usr/bin/env python3
"""Mutation testing: makes small faults in the headers of an area, one at a time, and asks whether its tests notice.

  mutate.py --area routing --list            the sample, without running anything
  mutate.py --area routing --output FILE.md  runs it
  mutate.py --all                            every area, results beside this file

Exits with 1 if tests fail without a mutant, the sample was not finished, or less than 90 % of the mutants that are
not equivalent were killed.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import fnmatch
import hashlib
import json
import pathlib
import queue
import sys
import time

import cpp_source
import judges
import operators
import report

HERE = pathlib.Path(__file__).resolve().parent
ENOUGH = 0.9


@dataclasses.dataclass(frozen=True)
class Mutant:
    """Known by what it changes, not by where: edits elsewhere in the header leave it the same."""

    file: str
    operator: str
    before: str
    after: str
    occurrence: int
    line: int = dataclasses.field(compare=False)
    text: str = dataclasses.field(compare=False, repr=False)  # of the whole header

    def identity(self):
        return (self.file, self.operator, self.before, self.after, self.occurrence)


@dataclasses.dataclass
class Result:
    mutant: Mutant
    verdict: str  # killed, survived, equivalent, does not compile, no judge
    by: str = ""  # test and case
    reason: str = ""  # of who judged a survivor


def mutants_of(header, text):
    """All mutants of a header, in the order of its text."""
    source, seen, found = cpp_source.Source(text), collections.Counter(), []
    for edit in operators.edits(text):
        whole = text[: edit.start] + edit.text + text[edit.end :]
        first = text.rfind("\n", 0, edit.start) + 1
        last = len(text) - (text.find("\n", edit.end) if text.find("\n", edit.end) >= 0 else len(text))
        before, after = (" ".join(t[first : len(t) - last].split()) for t in (text, whole))
        key = (header, edit.operator, before, after)
        found.append(Mutant(*key, seen[key], source.line(edit.start), whole))
        seen[key] += 1
    return found


def headers_of(area):
    names = sorted(str(p.relative_to(judges.INCLUDE)) for p in judges.INCLUDE.rglob("*.hpp"))
    return [n for n in names if any(fnmatch.fnmatch(n, p) and n.count("/") == p.count("/") for p in area["headers"])]


def sample(mutants, seed):
    """The mutants in a seeded order that takes from the classes of operators in turn. A mutant's place among its class
    depends on nothing but itself and the seed, so a change of the headers hardly changes the sample."""

    def place(mutant):
        return hashlib.sha256(repr((seed, mutant.identity())).encode()).digest()

    by_class = [sorted((m for m in mutants if m.operator == c), key=place) for c in operators.CLASSES]
    longest = max(map(len, by_class), default=0)
    return [column[i] for i in range(longest) for column in by_class if i < len(column)]


def judge_mutant(mutant, tests, workshop, slots, kills):
    relevant = judges.order(tests, mutant.file, kills)
    if not relevant:
        return Result(mutant, "no judge")
    slot = slots.get()
    try:
        for test in relevant:
            outcome = workshop.verdict(test, mutant.file, mutant.text, slot)
            if outcome.result == "does not compile":
                return Result(mutant, "does not compile", test.name)
            if outcome.result != "passes":
                kills[mutant.file, test.name] += 1
                case = "hangs" if outcome.result == "hangs" else outcome.detail or "crashes"
                return Result(mutant, "killed", f"{test.name}: {case}")
        return Result(mutant, "survived", f"{len(relevant)} tests pass")
    finally:
        slots.put(slot)


def measure(names, workshop, jobs):
    """The tests that pass without a mutant, and the names of those that fail."""
    tests, failing = [], []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for name, (judge, why) in zip(names, pool.map(workshop.judge, names)):
            if judge is not None:
                tests.append(judge)
                continue
            print(f"{name} judges nothing: {why}", flush=True)
            if why != judges.CANNOT_BE_BUILT:
                failing.append(name)
    return tests, failing


def run(candidates, tests, workshop, options, known, end):
    """Results in the order of the sample, until enough mutants compile or the time is over."""
    slots = queue.SimpleQueue()
    for slot in range(options.jobs):
        slots.put(slot)
    results, counted, kills = [], 0, collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting, remaining = collections.deque(), iter(candidates)
        while counted < options.count:
            while len(waiting) < options.jobs and time.monotonic() < end:
                mutant = next(remaining, None)
                if mutant is None:
                    break
                waiting.append(pool.submit(judge_mutant, mutant, tests, workshop, slots, kills))
            if not waiting:
                break
            result = waiting.popleft().result()
            judgement = known.get(result.mutant.identity())
            if judgement and result.verdict == "survived":
                result.reason = judgement["reason"]
                result.verdict = "equivalent" if judgement["equivalent"] else "survived"
            results.append(result)
            counted += result.verdict in ("killed", "survived", "equivalent")
            print(report.line(result), flush=True)
        for future in waiting:
            future.cancel()
    return results


def judgements():
    entries = json.loads((HERE / "judgements.json").read_text())
    return {(e["file"], e["operator"], e["before"], e["after"], e.get("occurrence", 0)): e for e in entries}


def unknown(known, headers, mutants):
    """Judgements of these headers that match no mutant: the text has changed since, so they are to be judged again."""
    return sorted(i for i in known.keys() - {m.identity() for m in mutants} if i[0] in headers)


def run_area(name, options, workshop):
    area = json.loads((HERE / "areas.json").read_text())[name]
    mutants = [m for h in headers_of(area) for m in mutants_of(h, (judges.INCLUDE / h).read_text())]
    candidates = sample(mutants, options.seed)
    if options.list:
        for mutant in candidates[: options.count]:
            print(f"{mutant.file}:{mutant.line}: {mutant.operator}: {mutant.before}  ->  {mutant.after}")
        return True

    start = time.monotonic()
    known = judgements()
    for identity in unknown(known, headers_of(area), mutants):
        print(f"judgements.json: no such mutant any more: {identity}", flush=True)
    tests, failing = measure(judges.sources(area["tests"]), workshop, options.jobs)
    results = run(candidates, tests, workshop, options, known, start + options.budget)
    summary = report.Summary(name, options.seed, len(mutants), results, failing, time.monotonic() - start)
    print(summary.headline(), flush=True)
    if options.output:
        as_json = options.output.endswith(".json")
        pathlib.Path(options.output).write_text(summary.json() if as_json else summary.markdown())
    return not failing and summary.counted() >= options.count and summary.score() >= ENOUGH


def main():
    areas = json.loads((HERE / "areas.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--area", choices=areas)
    which.add_argument("--all", action="store_true", help="every area in turn, into results/AREA.md")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40, help="mutants that compile, per area")
    parser.add_argument("--budget", type=float, default=1200, help="seconds per area, after which no mutant is begun")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="prints the head of the sample and runs nothing")
    parser.add_argument("--output", help="a .json or .md file for the results")
    parser.add_argument("--compiler", default="g++")
    work = judges.ROOT / "build" / "mutants"
    parser.add_argument("--work", default=str(work), help="folder of objects and of what is known already")
    options = parser.parse_args()

    workshop = None if options.list else judges.Workshop(options.work, options.compiler)
    good = True
    for name in areas if options.all else [options.area]:
        if options.all and not options.list:
            options.output = str(HERE / "results" / f"{name}.md")
        good = run_area(name, options, workshop) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
