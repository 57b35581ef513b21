// Laws of SelfContrast: each rule against a sort, streams in one batch against two calls, and the contrast of logits.
#include <moe/routers/self_contrast.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"
#include "../layer_support.hpp"
#include "../test_policies.hpp"

using moe::SelfContrast;
using moe::StreamRule;
using moe::TopK;
using Router = SelfContrast<TopK>;

namespace {

std::vector<moe::Slot> choose_by(const Router& router, int rule, const std::vector<float>& logits, int position = 0,
                                 const std::uint32_t* allowed = nullptr) {
  moe::RouteContext<> context;
  context.rules = &rule;
  context.positions = &position;
  context.allowed = allowed;
  std::vector<moe::Slot> out(static_cast<std::size_t>(moe::max_slots(router)));
  const int n = router.select(context.at(0, {logits.data(), static_cast<int>(logits.size())}),
                              {out.data(), static_cast<int>(out.size())});
  out.resize(static_cast<std::size_t>(n));
  return out;
}
Router with_weak(StreamRule weak, int experts, int k = 2) {
  return {.inner = {.experts = experts, .k = k}, .rules = {StreamRule::top(k), weak}};
}

/// next-token logits by the paper's text, in double precision; -inf where a token is out.
std::vector<double> contrast(const std::vector<float>& strong, const std::vector<float>& weak, double alpha,
                             double beta) {
  std::vector<double> out;
  const double best = static_cast<double>(*std::max_element(strong.begin(), strong.end()));
  for (std::size_t i = 0; i < strong.size(); ++i) {
    const double s = static_cast<double>(strong[i]), w = static_cast<double>(weak[i]);
    out.push_back(std::exp(s - best) >= alpha ? (1 + beta) * s - beta * w : -HUGE_VAL);
  }
  return out;
}
std::vector<float> contrasted(const std::vector<float>& strong, const std::vector<float>& weak, float alpha,
                              float beta) {
  std::vector<float> out(strong.size());
  const int n = static_cast<int>(strong.size());
  moe::contrast_logits({strong.data(), n}, {weak.data(), n}, alpha, beta, {out.data(), n});
  return out;
}
std::size_t argmax(const std::vector<float>& v) {
  return static_cast<std::size_t>(std::max_element(v.begin(), v.end()) - v.begin());
}

/// Two streams of 5 tokens: x of the strong one, then of the weak one, row by row in turn.
struct Streams {
  static constexpr int tokens = 5;
  oracle::Random random{731};
  Problem<float> p{{.tokens = 2 * tokens, .hidden = 40, .ffn = 24, .experts = 6, .k = 2}, random};
  std::vector<int> rules, positions;

  Streams() {
    for (int t = 0; t < tokens; ++t)
      for (const int rule : {0, 1}) {
        rules.push_back(rule);
        positions.push_back(t);
      }
  }
  template <class Layer>
  std::vector<float> fused(const Layer& layer) const {
    return forward(layer, p, {.context = {.rules = rules.data(), .positions = positions.data()}});
  }
  /// The rows of one stream, in a call of their own.
  template <class Layer>
  std::vector<float> alone(const Layer& layer, int rule) const {
    std::vector<float> x, y(static_cast<std::size_t>(tokens * 40));
    for (int t = 0; t < tokens; ++t) {
      const std::vector<float> row = row_of(p.x, 40, 2 * t + rule);
      x.insert(x.end(), row.begin(), row.end());
    }
    const std::vector<int> own_rules(tokens, rule), own_positions = {0, 1, 2, 3, 4};
    moe::Workspace ws(layer.workspace(tokens));
    layer.forward(
        {.x = view(x, 40), .y = view(y, 40), .context = {.rules = own_rules.data(), .positions = own_positions.data()}},
        ws);
    return y;
  }
};

}  // namespace

TEST_CASE("the strong rule is the router inside") {
  oracle::Random random(730);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(8, 4);
    const Router router = with_weak(StreamRule::rank(2), 8, 3);
    const auto found = choose_by(router, 0, logits), plain = router_laws::choose(router.inner, logits);
    CHECK(router_laws::ids(found) == router_laws::ids(plain));
    CHECK(bits(router_laws::weights(found)) == bits(router_laws::weights(plain)));
  }
}
TEST_CASE("a top rule of fewer choices is the router inside with that many") {
  oracle::Random random(732);
  const std::vector<float> logits = random.reals(8, 4);
  const Router router = with_weak(StreamRule::top(1), 8, 3);
  const auto found = choose_by(router, 1, logits), plain = router_laws::choose(TopK{.experts = 8, .k = 1}, logits);
  CHECK(router_laws::ids(found) == router_laws::ids(plain));
  CHECK(router_laws::weights(found) == router_laws::weights(plain));
}
TEST_CASE("rank r is the r-th of a sort, ties to the lower id, with weight exactly 1") {
  oracle::Random random(733);
  CAPTURE(random.seed);
  for (int i = 0; i < 200; ++i) {
    std::vector<float> logits = i % 2 == 0 ? router_laws::coarse_logits(random, 8) : random.reals(8, 100);
    if (i % 5 == 0) logits[static_cast<std::size_t>(random.below(8))] = not_a_number;
    if (i % 7 == 0) logits[static_cast<std::size_t>(random.below(8))] = -infinity;
    const auto sorted = oracle::ranked(logits, {});
    for (int r = 1; r <= 8; ++r) {
      const auto found = choose_by(with_weak(StreamRule::rank(r), 8), 1, logits);
      REQUIRE(found.size() == 1);
      CHECK(found[0].expert == sorted[static_cast<std::size_t>(r - 1)].expert);
      CHECK(found[0].weight == 1);
    }
  }
}
TEST_CASE("rank r counts only experts that the row may use, and ends at the last of them") {
  const std::uint32_t mask = 0b0110;
  const std::vector<float> logits = {4, 3, 2, 1};
  CHECK(choose_by(with_weak(StreamRule::rank(2), 4), 1, logits, 0, &mask)[0].expert == 2);
  CHECK(choose_by(with_weak(StreamRule::rank(4), 4), 1, logits, 0, &mask)[0].expert == 2);
  const std::uint32_t nobody = 0;
  for (const StreamRule weak : {StreamRule::rank(1), StreamRule::random_one(), StreamRule::top_p(0.5f)})
    CHECK(choose_by(with_weak(weak, 4), 1, logits, 0, &nobody).empty());
}
TEST_CASE("a random expert is any one with the same probability, and the same one for the same position") {
  constexpr int draws = 8000;
  const Router router = with_weak(StreamRule::random_one(), 8);
  const std::vector<float> logits = {9, 0, 0, 0, 0, 0, 0, -9};
  std::vector<int> counts(8);
  for (int position = 0; position < draws; ++position) {
    const auto found = choose_by(router, 1, logits, position);
    REQUIRE(found.size() == 1);
    CHECK(found[0].weight == 1);
    ++counts[static_cast<std::size_t>(found[0].expert)];
    CHECK(choose_by(router, 1, logits, position)[0].expert == found[0].expert);
  }
  double statistic = 0;
  for (const int count : counts) statistic += (count - draws / 8.0) * (count - draws / 8.0) / (draws / 8.0);
  CHECK(statistic < 24.4);  // 99.9 %, 7 degrees of freedom
}
TEST_CASE("a random expert is one that the row may use") {
  const std::uint32_t mask = 0b10100100;
  for (int position = 0; position < 100; ++position) {
    const int e =
        choose_by(with_weak(StreamRule::random_one(), 8), 1, std::vector<float>(8), position, &mask)[0].expert;
    CHECK((mask >> e & 1u) == 1u);
  }
}
TEST_CASE("a probability rule takes as few of the best as reach the mass") {
  oracle::Random random(734);
  CAPTURE(random.seed);
  for (int i = 0; i < 300; ++i) {
    const std::vector<float> logits = random.reals(8, 4);
    const auto p = oracle::route({oracle::Score::softmax}, logits, 8);
    for (const float mass : {0.1f, 0.5f, 0.9f}) {
      double sum = 0, closest = 1;
      std::size_t expected = 0;
      for (const oracle::Pick& pick : p) {
        if (sum >= static_cast<double>(mass)) break;
        sum += pick.weight.v;
        closest = std::min(closest, std::fabs(sum - static_cast<double>(mass)));
        ++expected;
      }
      if (closest < 1e-5) continue;  // float32 may see it on the other side
      const auto found = choose_by(with_weak(StreamRule::top_p(mass), 8, 8), 1, logits);
      CHECK(found.size() == expected);
    }
  }
}
TEST_CASE("a rule number outside the rules means the first") {
  const std::vector<float> logits = {1, 2, 3};
  for (const int rule : {-1, 2, 1000}) CHECK(choose_by(with_weak(StreamRule::rank(1), 3), rule, logits).size() == 2);
}
TEST_CASE("SelfContrast refuses a rank beyond its experts") {
  CHECK(message_of([] { with_weak(StreamRule::rank(5), 4).check(); }) ==
        "moe::SelfContrast: rank: expected 1 to 4, found 5");
}
TEST_CASE("a layer with SelfContrast refuses a call without rules") {
  const Streams s;
  const moe::MoELayer layer(moe::Linear(s.p.gate_view()), with_weak(StreamRule::rank(2), 6), s.p.storage(),
                            moe::Cpu{.threads = 1});
  CHECK(message_of([&] { forward(layer, s.p); }) ==
        "moe::MoELayer::forward: what this router needs: expected Call::context.rules, found null");
}

// ---- two streams in one batch

TEST_CASE("two streams in one call have the bits of two calls") {
  const Streams s;
  for (const StreamRule weak :
       {StreamRule::rank(2), StreamRule::rank(6), StreamRule::random_one(), StreamRule::top_p(0.4f)}) {
    const moe::MoELayer layer(moe::Linear(s.p.gate_view()), with_weak(weak, 6), s.p.storage(), moe::Cpu{.threads = 1});
    const std::vector<float> fused = s.fused(layer);
    for (const int rule : {0, 1}) {
      const std::vector<float> alone = s.alone(layer, rule);
      for (int t = 0; t < Streams::tokens; ++t)
        CHECK(bits(row_of(fused, 40, 2 * t + rule)) == bits(row_of(alone, 40, t)));
    }
  }
}
TEST_CASE("what one stream holds does not touch the other") {
  Streams s;
  const moe::MoELayer layer(moe::Linear(s.p.gate_view()), with_weak(StreamRule::rank(2), 6), s.p.storage(),
                            moe::Cpu{.threads = 1});
  const std::vector<float> before = s.fused(layer);
  for (int t = 0; t < Streams::tokens; ++t)
    for (int i = 0; i < 40; ++i) s.p.x[static_cast<std::size_t>((2 * t + 1) * 40 + i)] = not_a_number;
  const std::vector<float> after = s.fused(layer);
  for (int t = 0; t < Streams::tokens; ++t) CHECK(bits(row_of(before, 40, 2 * t)) == bits(row_of(after, 40, 2 * t)));
}
TEST_CASE("an expert that both streams want is lent once") {
  Streams s;
  for (int t = 0; t < Streams::tokens; ++t)  // both streams of a token see the same
    for (int i = 0; i < 40; ++i)
      s.p.x[static_cast<std::size_t>((2 * t + 1) * 40 + i)] = s.p.x[static_cast<std::size_t>(2 * t * 40 + i)];
  LeaseLog log;
  const moe::MoELayer layer(moe::Linear(s.p.gate_view()), with_weak(StreamRule::rank(2), 6),
                            OneByOne{s.p.storage(), &log}, moe::Cpu{.threads = 1});
  s.alone(layer, 0);
  const int strong_alone = log.lent;
  s.fused(layer);
  CHECK(log.lent - strong_alone == strong_alone);  // the second of the top 2 is in the top 2
}

// ---- contrast

TEST_CASE("contrast_logits agrees with the paper's text") {
  oracle::Random random(735);
  CAPTURE(random.seed);
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> strong = random.reals(50, 8), weak = random.reals(50, 8);
    const std::vector<double> expected = contrast(strong, weak, 0.1, 0.5);
    const std::vector<float> found = contrasted(strong, weak, 0.1f, 0.5f);
    for (std::size_t v = 0; v < found.size(); ++v) {
      if (std::isinf(expected[v]))
        CHECK(found[v] == -infinity);
      else  // a difference of two numbers below 8, and an fma
        CHECK(std::fabs(static_cast<double>(found[v]) - expected[v]) <= 32 * oracle::unit);
    }
  }
}
TEST_CASE("contrast_logits with beta 0 or alpha 1 chooses as the strong stream does") {
  oracle::Random random(736);
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> strong = random.reals(50, 8), weak = random.reals(50, 8);
    CHECK(argmax(contrasted(strong, weak, 0.1f, 0)) == argmax(strong));
    CHECK(argmax(contrasted(strong, weak, 1, 0.5f)) == argmax(strong));
  }
}
TEST_CASE("contrast_logits of equal streams is the strong stream, bit for bit, where valid") {
  oracle::Random random(737);
  const std::vector<float> strong = random.reals(50, 2), found = contrasted(strong, strong, 0.1f, 0.5f);
  int valid = 0;
  for (std::size_t v = 0; v < 50; ++v) {
    if (std::isinf(found[v])) continue;
    CHECK(found[v] == strong[v]);
    ++valid;
  }
  CHECK(valid > 10);
}
TEST_CASE("a constant added to either stream moves contrast_logits by a constant") {
  // Multiples of 1/64: all sums are exact.
  oracle::Random random(738);
  const std::vector<float> strong = router_laws::distinct_logits(random, 50),
                           weak = router_laws::distinct_logits(random, 50);
  std::vector<float> moved_strong = strong, moved_weak = weak;
  for (float& l : moved_strong) l += 4;
  for (float& l : moved_weak) l -= 2;
  const std::vector<float> plain = contrasted(strong, weak, 0.1f, 0.5f),
                           one = contrasted(moved_strong, weak, 0.1f, 0.5f),
                           two = contrasted(strong, moved_weak, 0.1f, 0.5f);
  for (std::size_t v = 0; v < 50; ++v) {
    if (std::isinf(plain[v])) {
      CHECK(std::isinf(one[v]));
      continue;
    }
    CHECK(one[v] == plain[v] + 6);
    CHECK(two[v] == plain[v] + 1);
  }
}
