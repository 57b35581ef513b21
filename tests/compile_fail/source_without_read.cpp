// expect: moe::RecordSource: needs `void read(const moe::ReadRequest&) const`
#include <moe/moe.hpp>

struct Source {
  using layout = moe::PanelLayout;
  using formats = moe::formats<moe::bf16>;
  moe::ExpertShape shape() const noexcept { return {8, 8}; }
  int num_experts() const noexcept { return 1; }
  std::size_t bytes(int) const noexcept { return 4096; }
#ifndef MOE_FAULT
  void read(const moe::ReadRequest& request) const { request.done(request.who, nullptr); }
#endif
};

int run(const moe::ExpertCache& cache) { return moe::Cached{cache, Source{}}.num_experts(); }
int main() { return 0; }
