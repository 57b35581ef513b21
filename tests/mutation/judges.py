"""The tests that judge a mutant: which there are, what they cost, and whether one passes with a header replaced."""

import dataclasses
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include" / "moe"
TESTS = ROOT / "tests"

FLAGS = ["-std=c++20", "-w", "-ffp-contract=off", f"-I{TESTS}", f"-I{ROOT / 'examples' / 'engine'}", "-isystem",
         "/usr/include/eigen3", f'-DMOE_TEST_DATA="{TESTS / "data"}"',
         f'-DMOE_MODEL_DIR="{ROOT / "examples" / "models" / "kjv-mixtral"}"']  # fmt: skip
# A test that includes one of these links it.
LIBRARIES = {"/rapidcheck.h": "-lrapidcheck", "/liburing.h": "-luring"}
SLOW_RUN_S = 3  # from here on it is tried whether an optimised test costs less
COMPILE_LIMIT_S = 300
FIRST_RUN_LIMIT_S = 60
CANNOT_BE_BUILT = "includes what is missing here"
MEMORY_LIMIT = 8 << 30
FILE_LIMIT = 1 << 30
FIRST_FAILURE = re.compile(r"TEST CASE:\s+(.+)")


@dataclasses.dataclass(frozen=True)
class Outcome:
    result: str  # passes, fails, hangs, does not compile
    detail: str = ""  # the test case that failed
    seconds: float = 0


@dataclasses.dataclass(frozen=True)
class Judge:
    """A test program, as measured with the headers as they are."""

    name: str
    level: str
    seconds: float
    run_seconds: float
    dependencies: tuple  # paths relative to the repository
    libraries: tuple

    def includes(self, header):
        return f"include/moe/{header}" in self.dependencies


def digest(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def sources(patterns):
    """Names of test files that match; not those that run the project's programs."""
    names = sorted(str(p.relative_to(TESTS)) for p in TESTS.rglob("*_test.cpp"))
    matches = [n for n in names if any(fnmatch.fnmatch(n, p) and n.count("/") == p.count("/") for p in patterns)]
    return [n for n in matches if "MOE_BIN_DIR" not in (TESTS / n).read_text()]


class Workshop:
    """Compiles and runs tests in a folder of its own, and remembers what came out."""

    def __init__(self, folder, compiler):
        self.folder, self.compiler = pathlib.Path(folder).resolve(), compiler
        self.answers = self.folder / "answers"
        self.answers.mkdir(parents=True, exist_ok=True)
        self.main = self.folder / "main.o"
        self.texts = {}
        if not self.main.exists():
            command = [compiler, *FLAGS, "-c", str(TESTS / "main.cpp"), "-o", str(self.main)]
            self._run(command, COMPILE_LIMIT_S, check=True)

    # ---- tests with the headers as they are

    def judge(self, name):
        """Measures a test. Without a Judge if it judges nothing, and why."""
        known = self.folder / "judges" / f"{name.replace('/', '_')}.json"
        if known.exists():
            saved = json.loads(known.read_text())
            if self._state(saved["dependencies"]) == saved.pop("state"):
                return Judge(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}), ""
        found, why = self._measure(name)
        if found is not None:
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(dataclasses.asdict(found) | {"state": self._state(found.dependencies)}))
        return found, why

    def _measure(self, name):
        listed = self._run([self.compiler, *FLAGS, f"-I{ROOT / 'include'}", "-M", str(TESTS / name)], COMPILE_LIMIT_S)
        if listed.returncode != 0:
            return None, CANNOT_BE_BUILT
        paths = listed.stdout.replace("\\\n", " ").split()[1:]
        ours = tuple(sorted(str(pathlib.Path(p).relative_to(ROOT)) for p in paths if p.startswith(str(ROOT))))
        libraries = tuple(flag for end, flag in LIBRARIES.items() if any(p.endswith(end) for p in paths))
        best, why = None, ""
        for level in ("-O0", "-O1"):
            tried, why = self._timed(Judge(name, level, 0, FIRST_RUN_LIMIT_S / 10, ours, libraries))
            if tried is not None and (best is None or tried.seconds < best.seconds):
                best = tried
            if why not in ("", "hangs") or (best is not None and best.run_seconds < SLOW_RUN_S):
                break
        return best, "" if best else why

    def _timed(self, judge):
        folder = self._fresh(f"measure_{digest(judge.name)}")
        start = time.monotonic()
        if self._compile(judge, folder, []) != 0:
            return None, "does not compile"
        compiled = time.monotonic()
        outcome = self._execute(judge, folder)
        if outcome.result != "passes":
            return None, outcome.detail or outcome.result
        end = time.monotonic()
        shutil.rmtree(folder)
        return dataclasses.replace(judge, seconds=round(end - start, 2), run_seconds=round(end - compiled, 2)), ""

    # ---- tests with one header replaced

    def verdict(self, judge, header, text, slot):
        """Whether the test passes when `header` reads `text`. `slot` numbers who works at the same time."""
        others = [d for d in judge.dependencies if d != f"include/moe/{header}"]
        key = digest(judge.name, judge.level, header, text, self.compiler, *FLAGS, self._state(others))
        saved = self.answers / f"{key}.json"
        if saved.exists():
            return Outcome(**json.loads(saved.read_text()))
        start = time.monotonic()
        folder = self._fresh(f"slot{slot}")
        place = folder / "include" / "moe" / header
        place.parent.mkdir(parents=True)
        place.write_text(text)
        compiled = self._compile(judge, folder, [f"-I{folder / 'include'}"]) == 0
        outcome = self._execute(judge, folder) if compiled else Outcome("does not compile")
        outcome = dataclasses.replace(outcome, seconds=round(time.monotonic() - start, 2))
        saved.write_text(json.dumps(dataclasses.asdict(outcome)))
        return outcome

    # ---- pieces

    def _state(self, dependencies):
        for path in dependencies:
            if path not in self.texts:
                file = ROOT / path
                self.texts[path] = digest(file.read_text()) if file.exists() else ""
        return digest(*(f"{path} {self.texts[path]}" for path in sorted(dependencies)))

    def _fresh(self, name):
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        return folder

    def _compile(self, judge, folder, before):
        command = [self.compiler, judge.level, *FLAGS, *before, f"-I{ROOT / 'include'}", str(TESTS / judge.name),
                   str(self.main), "-o", str(folder / "test"), "-pthread", *judge.libraries]  # fmt: skip
        return self._run(command, COMPILE_LIMIT_S).returncode

    def _execute(self, judge, folder):
        environment = os.environ | {"RC_PARAMS": "seed=1", "TMPDIR": str(folder / "tmp")}
        limit = 20 + 10 * judge.run_seconds
        done = self._run([str(folder / "test"), "--abort-after=1", "--no-colors"], limit, environment)
        case = FIRST_FAILURE.search(done.stdout)
        if done.returncode is None:
            return Outcome("hangs")
        return Outcome("passes" if done.returncode == 0 else "fails", case.group(1).strip() if case else "")

    def _run(self, command, limit, environment=None, check=False):
        """A process that ends with all its children at the limit; its return code is None then."""
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env=environment, cwd=self.folder, start_new_session=True, preexec_fn=_limit_resources,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code, output = None, ""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        if check and code != 0:
            raise SystemExit(f"{shlex.join(command)}\n{output}")
        return subprocess.CompletedProcess(command, code, output)


def _limit_resources():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def order(judges, header, kills):
    """Those that include the header: first the test named after it, then who is likeliest to notice something soon.
    `kills` counts by (header, test) what was noticed so far."""
    own = pathlib.Path(header).stem + "_test.cpp"

    def key(judge):
        return not judge.name.endswith(own), -(kills[header, judge.name] + 0.3) / judge.seconds

    return sorted((j for j in judges if j.includes(header)), key=key)
