// Ranks without a network: threads of one process that share out the experts among them. Rows go to every rank, and
// partial rows come home, so that the bits are those of one rank.
#pragma once

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <moe/executors/cpu.hpp>

namespace loopback {

struct RankFrame : moe::CpuFrame {
  moe::CpuFrame travel;   // the rows of all ranks, with ids of this rank's experts
  moe::View<float> rows;  // [ranks * most, H]
};

/// What ranks show each other, and where they wait for each other.
class Meeting {
 public:
  explicit Meeting(int ranks) : shown_(static_cast<std::size_t>(ranks)) {}

  struct Shown {
    RankFrame* frame = nullptr;
    moe::View<const float> x;
    int first_row = 0;  // of this rank's rows among those of all
  };
  int ranks() const noexcept { return static_cast<int>(shown_.size()); }
  Shown& of(int rank) { return shown_[static_cast<std::size_t>(rank)]; }

  /// Returns when all ranks are here; throws Error if one of them gave up.
  void wait() {
    std::unique_lock lock(mutex_);
    const int round = round_;
    if (++waiting_ == ranks()) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    }
    all_here_.wait(lock, [&] { return round_ != round || failed_; });
    if (failed_) moe::raise(moe::Error("loopback: another rank failed"));
  }
  void give_up() noexcept {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    all_here_.notify_all();
  }
  /// When all ranks have left the call.
  void forget() {
    failed_ = false;
    waiting_ = 0;
  }

 private:
  std::vector<Shown> shown_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  int waiting_ = 0, round_ = 0;
  bool failed_ = false;
};

/// Experts [rank * per_rank, (rank + 1) * per_rank) live here.
struct Rank {
  using memory = moe::host_memory;
  using layout = moe::PanelLayout;

  Meeting* meeting;
  int rank = 0, per_rank = 0, most = 0;  // rows of a chunk, the same on all ranks
  moe::Cpu cpu{.threads = 1};

  int local_experts(int networks) const {
    moe::require_equal("loopback::Rank", "experts", networks, per_rank * meeting->ranks());
    return per_rank;
  }
  int most_rows() const noexcept { return most; }
  const moe::Cpu& local() const noexcept { return cpu; }
  void refuse() const noexcept { meeting->give_up(); }

  RankFrame carve(moe::Arena& main, moe::Arena& staging, const moe::Dims& d, moe::IdMap ids) const {
    RankFrame f;
    const moe::Dims home{d.tokens, d.hidden, 0, d.logits, d.experts, d.slots};
    const moe::Dims away{meeting->ranks() * most, d.hidden, d.ffn, 0, per_rank, d.slots};
    static_cast<moe::CpuFrame&>(f) = cpu.carve(main, staging, home, ids);
    f.travel = cpu.carve(main, staging, away, {per_rank, 0});
    f.rows = main.matrix<float, memory>(away.tokens, d.hidden);
    return f;
  }
  template <class F>
  void rows(moe::Frame<>& f, int n, const F& row) const {
    cpu.rows(f, n, row);
  }
  void linear(moe::Frame<>& f, moe::View<const float> in, moe::View<const float> w, const float* bias,
              moe::View<float> out) const {
    cpu.linear(f, in, w, bias, out);
  }

  void send(RankFrame& f, moe::View<const float> x, bool) const {
    meeting->of(rank) = {&f, x};
    meeting->wait();
    const bool more = receive(f);
    meeting->wait();  // nobody changes what the others still read
    f.more = more;
  }
  std::span<moe::ExpertNeed> needs(RankFrame& f) const { return moe::needs_of(cpu, f.travel); }

  template <class Formats, class Form>
  void experts(RankFrame& f, moe::View<const float>, moe::Row<const moe::ExpertRef> refs, Formats list,
               const moe::ExpertShape& s, const Form& form, moe::WavePosition position) const {
    cpu.experts(f.travel, f.rows.slice(0, f.travel.dims.tokens), refs, list, s, form, position);
    if (position.last) bring_back(f);
  }
  template <class Form>
  void combine(RankFrame& f, moe::View<const float> in, const Form& form, moe::View<float> y, bool add) const {
    cpu.combine(f, in, form, y, add);
  }

 private:
  bool receive(RankFrame& f) const {
    moe::CpuFrame& away = f.travel;
    bool more = false;
    int n = 0;
    for (int r = 0; r < meeting->ranks(); ++r) {
      const Meeting::Shown& from = meeting->of(r);
      more = more || from.frame->more;
      if (r == rank) meeting->of(r).first_row = n;
      for (int t = 0; t < from.x.rows; ++t, ++n) take_row(f, *from.frame, from.x, t, n);
    }
    away.dims.tokens = away.table.slots.rows = n;
    moe::group_rows(cpu, away);
    return more;
  }
  void take_row(RankFrame& f, const RankFrame& from, moe::View<const float> x, int t, int at) const {
    std::memcpy(f.rows.row(at).data(), x.row(t).data(), sizeof(float) * static_cast<std::size_t>(x.cols));
    const int count = from.table.size(t);
    f.travel.table.count[at] = count;
    for (int k = 0; k < count; ++k) {
      const moe::Slot slot = from.table.slots.row(t)[k];
      const int local = slot.expert - rank * per_rank;
      f.travel.table.slots.row(at)[k] = {from.ids.network(slot.expert) && local >= 0 && local < per_rank ? local : -1,
                                         slot.weight};
    }
  }
  void bring_back(RankFrame& f) const {
    meeting->wait();
    const int first = meeting->of(rank).first_row, slots = f.dims.slots;
    for (int t = 0; t < f.dims.tokens; ++t)
      for (int k = 0; k < f.table.size(t); ++k) {
        const moe::ExpertId e = f.table.slots.row(t)[k].expert;
        if (!f.ids.network(e)) continue;
        const moe::View<float> there = meeting->of(e / per_rank).frame->travel.partial;
        std::memcpy(f.partial.row(t * slots + k).data(), there.row((first + t) * slots + k).data(),
                    sizeof(float) * static_cast<std::size_t>(there.cols));
      }
    meeting->wait();
  }
};

}  // namespace loopback
