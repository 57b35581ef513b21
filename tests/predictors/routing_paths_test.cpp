// RoutingPaths: bits by token, layer and expert, and the largest logits of a row.
#include <moe/predictors/routing_paths.hpp>

#include "../problem.hpp"

using moe::RoutingPaths;

TEST_CASE("a bit is where it was set and nowhere else, whatever the number of experts") {
  for (const int experts : {1, 63, 64, 65, 200}) {
    CAPTURE(experts);
    RoutingPaths paths(3, 2, experts);
    CHECK(paths.words_per_token() == 2 * ((experts + 63) / 64));
    paths.set(1, 1, experts - 1);
    int found = 0;
    for (int t = 0; t < 3; ++t)
      for (int l = 0; l < 2; ++l)
        for (int e = 0; e < experts; ++e) found += paths.test(t, l, e) ? 1 : 0;
    CHECK(found == 1);
    CHECK(paths.test(1, 1, experts - 1));
  }
}

TEST_CASE("the largest logits come in order, equal ones by id, NaN never") {
  const std::vector<float> logits = {2, not_a_number, 5, 2, -infinity, 2};
  const auto largest = [&](int k) {
    std::vector<int> ids;
    moe::for_each_largest({logits.data(), 6}, k, [&](int e, float) { ids.push_back(e); });
    return ids;
  };
  CHECK(largest(1) == std::vector<int>{2});
  CHECK(largest(3) == std::vector<int>{2, 0, 3});
  CHECK(largest(6) == std::vector<int>{2, 0, 3, 5, 4});
}

TEST_CASE("paths from logits are the top k of every layer of every token") {
  oracle::Random random(1);
  const std::vector<float> logits = random.reals(5 * 3 * 7);
  const RoutingPaths paths = moe::top_paths(view(logits, 3 * 7), 7, 2);
  for (int t = 0; t < 5; ++t)
    for (int l = 0; l < 3; ++l)
      for (int e = 0; e < 7; ++e) {
        const float* row = logits.data() + t * 21 + l * 7;
        int ahead = 0;
        for (int o = 0; o < 7; ++o) ahead += row[o] > row[e] ? 1 : 0;
        CHECK(paths.test(t, l, e) == (ahead < 2));
      }
}

TEST_CASE("sizes and ids that there are not are refused") {
  RoutingPaths paths(2, 2, 4);
  const std::vector<float> logits(2 * 8);
  CHECK(message_of([] { RoutingPaths(1, 0, 4); }) == "moe::RoutingPaths: layers: expected at least 1, found 0");
  CHECK(message_of([] { RoutingPaths(1 << 30, 1 << 30, 1 << 30); }) ==
        "moe::RoutingPaths: words of all paths: expected at most 2147483648, found more");
  CHECK(message_of([&] { paths.set(0, 2, 0); }) == "moe::RoutingPaths::set: layer: expected 0 to 1, found 2");
  CHECK(message_of([&] { moe::top_paths(view(logits, 8), 3, 1); }) ==
        "moe::top_paths: columns of logits: expected a multiple of 3 experts, found 8");
  CHECK(message_of([&] { moe::top_paths(view(logits, 8), 4, 5); }) == "moe::top_paths: k: expected 1 to 4, found 5");
}
