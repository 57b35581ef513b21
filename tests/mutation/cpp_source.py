"""The text of one C++ header as tokens, brackets and statements: as much of the grammar as clang-format's layout shows.

Not a parser: what it takes for the wrong thing becomes a mutant that does not compile, and those are not counted.
"""

import bisect
import dataclasses
import re

TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<directive>^[ \t]*\#(?:\\\n|[^\n])*)
      | (?P<string>(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*")
      | (?P<character>'(?:[^'\\\n]|\\.)+')
      | (?P<number>0[xX][0-9a-fA-F'.]+(?:[pP][+-]?\d+)?\w*|\.?\d[\d']*(?:\.\d*)?(?:[eE][+-]?\d+)?\w*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign><<=|>>=|<=>|\.\.\.|::|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)

CLOSING = {"(": ")", "[": "]", "{": "}"}

# What stands in their parentheses is text for people, or is asked when the program is compiled.
NEVER_CALLED = {"static_assert", "noexcept", "decltype", "sizeof", "alignas", "alignof", "__attribute__", "MOE_ASSERT"}
ERROR_TEXT = {"raise", "Error", "IoError", "concat", "fail", "require_equal"}

NOT_AN_EXPRESSION = {
    "const", "auto", "static", "constexpr", "using", "typedef", "struct", "class", "enum", "union", "template",
    "friend", "namespace", "public", "private", "protected", "goto", "unsigned", "signed", "inline", "extern",
    "explicit", "thread_local", "typename", "virtual",
}  # fmt: skip
BEFORE_AN_OPERAND = {"return", "throw", "new", "delete", "else", "do", "case", "co_return", "co_await"}


@dataclasses.dataclass(frozen=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


@dataclasses.dataclass
class Statement:
    """Tokens [first, end)."""

    kind: str  # expression, declaration, return, jump, if, loop, block, other
    first: int
    end: int
    has_else: bool = False  # it is an if with an else, or a branch of one


class Source:
    def __init__(self, text):
        self.text = text
        self.tokens = [
            Token(m.lastgroup, m.group(), m.start(), m.end())
            for m in TOKEN.finditer(text)
            if m.lastgroup not in ("space", "comment", "directive")
        ]
        self.line_starts = [0] + [i + 1 for i, c in enumerate(text) if c == "\n"]
        self.partner = self._match_brackets()
        self.template_end = self._match_templates()
        self.in_template = {i for a, b in self.template_end.items() for i in range(a, b + 1)}
        self.excluded = self._excluded()
        self.brace_kind = {}
        for i, token in enumerate(self.tokens):
            if token.text == "{" and i in self.partner:
                self.brace_kind[i] = self._kind_of_brace(i)
        self.class_scope = self._class_scope()
        self.blocks = [self._statements(i + 1, self.partner[i]) for i, k in self.brace_kind.items() if k == "block"]

    # ---- places

    def line(self, offset):
        return bisect.bisect_right(self.line_starts, offset)

    def slice(self, first, end):
        """The text of tokens [first, end)."""
        return self.text[self.tokens[first].start : self.tokens[end - 1].end] if first < end else ""

    def word(self, i):
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    def spaced(self, i):
        """Whether token i stands between white space, as clang-format writes binary operators."""
        token = self.tokens[i]
        return self.text[token.start - 1].isspace() and self.text[token.end : token.end + 1].isspace()

    def touches_previous(self, i):
        return i > 0 and self.tokens[i - 1].end == self.tokens[i].start

    # ---- brackets

    def _match_brackets(self):
        partner, open_ = {}, []
        for i, token in enumerate(self.tokens):
            if token.kind != "sign":
                continue
            if token.text in CLOSING:
                open_.append(i)
            elif token.text in CLOSING.values() and open_ and CLOSING[self.tokens[open_[-1]].text] == token.text:
                partner[i] = open_.pop()
                partner[partner[i]] = i
        return partner

    def _match_templates(self):
        """Template brackets touch what stands before them; comparisons are spaced."""
        ends, i = {}, 0
        while i < len(self.tokens):
            head = self.word(i - 1) == "template"
            name = self.touches_previous(i) and self.tokens[i - 1].kind == "word"
            if self.tokens[i].text == "<" and (head or name):
                end = self._template_end(i)
                if end is not None:
                    ends[i] = end
                    i = end
            i += 1
        return ends

    def _template_end(self, i):
        depth = 0
        while i < len(self.tokens):
            text = self.tokens[i].text
            if text == "<" and not self.spaced(i):
                depth += 1
            elif text in (">", ">>") and not (self.spaced(i) and self.word(i - 1) != "="):
                depth -= len(text)
                if depth <= 0:
                    return i
            elif text in CLOSING:
                i = self.partner.get(i, i)
            elif text in (";", ")", "]", "}"):
                return None
            i += 1
        return None

    # ---- what is not mutated

    def _excluded(self):
        excluded = set()
        for i, token in enumerate(self.tokens):
            if token.kind == "word":
                excluded.update(range(i, self._excluded_end(i)))
            elif token.text == "[" and self.word(i + 1) == "[" and i in self.partner:
                excluded.update(range(i, self.partner[i] + 1))
        return excluded

    def _excluded_end(self, i):
        word, after = self.tokens[i].text, self.word(i + 1)
        if word == "template" and i + 1 in self.template_end:
            return self.template_end[i + 1] + 1
        if (word in NEVER_CALLED or word in ERROR_TEXT) and after == "(":
            return self.partner.get(i + 1, i) + 1
        if word == "requires":
            return self._end_of_requirement(i)
        if word in ("concept", "using", "typedef", "friend"):
            return self.find(i, ";") + 1
        if word == "if" and after == "constexpr":
            return self.partner.get(i + 2, i) + 1
        if word == "enum":
            brace = self.find(i, "{", ";")
            return self.partner.get(brace, brace) + 1
        if word == "operator":
            return i + 2
        if word == "constexpr" and self.word(self.find(i, "=", "(", ";", "{")) == "=":
            return self.find(i, ";") + 1
        return i

    def find(self, i, *texts):
        while i < len(self.tokens) and self.tokens[i].text not in texts:
            i = self.partner[i] + 1 if self.tokens[i].text in CLOSING and i in self.partner else i + 1
        return min(i, len(self.tokens) - 1)

    def _end_of_requirement(self, i):
        """A clause ends with its line, unless an operator carries it on; an expression ends with its brace."""
        i += 1
        while i < len(self.tokens):
            text = self.tokens[i].text
            if text == "{" and self.word(i - 1) not in ("requires", ")"):
                return i
            i = self.partner[i] + 1 if text in CLOSING and i in self.partner else i + 1
            if text == "{" and self.word(i) not in ("&&", "||"):
                return i
            if i >= len(self.tokens) or self.tokens[i].text in (";", ")", ","):
                return i
            broken = self.line(self.tokens[i].start) != self.line(self.tokens[i - 1].end)
            if broken and self.word(i) not in ("&&", "||") and self.word(i - 1) not in ("&&", "||"):
                return i
        return i

    # ---- braces

    def _kind_of_brace(self, i):
        """block, class, namespace, list, or skip."""
        if i in self.excluded:
            return "skip"
        before = self.word(i - 1)
        head = self._head(i)
        words = [self.tokens[k].text for k in head]
        if "namespace" in words:
            return "namespace"
        if any(w in ("class", "struct", "union") for w in words) and "=" not in words and before != ")":
            return "class"
        if before in ("else", "do", "try", "const", "noexcept", "override", "final", "mutable", ";"):
            return "block"
        if before == ")" or (before == "]" and self._opens_lambda(self.partner.get(i - 1, i))):
            return "block"
        if before == "}":
            return "block" if ":" in words or self.brace_kind.get(self.partner.get(i - 1)) != "list" else "list"
        if before == "{":
            return "block" if self.brace_kind.get(i - 1) == "block" else "list"
        if before == ":" and any(w in ("case", "default") for w in words):
            return "block"
        return "block" if self._after_return_type(i) else "list"

    def _head(self, i):
        """Tokens before a brace, back to the end of what stood before at its level; without what is in brackets."""
        found, k = [], i - 1
        while k >= 0 and self.tokens[k].text not in (";", "{", "(", "["):
            text = self.tokens[k].text
            if text == "}" and self.brace_kind.get(self.partner.get(k)) != "list":
                break
            if text == ":" and self.word(k - 1) in ("public", "private", "protected"):
                break
            if k not in self.in_template:
                found.append(k)
            k = self.partner[k] - 1 if text in (")", "]", "}") and k in self.partner else k - 1
        return found[::-1]

    def _opens_lambda(self, bracket):
        return self.tokens[bracket - 1].kind != "word" and self.word(bracket - 1) not in (")", "]")

    def _after_return_type(self, i):
        k = i - 1
        while k >= 0 and (self.tokens[k].kind == "word" or self.tokens[k].text in ("::", "<", ">", "*", "&", ",")):
            k -= 1
        return self.word(k) == "->" and self.word(k - 1) == ")"

    def _class_scope(self):
        """Tokens that stand in a class, and in no bracket within it."""
        found, open_ = set(), []
        for i, token in enumerate(self.tokens):
            if token.text in CLOSING and i in self.partner:
                open_.append(i)
            elif token.text in CLOSING.values() and i in self.partner and open_:
                open_.pop()
            elif open_ and self.brace_kind.get(open_[-1]) == "class":
                found.add(i)
        return found

    # ---- statements

    def _statements(self, first, end):
        found, i = [], first
        while i < end:
            statement = self._statement(i, end)
            found.append(statement)
            i = max(statement.end, i + 1)
        return found

    def _statement(self, i, end):
        word = self.word(i)
        if word == "{":
            return Statement("block", i, self.partner[i] + 1)
        if word in ("if", "for", "while", "switch"):
            condition = self.find(i, "(")
            body = self._statement(self.partner.get(condition, condition) + 1, end)
            has_else = word == "if" and self.word(body.end) == "else"
            stop = self._statement(body.end + 1, end).end if has_else else body.end
            return Statement("if" if word == "if" else "loop", i, stop, has_else=has_else)
        if word == "do":
            return Statement("loop", i, self.find(self._statement(i + 1, end).end, ";") + 1)
        if word in ("case", "default"):
            return Statement("other", i, self.find(i, ":", ";") + 1)
        stop = min(self.find(i, ";") + 1, end)
        return Statement(self._kind_of_statement(i, stop), i, stop)

    def guarded_statements(self):
        """The statement, other than a block, that an if, else or loop without braces decides."""
        for i, token in enumerate(self.tokens):
            if i in self.excluded and token.text not in ("if", "else"):
                continue
            if token.text in ("if", "for", "while") and self.tokens[i].kind == "word":
                bracket = self.find(i, "(", ";")
                body = self.partner.get(bracket, bracket) + 1
            elif token.text == "else":
                body = i + 1
            else:
                continue
            if body >= len(self.tokens) or self.word(body) in ("{", "if", "for", "while", "do", "switch", ";"):
                continue
            statement = self._statement(body, len(self.tokens))
            statement.has_else = token.text == "else" or self.word(statement.end) == "else"
            yield statement

    def _kind_of_statement(self, i, end):
        word = self.word(i)
        if word in ("return", "throw"):
            return "return"
        if word in ("break", "continue"):
            return "jump"
        if word in NOT_AN_EXPRESSION or word in NEVER_CALLED or word in (";", "try", "catch", "else"):
            return "other" if word not in ("const", "auto", "static", "constexpr", "unsigned") else "declaration"
        return "declaration" if self.declares(i, end) else "expression"

    def declares(self, i, end):
        """Whether tokens [i, end) begin with a type and a name."""
        for k in range(i + 1, end):
            text = self.tokens[k].text
            if text in ("=", "(", "{", ".", "->"):
                return False
            if k in self.in_template or self.tokens[k].kind != "word" or k - 1 < i:
                continue
            previous = self.tokens[k - 1]
            if previous.kind == "word" and previous.text not in BEFORE_AN_OPERAND:
                return True
            if previous.text == ">" and k - 1 in self.in_template:
                return True
            if previous.text in ("&", "*", "&&", "...") and self.touches_previous(k - 1):
                return True
        return False

    # ---- lists

    def elements(self, bracket):
        """Token ranges between the commas of a pair of brackets."""
        found, first, i, end = [], bracket + 1, bracket + 1, self.partner[bracket]
        while i < end:
            text = self.tokens[i].text
            if text in CLOSING:
                i = self.partner.get(i, i)
            elif i in self.template_end:
                i = self.template_end[i]
            elif text == ",":
                found.append((first, i))
                first = i + 1
            i += 1
        if first < end:
            found.append((first, end))
        return found
