"""Tests of the operators: what becomes of small texts."""

import textwrap
import unittest

import cpp_source
import mutate
import operators


def after(operator, text):
    """All that one operator makes of a text, without the layout."""
    text = textwrap.dedent(text)
    edits = [e for e in operators.edits(text) if e.operator == operator]
    return {" ".join((text[: e.start] + e.text + text[e.end :]).split()) for e in edits}


class Drop(unittest.TestCase):
    def test_forgets_each_statement_but_no_declaration(self):
        self.assertEqual(
            after("drop", "void f(int& a) {\n  const int b = g(a);\n  a = b;\n  h(a);\n}\n"),
            {
                "void f(int& a) { const int b = g(a); ; h(a); }",
                "void f(int& a) { const int b = g(a); a = b; ; }",
            },
        )

    def test_forgets_what_an_if_decides(self):
        self.assertEqual(after("drop", "int f(int a) {\n  if (a) return 1;\n  return 2;\n}\n"),
                         {"int f(int a) { if (a) ; return 2; }"})  # fmt: skip

    def test_does_not_fall_off_the_end_of_a_function(self):
        self.assertEqual(after("drop", "int f(int a) {\n  if (a)\n    return 1;\n  else\n    return 2;\n}\n"), set())

    def test_forgets_fields_of_an_aggregate_and_of_a_constructor(self):
        self.assertEqual(after("drop", "auto f() { return P{a, 0}; }\n"), {"auto f() { return P{{}, 0}; }"})
        self.assertEqual(after("drop", "auto f() { return P{.x = a}; }\n"), {"auto f() { return P{.x = {}}; }"})
        self.assertEqual(
            after("drop", "struct P {\n  P(int a) : a_(a), b_{a} {}\n};\n"),
            {"struct P { P(int a) : a_(), b_{a} {} };", "struct P { P(int a) : a_(a), b_{} {} };"},
        )


class Negate(unittest.TestCase):
    def test_a_condition_of_several_parts_as_a_whole_and_in_its_operators(self):
        self.assertEqual(
            after("negate", "void f() {\n  if (a == b && c) g();\n}\n"),
            {
                "void f() { if (!(a == b && c)) g(); }",
                "void f() { if (a != b && c) g(); }",
                "void f() { if (a == b || c) g(); }",
            },
        )

    def test_a_simple_condition_once(self):
        self.assertEqual(after("negate", "void f() {\n  if (!a) g();\n}\n"), {"void f() { if (a) g(); }"})
        self.assertEqual(after("negate", "void f() {\n  if (int a = h(); a < 0) g();\n}\n"),
                         {"void f() { if (int a = h(); !(a < 0)) g(); }"})  # fmt: skip

    def test_a_choice(self):
        self.assertEqual(after("negate", "int f() { return a < b ? g(a, b) : h; }\n"),
                         {"int f() { return a < b ? h : g(a, b); }"})  # fmt: skip


class OffByOne(unittest.TestCase):
    def test_bounds_and_numbers(self):
        self.assertEqual(
            after("off by one", "void f() {\n  while (a < b + 1) g();\n}\n"),
            {
                "void f() { while (a <= b + 1) g(); }",
                "void f() { while (a < b + 2) g(); }",
                "void f() { while (a < b + 0) g(); }",
            },
        )

    def test_no_template_argument_no_constant_no_zero_of_a_member(self):
        text = "struct S {\n  static constexpr int most = 64;\n  int n = 0;\n  std::array<int, 3> a = b<2>();\n};\n"
        self.assertEqual(after("off by one", text), set())


class Swap(unittest.TestCase):
    def test_neighbours_in_a_call_and_in_a_list(self):
        self.assertEqual(
            after("swap", "void f() {\n  g(a, h<x, y>(b), c);\n}\n"),
            {"void f() { g(h<x, y>(b), a, c); }", "void f() { g(a, c, h<x, y>(b)); }"},
        )
        self.assertEqual(after("swap", "auto f() { return {a, b}; }\n"), {"auto f() { return {b, a}; }"})

    def test_no_parameters_and_nothing_symmetric(self):
        self.assertEqual(after("swap", "int f(int a, const P& b) { return std::min(a, b.c); }\n"), set())


class Reorder(unittest.TestCase):
    def test_statements_of_which_one_writes_what_the_other_uses(self):
        self.assertEqual(after("reorder", "void f() {\n  a.b = c;\n  d = a.b;\n}\n"),
                         {"void f() { d = a.b; a.b = c; }"})  # fmt: skip

    def test_no_statements_that_do_not_meet(self):
        self.assertEqual(after("reorder", "void f() {\n  a.b = c;\n  a.d = c;\n  cut(x.y);\n  cut(x.z);\n}\n"), set())


class Untouched(unittest.TestCase):
    def test_what_is_text_or_is_asked_at_compile_time(self):
        text = """\
            #define N 1
            // a < b + 1
            template <class T, int N = 2>
              requires(sizeof(T) == 4 && N > 1)
            [[nodiscard]] inline void f() noexcept(N == 2) {
              static_assert(N > 1, "a < b");
              if constexpr (N == 1) static_assert(N != 0);
            }
            template <class T>
            concept C = requires(T t) { { t.f(1, 2) } -> std::same_as<int>; } || (sizeof(T) > 1);
            enum class E { a = 1, b = 2 };
        """
        self.assertEqual(operators.edits(textwrap.dedent(text)), [])

    def test_the_text_of_an_error_but_not_that_it_is_raised(self):
        text = 'void f() {\n  if (a < 2) raise(Error("f", "a", concat("at least ", 2), text(a)));\n}\n'
        self.assertEqual(after("swap", text), set())
        self.assertEqual(after("drop", text), {"void f() { if (a < 2) ; }"})
        self.assertEqual(len(after("off by one", text)), 3)


class Braces(unittest.TestCase):
    def kinds(self, text):
        return list(cpp_source.Source(text).brace_kind.values())

    def test_are_told_apart(self):
        self.assertEqual(self.kinds("namespace n {\nclass A final : B<C> {};\n}\n"), ["namespace", "class"])
        self.assertEqual(self.kinds("auto f() -> std::vector<int> {}\n"), ["block"])
        self.assertEqual(self.kinds("auto g = [&] { return T{1}; };\n"), ["block", "list"])
        self.assertEqual(self.kinds("void f() {\n  for (int i : {1, 2}) { g({{1}}); }\n}\n"),
                         ["block", "list", "block", "list", "list"])  # fmt: skip


class Mutants(unittest.TestCase):
    text = "void f() {\n  a = 1;\n  a = 1;\n}\n"

    def test_equal_ones_are_numbered(self):
        drops = [m for m in mutate.mutants_of("x.hpp", self.text) if m.operator == "drop"]
        self.assertEqual([(m.before, m.after, m.occurrence) for m in drops], [("a = 1;", ";", 0), ("a = 1;", ";", 1)])

    def test_keep_their_place_in_the_sample_when_others_come(self):
        mutants = mutate.mutants_of("x.hpp", self.text)
        more = mutate.sample(mutants + mutate.mutants_of("y.hpp", "void g() {\n  b(c, d);\n}\n"), 1)
        kept = [m for m in more if m.file == "x.hpp"]
        for operator in operators.CLASSES:
            self.assertEqual([m for m in kept if m.operator == operator],
                             [m for m in mutate.sample(mutants, 1) if m.operator == operator])  # fmt: skip

    def test_another_seed_draws_others(self):
        mutants = mutate.mutants_of("x.hpp", "".join(f"void f{i}() {{ a = {i}; }}\n" for i in range(20)))
        self.assertNotEqual(mutate.sample(mutants, 1), mutate.sample(mutants, 2))
        self.assertEqual(mutate.sample(mutants, 1), mutate.sample(mutants, 1))


if __name__ == "__main__":
    unittest.main()
