// Background: makes any source answer on worker threads, so that reading overlaps computing.
#pragma once

#include <memory>

#include <moe/concepts.hpp>
#include <moe/storage/read_queue.hpp>

namespace moe {

/// A source whose reads run on `threads` threads of its own. Copies share source and threads.
template <RecordSource Source>
class Background {
 public:
  using layout = typename Source::layout;
  using formats = typename Source::formats;

  explicit Background(Source source, int threads = 1)
      : shared_(std::make_shared<const Shared>(std::move(source), threads)) {}

  ExpertShape shape() const noexcept { return shared_->source.shape(); }
  int num_experts() const noexcept { return shared_->source.num_experts(); }
  std::size_t bytes(int format) const noexcept { return shared_->source.bytes(format); }
  int choose(const ExpertNeed& need) const noexcept { return moe::choose(shared_->source, need); }
  void read(const ReadRequest& request) const { shared_->queue.push({&shared_->source, request}, request.urgency); }
  void hurry(const void* who) const noexcept {
    shared_->queue.hurry([who](const Job& job) { return job.request.who == who; });
  }

 private:
  struct Job {
    const Source* source = nullptr;
    ReadRequest request;
    void operator()() const { source->read(request); }
  };
  struct Shared {
    Shared(Source s, int threads) : source(std::move(s)), queue(threads) {}
    Source source;
    mutable ReadQueue<Job> queue;  // last: drains before the source goes
  };
  std::shared_ptr<const Shared> shared_;
};

}  // namespace moe
