// Every router that decides row by row, asked in a kernel: what it calls must be there for devices too.
//
// Compiled by the tests where there is nvcc. As a program, on a machine with a device, it also compares ids and bits of
// the weights with the host's.
#include "../routers/all_routers.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

constexpr int rows = 256, most_slots = 16, most_logits = 16;

template <class Router>
__global__ void select_rows(Router router, const float* logits, const int* tokens, const std::uint32_t* resident,
                            moe::Slot* slots, int* count) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= rows) return;
  moe::RouteContext<> context;
  context.tokens = tokens;
  context.resident = resident;
  context.seed = 7;
  const moe::RowContext row = context.at(t, {logits + t * most_logits, moe::num_logits(router)});
  count[t] = moe::select(router, row, moe::Row<moe::Slot>{slots + t * most_slots, moe::max_slots(router)});
}

/// Memory that host and device see.
struct Data {
  float logits[rows * most_logits];
  int tokens[rows];
  std::uint32_t resident;
  moe::Slot slots[rows * most_slots];
  int count[rows];
};

template <class Router>
int rows_that_differ(const Router& router, Data& data) {
  select_rows<<<rows / 64, 64>>>(router, data.logits, data.tokens, &data.resident, data.slots, data.count);
  if (cudaDeviceSynchronize() != cudaSuccess) return rows;
  moe::RouteContext<> context;
  context.tokens = data.tokens;
  context.resident = &data.resident;
  context.seed = 7;
  int different = 0;
  for (int t = 0; t < rows; ++t) {
    moe::Slot expected[most_slots];
    const moe::RowContext row = context.at(t, {data.logits + t * most_logits, moe::num_logits(router)});
    const int n = moe::select(router, row, moe::Row<moe::Slot>{expected, moe::max_slots(router)});
    bool same = n == data.count[t];
    for (int i = 0; same && i < n; ++i) {
      const moe::Slot& found = data.slots[t * most_slots + i];
      same = found.expert == expected[i].expert && std::memcmp(&found.weight, &expected[i].weight, sizeof(float)) == 0;
    }
    different += same ? 0 : 1;
  }
  return different;
}

}  // namespace

int main() {
  Data* data = nullptr;
  if (cudaMallocManaged(&data, sizeof(Data)) != cudaSuccess) return std::puts("no device"), 77;
  for (int i = 0; i < rows * most_logits; ++i) data->logits[i] = 8 * moe::counter_random(1, i, 0) - 4;
  for (int t = 0; t < rows; ++t) data->tokens[t] = t % 6;
  data->resident = 0xa5c3u;
  int different = 0;
  all_routers::for_each([&](const char* name, const auto& router, all_routers::Promises) {
    const int n = rows_that_differ(router, *data);
    std::printf("%4d rows of %d differ: %s\n", n, rows, name);
    different += n;
  });
  cudaFree(data);
  return different == 0 ? 0 : 1;
}
