"""The kinds of faults: what one small slip of an editor makes of a header."""

import dataclasses
import itertools
import re

import cpp_source

CLASSES = ("drop", "negate", "off by one", "swap", "reorder")

# Their arguments may change places, or are text.
SYMMETRIC = {"min", "max", "swap", "fma", "is_same_v", "lcm", "gcd"} | cpp_source.ERROR_TEXT
NOT_CALLS = {"if", "for", "while", "switch", "return", "catch", "requires", "constexpr"} | cpp_source.NEVER_CALLED
ZERO = {"{}", "0", "nullptr", "false", "0.0f", "0u", "0.0", ""}


@dataclasses.dataclass(frozen=True)
class Edit:
    """Characters [start, end) of a header become `text`; `operator` is one of CLASSES."""

    operator: str
    start: int
    end: int
    text: str


def edits(text):
    """All edits of a header, in the order of its text."""
    source = cpp_source.Source(text)
    kinds = (drop_statements, drop_fields, negate_conditions, negate_operators, shift_bounds, shift_numbers,
             swap_arguments, swap_statements)  # fmt: skip
    found = set(itertools.chain.from_iterable(kind(source) for kind in kinds))
    changes = (e for e in found if text[e.start : e.end] != e.text)
    return sorted(changes, key=lambda e: (e.start, e.end, e.operator, e.text))


def _replace(source, operator, first, end, text):
    """Tokens [first, end) become `text`."""
    return Edit(operator, source.tokens[first].start, source.tokens[end - 1].end, text)


def _signs(source):
    """Indices of operators that may be mutated."""
    for i, token in enumerate(source.tokens):
        if token.kind == "sign" and i not in source.excluded and i not in source.in_template:
            yield i, token.text


# ---- drop: a statement or a field is forgotten


def drop_statements(source):
    in_blocks = (s for block in source.blocks for s in block if s.kind in ("expression", "jump"))
    guarded = (s for s in source.guarded_statements() if s.kind in ("expression", "jump") or _leaves_early(s))
    for statement in itertools.chain(in_blocks, guarded):
        if statement.first in source.excluded and source.word(statement.first) not in cpp_source.ERROR_TEXT:
            continue
        if source.slice(statement.first, statement.end).endswith(";"):
            yield _replace(source, "drop", statement.first, statement.end, ";")


def _leaves_early(statement):
    """A return behind which the function goes on."""
    return statement.kind == "return" and not statement.has_else


def drop_fields(source):
    for brace, kind in source.brace_kind.items():
        if kind == "list" and brace not in source.excluded:
            yield from _drop_elements(source, source.elements(brace))
    for i, text in _signs(source):
        if text == ":":
            yield from _drop_initialisers(source, i)


def _drop_elements(source, elements):
    named = any(source.word(first) == "." for first, _ in elements)
    for first, end in elements:
        if named and source.word(first) == "." and source.word(first + 2) == "=":
            yield _replace(source, "drop", first + 3, end, "{}")
        elif not named and len(elements) > 1 and source.slice(first, end) not in ZERO:
            yield _replace(source, "drop", first, end, "{}")


def _drop_initialisers(source, colon):
    """Of a constructor: `: a_(x), b_(y) {`."""
    brackets, i = [], colon + 1
    while i + 1 < len(source.tokens) and source.tokens[i].kind == "word" and source.word(i + 1) in ("(", "{"):
        if i + 1 not in source.partner:
            return
        brackets.append(i + 1)
        i = source.partner[i + 1] + 1
        if source.word(i) != ",":
            break
        i += 1
    if source.brace_kind.get(i) != "block" or source.word(colon - 1) not in (")", "noexcept"):
        return
    for bracket in brackets:
        if source.slice(bracket + 1, source.partner[bracket]) not in ZERO:
            yield _replace(source, "drop", bracket + 1, source.partner[bracket], "")


# ---- negate: a condition is the other way round


def negate_conditions(source):
    for i, token in enumerate(source.tokens):
        if i in source.excluded:
            continue
        if token.text in ("if", "while") and source.word(i + 1) == "(" and i + 1 in source.partner:
            yield from _negate_condition(source, i + 1)
        elif token.text == "?" and token.kind == "sign":
            yield from _negate_choice(source, i)


def _negate_condition(source, bracket):
    end, first = source.partner[bracket], bracket + 1
    semicolon = source.find(first, ";")
    if semicolon < end:
        first = semicolon + 1
    words = {source.word(k) for k in range(first, end)}
    by_its_operator = words & {"==", "!=", "!"} and not words & {"&&", "||"}  # see negate_operators
    if first < end and "=" not in words and not by_its_operator:
        yield _replace(source, "negate", first, end, f"!({source.slice(first, end)})")


def _negate_choice(source, question):
    """`c ? a : b` becomes `c ? b : a`."""
    colon = source.find(question + 1, ":", "?", ";", ",", ")", "]", "}")
    if source.word(colon) != ":":
        return
    end = source.find(colon + 1, ";", ",", ")", "]", "}", "?", ":")
    if source.word(end) in ("?", ":") or end <= colon + 1:
        return
    yes, no = source.slice(question + 1, colon), source.slice(colon + 1, end)
    if yes != no:
        yield _replace(source, "negate", question + 1, end, f"{no} : {yes}")


def negate_operators(source):
    others = {"==": "!=", "!=": "==", "&&": "||", "||": "&&"}
    for i, text in _signs(source):
        if text in others and source.spaced(i):
            yield _replace(source, "negate", i, i + 1, others[text])
        elif text == "!":
            yield _replace(source, "negate", i, i + 1, "")
    for i, token in enumerate(source.tokens):
        if token.text in ("true", "false") and i not in source.excluded and i not in source.in_template:
            yield _replace(source, "negate", i, i + 1, "false" if token.text == "true" else "true")


# ---- off by one: a bound is taken in or left out, a number is one more or less


def shift_bounds(source):
    others = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
    for i, text in _signs(source):
        if text in others and source.spaced(i):
            yield _replace(source, "off by one", i, i + 1, others[text])


def shift_numbers(source):
    for i, token in enumerate(source.tokens):
        if token.kind != "number" or i in source.excluded or i in source.in_template:
            continue
        if not re.fullmatch(r"\d+[uUlLzZ]*", token.text) or source.word(i - 1) in ("<<", ">>"):
            continue
        if token.text == "0" and i in source.class_scope:
            continue  # a member that everybody sets
        digits = re.match(r"\d+", token.text).group()
        suffix = token.text[len(digits) :]
        yield _replace(source, "off by one", i, i + 1, f"{int(digits) + 1}{suffix}")
        if int(digits) > 0:
            yield _replace(source, "off by one", i, i + 1, f"{int(digits) - 1}{suffix}")


# ---- swap: two arguments or fields change places


def swap_arguments(source):
    for i, token in enumerate(source.tokens):
        if i in source.excluded or i not in source.partner:
            continue
        call = token.text == "(" and source.tokens[i - 1].kind in ("word", "sign") and _is_callee(source, i - 1)
        if call or (token.text == "{" and source.brace_kind.get(i) == "list"):
            yield from _swap_neighbours(source, source.elements(i))


def _is_callee(source, i):
    if source.tokens[i].kind == "word":
        return source.word(i) not in SYMMETRIC and source.word(i) not in NOT_CALLS
    return source.word(i) == ">" and i in source.in_template


def _swap_neighbours(source, elements):
    if any(source.declares(first, end) or source.word(first) == "." for first, end in elements):
        return
    for (a, a_end), (b, b_end) in zip(elements, elements[1:]):
        one, other = source.slice(a, a_end), source.slice(b, b_end)
        if one != other and ";" not in one + other and one.startswith('"') == other.startswith('"'):
            yield _replace(source, "swap", a, b_end, f"{other}, {one}")


# ---- reorder: two statements change places


def swap_statements(source):
    for block in source.blocks:
        for one, other in zip(block, block[1:]):
            if _may_change_places(source, one) and _may_change_places(source, other) and _depend(source, one, other):
                between = source.text[source.tokens[one.end - 1].end : source.tokens[other.first].start]
                text = source.slice(other.first, other.end) + between + source.slice(one.first, one.end)
                if "//" not in between:
                    yield _replace(source, "reorder", one.first, other.end, text)


def _may_change_places(source, statement):
    if statement.kind not in ("expression", "if", "loop") or statement.has_else:
        return False
    words = {source.word(i) for i in range(statement.first, statement.end)}
    return not words & (cpp_source.ERROR_TEXT | {"MOE_ASSERT"})


def _depend(source, one, other):
    """Whether one of the two may write what the other reads or writes, or ends the function."""
    a, b = _Effects(source, one), _Effects(source, other)
    if a.leaves or b.leaves:
        return True
    if a.calls and b.calls:
        return a.calls != b.calls or _touch(a.written, b.written)
    members = lambda e: any(p[0].endswith("_") for p in e.read | e.written)
    if (a.calls and members(b)) or (b.calls and members(a)):
        return True
    return _touch(a.written, b.read | b.written) or _touch(b.written, a.read)


def _touch(paths, others):
    return any(p[: len(q)] == q[: len(p)] for p in paths for q in others)


class _Effects:
    """Which paths (`slot.claim`) a statement reads and writes, as far as its text shows."""

    def __init__(self, source, statement):
        self.read, self.written, self.calls = set(), set(), set()
        words = {source.word(i) for i in range(statement.first, statement.end)}
        self.leaves = bool(words & {"return", "break", "continue"})
        i = statement.first
        while i < statement.end:
            if source.tokens[i].kind != "word":
                i += 1
                continue
            first, path = i, [source.word(i)]
            while source.word(i + 1) in (".", "->") and source.tokens[i + 2].kind == "word":
                path.append(source.word(i + 2))
                i += 2
            self._note(source, first, i, tuple(path))
            i += 1

    def _note(self, source, first, last, path):
        after = last + 1
        while source.word(after) == "[" and after in source.partner:
            after = source.partner[after] + 1
        if source.word(after) == "(":
            if len(path) > 1:
                self.written.add(path[:-1])
            elif path[0] not in ("if", "for", "while", "static_cast"):
                self.calls.add(path[0])
        elif source.word(after) in ("=", "+=", "-=", "*=", "/=", "|=", "&=", "^=", "++", "--"):
            self.written.add(path)
        elif source.word(first - 1) in ("++", "--"):
            self.written.add(path)
        else:
            self.read.add(path)
