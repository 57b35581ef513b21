// What a device executor runs inside kernels beside `select`: row functors of the layer, keys of a router, needs, and
// the tag of a format. Compiled only.
#include <moe/moe.hpp>

namespace {

using M = moe::host_memory;

template <class F>
__global__ void for_each_row(F row, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) row(i);
}
template <class F>
void launch(const F& row) {
  for_each_row<<<1, 32>>>(row, 3);
}

template <class Router>
__global__ void keys(Router router, const float* logits, int n, float* out) {
  moe::RowContext row;
  row.logits = moe::LogitRow(logits, n);
  const auto key_of = router.keys(row);
  const auto e = static_cast<moe::ExpertId>(threadIdx.x);
  if (float key; key_of(e, key)) out[e] = key;
}
__global__ void needs(moe::RoutingTable<M> table, moe::Dispatch<M> dispatch, moe::ExpertNeed* out) {
  const auto e = static_cast<moe::ExpertId>(threadIdx.x);
  out[e] = moe::need_of(table, dispatch, e);
}
__global__ void element_bytes(int format, int* out) {
  moe::with_format(moe::formats<moe::f32, moe::bf16>{}, format,
                   [&](auto tag) { *out = static_cast<int>(sizeof(typename decltype(tag)::type)); });
}

}  // namespace

int main() {
  using moe::Capacity;
  using moe::TopK;
  launch(moe::detail::SelectRow<moe::PreferResident<TopK>, M>{});
  launch(moe::detail::CopyRow<M>{});
  launch(moe::detail::AdmitColumn<Capacity<TopK>, M>{});
  launch(moe::detail::FinishRow<Capacity<TopK>, M>{});
  launch(moe::detail::NarrowRow<M>{});
  launch(moe::detail::NormaliseRow<M>{});
  launch(moe::detail::NormaliseExperts<M>{});
  launch(moe::detail::PickModality<M>{});
  launch(moe::detail::AddScaledRow<M>{});
  launch(moe::detail::CopyFloats<M>{});
  launch(moe::detail::GeluOfRow<M>{});
  launch(moe::detail::RoundRow<M>{});
  launch(moe::detail::AddBias<M>{});
  launch(moe::detail::AddConstants<M>{});
  launch(moe::detail::WeighByRouter<TopK, M>{});
  keys<<<1, 8>>>(TopK{.experts = 8}, nullptr, 8, nullptr);
  needs<<<1, 8>>>({}, {}, nullptr);
  element_bytes<<<1, 1>>>(0, nullptr);
}
