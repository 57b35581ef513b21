// A "device" without one: its memory cannot be read or written by the host, and kernels run on a thread of their own
// while it can. It counts launches and copies.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <moe/executors/cpu.hpp>
#include <moe/layer.hpp>
#include <moe/storage/resident.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace guarded {

/// What a stream is to a device: here it only counts.
struct Queue {
  int launches = 0, copies = 0;
};
struct memory {
  using queue = Queue;
  using staging = moe::host_memory;
};

/// All of the device's memory: pages that nobody may touch but while a kernel runs.
class Pages {
 public:
  static Pages& all() {
    static Pages pages;
    return pages;
  }
  std::byte* allocate(std::size_t bytes) {
    std::byte* at = base_ + used_;
    used_ += moe::round_up(bytes, moe::page_alignment);
    if (used_ > capacity) throw std::bad_alloc();
    return at;
  }
  /// Runs f on another thread, with the memory open; what it throws is thrown here.
  template <class F>
  void open(const F& f) {
    std::exception_ptr error;
    protect(PROT_READ | PROT_WRITE);
    std::thread([&] {
      try {
        f();
      } catch (...) {
        error = std::current_exception();
      }
    }).join();
    protect(PROT_NONE);
    if (error) std::rethrow_exception(error);
  }

 private:
  static constexpr std::size_t capacity = std::size_t{64} << 20;
  Pages()
      : base_(static_cast<std::byte*>(
            ::mmap(nullptr, capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (base_ == MAP_FAILED) throw std::bad_alloc();
  }
  void protect(int how) {
    if (::mprotect(base_, capacity, how) != 0) std::terminate();
  }
  std::byte* base_;
  std::size_t used_ = 0;
};

template <class F>
void launch(Queue& queue, const F& kernel) {
  ++queue.launches;
  Pages::all().open(kernel);
}
template <class T>
T* upload(const T* host, std::size_t count) {
  T* device = reinterpret_cast<T*>(Pages::all().allocate(count * sizeof(T)));
  if (count != 0) Pages::all().open([&] { std::memcpy(device, host, count * sizeof(T)); });
  return device;
}
template <class T>
std::vector<T> download(const T* device, std::size_t count) {
  std::vector<T> host(count);
  if (count != 0) Pages::all().open([&] { std::memcpy(host.data(), device, count * sizeof(T)); });
  return host;
}

/// The same memory as kernels see it.
template <class T>
moe::View<T> inside(moe::View<T, memory> v) {
  return {v.data, v.rows, v.cols, v.stride};
}

}  // namespace guarded

template <>
class moe::Workspace<guarded::memory> {
 public:
  explicit Workspace(WorkspaceSize size)
      : size_(size), main_(guarded::Pages::all().allocate(size.bytes)), staging_(size.staging_bytes) {}
  WorkspaceSize size() const noexcept { return size_; }
  Arena main() const noexcept { return {main_, size_.bytes}; }
  Arena staging() const noexcept { return {staging_.data(), size_.staging_bytes}; }
  guarded::Queue& queue() noexcept { return queue_; }
  /// A device waits for its stream first, so it may throw.
  void poison() {
    guarded::Pages::all().open([&] { std::memset(main_, 0xff, size_.bytes); });
    if (size_.staging_bytes != 0) std::memset(staging_.data(), 0xff, size_.staging_bytes);
  }

 private:
  WorkspaceSize size_;
  std::byte* main_;
  Buffer staging_;
  guarded::Queue queue_;
};

namespace guarded {

struct Frame : moe::Frame<memory> {
  moe::View<float, memory> intermediate;
  int* active = nullptr;
  std::uint32_t* mask = nullptr;
};

/// Every stage is one launch of the host's kernels on the device's memory.
struct Executor {
  using memory = guarded::memory;
  using layout = moe::PanelLayout;
  moe::Cpu cpu{.threads = 1};

  Frame carve(moe::Arena& main, moe::Arena& staging, const moe::Dims& d, moe::IdMap ids) const {
    Frame f;
    static_cast<moe::Frame<memory>&>(f) = moe::carve_tables<memory>(main, staging, d, ids);
    f.intermediate = moe::PanelLayout::padded_rows<memory>(main, d.tokens * d.slots, d.ffn);
    f.partial = moe::PanelLayout::padded_rows<memory>(main, d.tokens * d.slots, d.hidden);
    f.active = main.take<int>(static_cast<std::size_t>(d.experts));
    f.mask = main.take<std::uint32_t>(static_cast<std::size_t>(d.experts + 31) / 32);
    return f;
  }

  template <class F>
  void rows(moe::Frame<memory>& f, int n, const F& row) const {
    launch(*f.queue, [&] {
      for (int i = 0; i < n; ++i) row(i);
    });
  }
  /// One launch for both.
  template <class F>
  void rows_and_group(Frame& f, int n, const F& row) const {
    launch(*f.queue, [&] {
      for (int i = 0; i < n; ++i) row(i);
      group_inside(f);
    });
  }
  void group(Frame& f) const {
    launch(*f.queue, [&] { group_inside(f); });
  }
  std::span<moe::ExpertNeed> needs(Frame& f) const {
    ++f.queue->copies;
    std::span<moe::ExpertNeed> found;
    Pages::all().open([&] {
      const moe::CpuFrame h = inside_of(f);
      found = moe::collect_needs(h.table, h.ids, h.dispatch, h.needs);
    });
    return found;
  }
  void linear(moe::Frame<memory>& f, moe::View<const float, memory> in, moe::View<const float, memory> w,
              const float* bias, moe::View<float, memory> out) const {
    launch(*f.queue, [&] {
      moe::Frame<> none;
      cpu.linear(none, inside(in), inside(w), bias, inside(out));
    });
  }
  template <class Formats, class Form>
  void experts(Frame& f, moe::View<const float, memory> in, moe::Row<const moe::ExpertRef> refs, Formats list,
               const moe::ExpertShape& s, const Form& form, moe::WavePosition position) const {
    launch(*f.queue, [&] {
      moe::CpuFrame h = inside_of(f);
      cpu.experts(h, inside(in), refs, list, s, form, position);
    });
  }
  template <class Form>
  void combine(Frame& f, moe::View<const float, memory> in, const Form& form, moe::View<float, memory> y,
               bool add) const {
    launch(*f.queue, [&] {
      moe::CpuFrame h = inside_of(f);
      cpu.combine(h, inside(in), form, inside(y), add);
    });
  }

  /// Tables move to the device and stay there.
  template <class Policy>
  void adopt(Policy& policy) {
    moe::visit_tables(policy, Upload{});
  }
  template <class Fill>
  const std::uint32_t* mask(Frame& f, std::uint32_t* words, const Fill& fill) const {
    fill(words);
    ++f.queue->copies;
    const auto count = static_cast<std::size_t>(f.dims.experts + 31) / 32;
    Pages::all().open([&] { std::memcpy(f.mask, words, count * sizeof *words); });
    return f.mask;
  }

 protected:
  static moe::CpuFrame inside_of(const Frame& f) {
    moe::CpuFrame h;
    h.dims = f.dims;
    h.ids = f.ids;
    h.table = {inside(f.table.slots), f.table.count};
    h.dispatch.offset = f.dispatch.offset;
    h.dispatch.entry = f.dispatch.entry;
    h.dispatch.row = f.dispatch.row;
    h.partial = inside(f.partial);
    h.needs = f.needs;
    h.intermediate = inside(f.intermediate);
    h.active = {f.active, f.dims.experts};
    return h;
  }

 private:
  struct Upload {
    template <class T>
    void operator()(moe::Row<const T>& row) const {
      row = {upload(row.data(), static_cast<std::size_t>(row.size())), row.size()};
    }
    template <class T>
    void operator()(moe::View<const T>& view) const {
      view.data = upload(view.data, static_cast<std::size_t>(view.rows) * static_cast<std::size_t>(view.cols));
    }
    void operator()(const float*& data, int count) const {
      if (data != nullptr) data = upload(data, static_cast<std::size_t>(count));
    }
  };
  static void group_inside(const Frame& f) {
    moe::CpuFrame h = inside_of(f);
    moe::group_by_expert(h.table, h.ids, h.dispatch);
  }
};

/// The experts of a call and the sum over each row's slots in one launch.
struct FusingExecutor : Executor {
  template <class Formats, class Form>
  void experts_and_combine(Frame& f, moe::View<const float, memory> in, moe::Row<const moe::ExpertRef> refs,
                           Formats list, const moe::ExpertShape& s, const Form& form,
                           moe::View<float, memory> y) const {
    launch(*f.queue, [&] {
      moe::CpuFrame h = inside_of(f);
      cpu.experts(h, inside(in), refs, list, s, form, {});
      cpu.combine(h, inside(in), form, inside(y), false);
    });
  }
};

/// All experts on the device; its table of refs too. Says that some of them are not there.
template <class Format>
class Resident {
 public:
  using memory = guarded::memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<Format>;

  template <class Source>
  explicit Resident(const Source& source) : shape_(source.shape()), experts_(source.num_experts()) {
    const moe::Resident host(source);
    std::vector<moe::ExpertRef> refs(host.table().begin(), host.table().end());
    for (moe::ExpertRef& ref : refs) ref.bytes = upload(ref.bytes, source.bytes(0));
    refs_ = upload(refs.data(), refs.size());
  }
  moe::ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return experts_; }
  moe::Row<const moe::ExpertRef> table() const noexcept { return {refs_, experts_}; }
  void residency(std::uint32_t* bits) const { *bits = here; }
  std::uint32_t here = ~0u;

 private:
  moe::ExpertShape shape_;
  int experts_;
  const moe::ExpertRef* refs_;
};

/// What a Lending storage was told, in order.
using Log = std::vector<std::string>;

/// Lends one expert of the device at a time, and fails when asked for the second.
template <class Format>
class Lending {
 public:
  using memory = guarded::memory;
  using layout = moe::PanelLayout;
  using formats = moe::formats<Format>;
  class pin {
   public:
    explicit pin(Log* log) : log_(log) {}
    pin(pin&& other) noexcept : log_(std::exchange(other.log_, nullptr)) {}
    pin& operator=(pin&&) = delete;
    ~pin() {
      if (log_ != nullptr) log_->push_back("unpinned");
    }
    /// What was queued before may still read the expert.
    void release(Queue& queue) noexcept {
      if (log_ != nullptr) log_->push_back("released after " + std::to_string(queue.launches) + " launches");
    }

   private:
    Log* log_;
  };

  Lending(const Resident<Format>& all, const std::vector<moe::ExpertRef>& refs, Log* log)
      : shape_(all.shape()), refs_(refs), log_(log) {}
  moe::ExpertShape shape() const noexcept { return shape_; }
  int num_experts() const noexcept { return static_cast<int>(refs_.size()); }
  std::span<moe::ExpertNeed> acquire(std::span<moe::ExpertNeed> todo, moe::Wave<pin>& wave, Queue&) const {
    log_->push_back("acquire");
    if (todo.empty()) return todo;
    wave.push(refs_[static_cast<std::size_t>(todo[0].expert)], pin(log_));
    if (fail_with_pins) moe::raise(moe::IoError("disk"));
    return todo.subspan(1);
  }
  void abandon(std::span<const moe::ExpertNeed>, const moe::Wave<pin>&) const noexcept { log_->push_back("abandoned"); }
  bool fail_with_pins = false;

 private:
  moe::ExpertShape shape_;
  std::vector<moe::ExpertRef> refs_;
  Log* log_;
};

}  // namespace guarded
