"""What a run found, as text for people and for programs."""

import dataclasses
import json

import operators

COUNTED = ("killed", "survived", "equivalent")


def line(result):
    mutant = result.mutant
    fault = f"{mutant.operator}: {mutant.before}  ->  {mutant.after}"
    return f"{result.verdict:9} {mutant.file}:{mutant.line}: {fault}  [{result.by}]"


@dataclasses.dataclass
class Summary:
    area: str
    seed: int
    population: int
    results: list
    failing: list  # tests that fail without a mutant
    seconds: float

    def number(self, verdict, operator=None):
        return sum(r.verdict == verdict and operator in (None, r.mutant.operator) for r in self.results)

    def counted(self):
        return sum(map(self.number, COUNTED))

    def score(self):
        """Share of the mutants that are not equivalent which some test noticed."""
        killed, survived = self.number("killed"), self.number("survived")
        return killed / (killed + survived) if killed + survived else 0.0

    def headline(self):
        numbers = ", ".join(f"{self.number(verdict)} {verdict}" for verdict in COUNTED)
        return (
            f"{self.area}: {numbers} of {self.counted()} mutants: {100 * self.score():.0f} % of those that are not "
            f"equivalent are killed; {self.number('does not compile')} did not compile; {self.seconds:.0f} s"
        )

    def json(self):
        rows = []
        for result in self.results:
            row = dataclasses.asdict(result.mutant)
            del row["text"]
            rows.append(row | {"verdict": result.verdict, "by": result.by, "reason": result.reason})
        return json.dumps({"area": self.area, "seed": self.seed, "results": rows}, indent=1) + "\n"

    def markdown(self):
        drawn = f"{self.headline()}. Seed {self.seed}, drawn from {self.population}."
        parts = [f"# Mutants of {self.area}", "", drawn, ""]
        if self.failing:
            parts += [f"Tests that do not pass without a mutant and judge nothing: {', '.join(self.failing)}.", ""]
        parts += ["| fault | killed | survived | equivalent | did not compile |", "|---|--:|--:|--:|--:|"]
        for operator in operators.CLASSES:
            numbers = [self.number(v, operator) for v in (*COUNTED, "does not compile")]
            parts.append(f"| {operator} | {' | '.join(map(str, numbers))} |")
        titles = {"survived": "Survivors", "equivalent": "Equivalents", "no judge": "No test includes", "killed": "Killed"}
        for verdict, title in titles.items():
            rows = [r for r in self.results if r.verdict == verdict]
            if rows:
                parts += ["", f"## {title}", ""] + [_item(r) for r in rows]
        return "\n".join(parts) + "\n"


def _item(result):
    mutant = result.mutant
    before, after = _changed(mutant.before, mutant.after)
    said = result.reason or (f"killed by {result.by}" if result.verdict == "killed" else result.by)
    return f"- {mutant.file}:{mutant.line}, {mutant.operator}: `{before}` → `{after}`. {said}"


def _changed(before, after, around=40, longest=160):
    """Both texts around where they differ."""
    first = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
    last = next((i for i, (a, b) in enumerate(zip(before[::-1], after[::-1])) if a != b), 0)
    start = max(0, first - around)

    def cut(text):
        end = max(len(text) - last, first) + around
        piece = text[start : min(end, start + longest)]
        return ("…" if start else "") + piece + ("…" if start + len(piece) < len(text) else "")

    return cut(before), cut(after)
