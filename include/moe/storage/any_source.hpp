// AnySource: any source of records behind virtual functions, so that layers are compiled once for all of them.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <utility>

#include <moe/concepts.hpp>
#include <moe/layout.hpp>

namespace moe {

/// Any source of records in these formats and this layout, chosen when the program runs. Copies share the source. Costs
/// a virtual call a record.
template <class Formats, class Layout = PanelLayout>
class AnySource {
 public:
  using layout = Layout;
  using formats = Formats;

  template <class S>
  requires(!std::same_as<S, AnySource>) explicit AnySource(S source)
      : source_(std::make_shared<const Held<S>>(std::move(source))) {
    static_assert(RecordSource<S>, "moe::AnySource: it holds a source of records");
    static_assert(std::same_as<typename S::formats, Formats> && std::same_as<typename S::layout, Layout>,
                  "moe::AnySource: its formats and layout are those of the source");
  }

  ExpertShape shape() const noexcept { return source_->shape(); }
  int num_experts() const noexcept { return source_->num_experts(); }
  std::size_t bytes(int format) const noexcept { return source_->bytes(format); }
  void read(const ReadRequest& request) const { source_->read(request); }
  void hurry(const void* who) const noexcept { source_->hurry(who); }
  int choose(const ExpertNeed& need) const noexcept { return source_->choose(need); }

 private:
  struct Base {
    virtual ~Base() = default;
    virtual ExpertShape shape() const noexcept = 0;
    virtual int num_experts() const noexcept = 0;
    virtual std::size_t bytes(int format) const noexcept = 0;
    virtual void read(const ReadRequest& request) const = 0;
    virtual void hurry(const void* who) const noexcept = 0;
    virtual int choose(const ExpertNeed& need) const noexcept = 0;
  };
  template <class S>
  struct Held final : Base {
    explicit Held(S s) : source(std::move(s)) {}
    ExpertShape shape() const noexcept override { return source.shape(); }
    int num_experts() const noexcept override { return source.num_experts(); }
    std::size_t bytes(int format) const noexcept override { return source.bytes(format); }
    void read(const ReadRequest& request) const override { source.read(request); }
    void hurry(const void* who) const noexcept override { moe::hurry(source, who); }
    int choose(const ExpertNeed& need) const noexcept override { return moe::choose(source, need); }
    S source;
  };
  std::shared_ptr<const Base> source_;
};

}  // namespace moe
