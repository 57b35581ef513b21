// HashRouter: a function of the token id, near uniform, and the balanced table.
#include <algorithm>
#include <moe/routers/hash.hpp>

#include "../laws/router_laws.hpp"

using moe::HashRouter;

namespace {

std::vector<moe::Slot> route(const HashRouter& r, int token, const std::uint32_t* allowed = nullptr) {
  moe::Slot out[1];
  moe::RouteContext<> context;
  context.tokens = &token;
  context.allowed = allowed;
  const int n = moe::select(r, context.at(0, {}), {out, 1});
  return {out, out + n};
}

}  // namespace

TEST_CASE("HashRouter gives every token one expert with weight one, and needs no logits") {
  const HashRouter r{7};
  CHECK(moe::num_logits(r) == 0);
  CHECK(moe::uses_of<HashRouter>() == moe::Uses::tokens);
  for (int token = 0; token < 1000; ++token) {
    const auto found = route(r, token);
    REQUIRE(found.size() == 1);
    CHECK((found[0].expert >= 0 && found[0].expert < 7));
    CHECK(found[0].expert == r.expert_of(token));
    CHECK(found[0].weight == 1);
  }
}
TEST_CASE("a vocabulary spreads over the experts as chance would") {
  for (const int experts : {2, 8, 60}) {
    std::vector<double> load(static_cast<std::size_t>(experts));
    constexpr int tokens = 60000;
    for (int token = 0; token < tokens; ++token) ++load[static_cast<std::size_t>(HashRouter{experts}.expert_of(token))];
    double chi = 0;
    for (const double n : load) chi += (n - tokens / experts) * (n - tokens / experts) * experts / tokens;
    // Chi-square with E - 1 degrees of freedom: mean E - 1, variance 2 (E - 1).
    CHECK(chi < experts - 1 + 5 * std::sqrt(2.0 * experts));
  }
}
TEST_CASE("another seed is another hash") {
  int same = 0;
  for (int token = 0; token < 8000; ++token)
    same += HashRouter{8, 1}.expert_of(token) == HashRouter{8, 2}.expert_of(token) ? 1 : 0;
  CHECK(std::abs(same - 1000) < 5 * 30);  // 8000 draws of chance 1/8: deviation 29.6
}
TEST_CASE("a table decides instead of the hash") {
  const int table[] = {3, 1, 4, -1};
  const HashRouter r{4, 0, {table, 4}};
  CHECK(route(r, 0)[0].expert == 3);
  CHECK(route(r, 1)[0].expert == 1);
  CHECK(route(r, 2).empty());  // 4 is no expert
  CHECK(route(r, 3).empty());
  CHECK(route(r, 4).empty());
}
TEST_CASE("a token without an id gets no expert") {
  CHECK(route(HashRouter{4}, -1).empty());
  CHECK(!route(HashRouter{4}, 2147483647).empty());
}
TEST_CASE("an excluded expert is not replaced by another") {
  const std::uint32_t none = 0;
  CHECK(route(HashRouter{4}, 5, &none).empty());
}
TEST_CASE("balanced_hash keeps the loads of a Zipf corpus together as far as its most frequent token lets it") {
  std::vector<std::uint64_t> frequency;
  for (std::uint64_t rank = 1; rank <= 5000; ++rank) frequency.push_back(1000000 / rank);
  constexpr int experts = 6;  // a sixth of the corpus is more than the first token
  const std::vector<int> table = moe::balanced_hash(frequency, experts);
  std::vector<std::uint64_t> load(experts);
  for (std::size_t t = 0; t < table.size(); ++t) load[static_cast<std::size_t>(table[t])] += frequency[t];
  const auto [least, most] = std::minmax_element(load.begin(), load.end());
  CHECK(*most - *least <= frequency.back());  // the last tokens fill what the first leave
  const HashRouter hash{experts};
  std::vector<std::uint64_t> hashed(experts);
  for (std::size_t t = 0; t < table.size(); ++t)
    hashed[static_cast<std::size_t>(hash.expert_of(static_cast<int>(t)))] += frequency[t];
  CHECK(*std::max_element(hashed.begin(), hashed.end()) > *most);
}
TEST_CASE("balanced_hash refuses to spread over no expert") {
  CHECK(message_of([] { moe::balanced_hash({}, 0); }).find("experts") != std::string::npos);
}
