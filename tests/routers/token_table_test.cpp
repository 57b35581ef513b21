// TokenTable: ids by token id, weights of the router inside.
#include <moe/routers/token_table.hpp>
#include <moe/routers/top_k.hpp>

#include "../laws/router_laws.hpp"

using moe::Normalisation;
using moe::Score;
using moe::TokenTable;
using moe::TopK;
using router_laws::ids;
using router_laws::weights;

namespace {

const int table[] = {0, 1, 5, 3, 2, 2, 7, -1, 6, 4};  // [5, 2]: row 2 repeats itself, row 3 leaves the experts
TokenTable<TopK> router_of() {
  return {
      {.experts = 7, .k = 2, .score = Score::sqrt_softplus, .normalise = Normalisation::by_sum(1e-20f), .scale = 1.5f},
      {table, 5, 2}};
}
std::vector<moe::Slot> route(int token, const std::vector<float>& logits, int slots = 2,
                             const std::uint32_t* allowed = nullptr) {
  moe::Slot out[2];
  moe::RouteContext<> context;
  context.tokens = &token;
  context.allowed = allowed;
  const int n = moe::select(router_of(), context.at(0, {logits.data(), 7}), {out, slots});
  return {out, out + n};
}
double score(float logit) { return std::sqrt(std::log1p(std::exp(static_cast<double>(logit)))); }

}  // namespace

TEST_CASE("TokenTable takes the table's experts in its order, whatever the logits prefer") {
  oracle::Random random(111);
  for (int i = 0; i < 50; ++i) {
    const std::vector<float> logits = random.reals(7, 4);
    CHECK(ids(route(0, logits)) == std::vector<int>{0, 1});
    CHECK(ids(route(1, logits)) == std::vector<int>{5, 3});
    CHECK(ids(route(1, logits, 1)) == std::vector<int>{5});
  }
}
TEST_CASE("TokenTable's weights are DeepSeek-V4's: the scores of the table's experts, normalised and scaled") {
  oracle::Random random(112);
  for (int i = 0; i < 100; ++i) {
    const std::vector<float> logits = random.reals(7, 8);
    const auto found = route(1, logits);
    const double sum = score(logits[5]) + score(logits[3]);
    // sqrt(softplus) within 4 ulp, a sum, a division and a scale.
    CHECK(static_cast<double>(found[0].weight) ==
          doctest::Approx(1.5 * score(logits[5]) / sum).epsilon(24 * oracle::unit));
    CHECK(static_cast<double>(found[1].weight) ==
          doctest::Approx(1.5 * score(logits[3]) / sum).epsilon(24 * oracle::unit));
  }
}
TEST_CASE("entries that repeat, or are no expert, are left out and the other takes all") {
  const std::vector<float> logits{1, 2, 3, 4, 5, 6, 7};
  CHECK(ids(route(2, logits)) == std::vector<int>{2});
  CHECK(weights(route(2, logits)) == std::vector<float>{1.5f});
  CHECK(route(3, logits).empty());
}
TEST_CASE("a token id outside the table gives no choice") {
  const std::vector<float> logits(7, 1.0f);
  for (const int token : {-1, 5, 2147483647, -2147483647}) CHECK(route(token, logits).empty());
}
TEST_CASE("an excluded expert of the table is left out") {
  const std::uint32_t mask = 0b0001000;
  CHECK(ids(route(1, std::vector<float>(7, 0.0f), 2, &mask)) == std::vector<int>{3});
}
TEST_CASE("rows of another modality are chosen by the router inside, where the table is for text only") {
  const std::vector<float> logits{1, 7, 2, 6, 3, 5, 4};
  const auto chosen = [&](bool text_only, int modality) {
    TokenTable<TopK> router = router_of();
    router.text_only = text_only;
    moe::Slot out[2];
    moe::RowContext row;
    row.logits = {logits.data(), 7};
    row.token = 0;
    row.modality = modality;
    const int n = moe::select(router, row, {out, 2});
    return std::vector<int>{out[0].expert, n == 2 ? out[1].expert : -1};
  };
  CHECK(chosen(true, 0) == std::vector<int>{0, 1});
  CHECK(chosen(true, 1) == std::vector<int>{1, 3});
  CHECK(chosen(false, 1) == std::vector<int>{0, 1});
}
TEST_CASE("a table for text only has room for what the router inside chooses") {
  TokenTable<TopK> router{{.experts = 7, .k = 3}, {table, 5, 2}};
  CHECK(moe::max_slots(router) == 2);
  router.text_only = true;
  CHECK(moe::max_slots(router) == 3);
}
TEST_CASE("TokenTable refuses a table wider than there are experts") {
  const TokenTable<TopK> r{{.experts = 1, .k = 1}, {table, 5, 2}};
  CHECK(message_of([&] { r.check(); }).find("experts per token") != std::string::npos);
}
