// StorageSource: tiers over tiers keep the storage laws, give the bits of resident experts, and keep formats apart.
#include <doctest/doctest.h>
#include <moe/storage/mixed.hpp>
#include <moe/storage/ring.hpp>
#include <moe/storage/storage_source.hpp>

#include "laws/storage_laws.hpp"

namespace {

using moe::StorageSource;
using storage_laws::experts;
using storage_laws::lend_all;
using storage_laws::shape;

std::size_t slot_bytes() {
  return moe::round_up(moe::PanelLayout::record_bytes<moe::bf16>(shape), moe::page_alignment);
}

// Tiers: functions from a source to a storage.
auto resident = [](const auto& source) { return moe::Resident{source}; };
template <int Slots>
auto cache = [](auto source) {
  return moe::Cached{moe::ExpertCache{{.bytes = static_cast<std::size_t>(Slots) * slot_bytes()}}, std::move(source)};
};
auto ring = [](auto source) { return moe::Ring{moe::RingSections{{.sections = 1}}, std::move(source)}; };

/// `upper` over `lower`, read by the thread that asks.
template <class Upper, class Lower>
auto nested(Upper upper, Lower lower) {
  return [=](const auto& source) { return upper(StorageSource{lower(source)}); };
}
/// The same with a reading thread between the tiers.
template <class Upper, class Lower>
auto nested_in_background(Upper upper, Lower lower) {
  return [=](const auto& source) { return upper(moe::Background{StorageSource{lower(source)}, 2}); };
}

/// A row's first choice is worth bf16, all others q8_0.
constexpr moe::ByImportance first_precise{{0, 1}};

/// bf16 and q8_0 records of the same experts, in memory.
struct TwoFormats {
  explicit TwoFormats(unsigned seed) : weights(shape, experts, seed) {}
  auto bf16() const { return weights.packed<moe::bf16>(); }
  auto q8_0() const { return weights.packed<moe::q8_0>(); }
  auto mixed() const { return moe::Mixed{first_precise, bf16(), q8_0()}; }
  fixture::RandomExperts weights;
};

/// The answer to one read: empty, or what went wrong.
template <class Source>
std::string answer(const Source& source, moe::ExpertId e, int format, std::byte* to) {
  moe::PendingReads read(1);
  source.read({e, format, to, &moe::PendingReads::done, &read});
  try {
    read.wait();
  } catch (const moe::IoError& error) {
    return error.what();
  }
  return {};
}
template <class Source>
std::vector<std::byte> record_in(const Source& source, moe::ExpertId e, int format) {
  const moe::Buffer bytes(source.bytes(format));
  CHECK(answer(source, e, format, bytes.data()).empty());
  return {bytes.data(), bytes.data() + bytes.bytes()};
}

}  // namespace

TEST_CASE("a cache over host memory keeps the storage laws") { storage_laws::all(nested(cache<2>, resident)); }
TEST_CASE("a cache over a larger cache keeps the storage laws") { storage_laws::all(nested(cache<2>, cache<4>)); }
TEST_CASE("a cache over a ring keeps the storage laws") { storage_laws::all(nested(cache<3>, ring)); }
TEST_CASE("a ring over host memory keeps the storage laws") { storage_laws::all(nested(ring, resident)); }
TEST_CASE("a ring over a cache keeps the storage laws") { storage_laws::all(nested_in_background(ring, cache<3>)); }
TEST_CASE("host memory over a cache keeps the storage laws") { storage_laws::all(nested(resident, cache<1>)); }

TEST_CASE("every tier over every tier computes the bits of resident experts") {
  const auto over_all = [](const auto& upper) {
    storage_laws::computes_the_same_bits(nested(upper, resident));
    storage_laws::computes_the_same_bits(nested_in_background(upper, cache<2>));
    storage_laws::computes_the_same_bits(nested_in_background(upper, ring));
  };
  over_all(resident);
  over_all(cache<3>);
  over_all(ring);
}
TEST_CASE("a cache over a ring over a cache computes the bits of resident experts") {
  storage_laws::computes_the_same_bits(nested(cache<2>, nested(ring, cache<3>)));
}

TEST_CASE("a lower cache answers what an upper one gave up") {
  const fixture::RandomExperts weights(shape, experts, 1);
  fixture::Plan plan;
  const auto storage =
      nested(cache<1>, cache<experts>)(fixture::Planned<moe::Packed<moe::bf16>>{weights.packed<moe::bf16>(), &plan});
  for (int round = 0; round < 3; ++round) lend_all(storage, {0, 1, 2, 3}, [](const moe::ExpertRef&) {});
  CHECK(plan.reads == 4);
  CHECK(storage.statistics().loads == 10);  // the one that stays is a hit
}

TEST_CASE("records have the layout's size in each format") {
  const TwoFormats two(1);
  const StorageSource source{cache<4>(two.mixed())};
  CHECK(source.bytes(0) == moe::PanelLayout::record_bytes<moe::bf16>(shape));
  CHECK(source.bytes(1) == moe::PanelLayout::record_bytes<moe::q8_0>(shape));
}
TEST_CASE("a resident storage of a later format keeps that format below a cache") {
  const TwoFormats two(2);
  const StorageSource source{moe::Resident{two.mixed(), 1}};
  CHECK(source.choose({3, 1, 1, 0}) == 1);
  CHECK(record_in(source, 3, 1) == fixture::record(two.q8_0(), 3));
  const fixture::Inputs in(9, shape.hidden, experts, 3);
  const moe::TopK router{.experts = experts, .k = 2};
  const moe::Cpu cpu{.threads = 1};
  const auto expected =
      fixture::outputs(moe::MoELayer{in.linear(), router, moe::Resident{two.q8_0()}, cpu}, in, in.tokens);
  const moe::MoELayer layer{in.linear(), router, cache<9>(StorageSource{moe::Resident{two.mixed(), 1}}), cpu};
  CHECK(fixture::outputs(layer, in, in.tokens) == expected);
}
TEST_CASE("a ring of a later format lends that format") {
  const TwoFormats two(2);
  const moe::Ring layer{moe::RingSections{{.sections = 1}}, two.mixed(), 1};
  lend_all(layer, {5}, [&](const moe::ExpertRef& ref) {
    CHECK(ref.format == 1);
    CHECK(std::memcmp(ref.bytes, fixture::record(two.q8_0(), 5).data(), two.q8_0().bytes(0)) == 0);
  });
}
TEST_CASE("a format that a storage does not hold is an error of the read, not of another record") {
  const TwoFormats two(3);
  const moe::Buffer to(two.bf16().bytes(0));
  CHECK(answer(StorageSource{moe::Resident{two.mixed(), 1}}, 2, 0, to.data()) ==
        "moe::StorageSource: format of expert 2: expected 0, found 1");
  CHECK(answer(StorageSource{cache<9>(two.mixed())}, 2, 1, to.data()) ==
        "moe::StorageSource: format of expert 2: expected 1, found 0");
}
TEST_CASE("a mixed cache below another gives its most precise records") {
  const TwoFormats two(4);
  const StorageSource source{cache<9>(two.mixed())};
  CHECK(source.choose({1, 1, 0.1f, 0.8f}) == 0);  // the choice below is not asked
  CHECK(record_in(source, 1, 0) == fixture::record(two.bf16(), 1));
}
TEST_CASE("precisions that lie in tiers of their own are mixed by the topmost cache") {
  const TwoFormats two(5);
  const auto mixed = cache<9>(
      moe::Mixed{first_precise, StorageSource{cache<4>(two.bf16())}, StorageSource{moe::Resident{two.q8_0()}}});
  const auto plain = cache<9>(two.mixed());
  const fixture::Inputs in(1, shape.hidden, experts, 6);
  const moe::TopK router{.experts = experts, .k = 4};
  const moe::Cpu cpu{.threads = 1};
  const auto expected = fixture::outputs(moe::MoELayer{in.linear(), router, plain, cpu}, in, 1);
  CHECK(fixture::outputs(moe::MoELayer{in.linear(), router, mixed, cpu}, in, 1) == expected);
  CHECK(mixed.statistics().loads_by_format == plain.statistics().loads_by_format);
  CHECK(mixed.statistics().loads_by_format[1] > 0);
}
