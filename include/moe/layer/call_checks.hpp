// What a call must look like for a layer of given sizes. A template on the memory only, so compiled once and not once
// for each type of layer.
#pragma once

#include <string>

#include <moe/error.hpp>
#include <moe/frame.hpp>

namespace moe::detail {

/// The sizes of a layer that its calls must fit.
struct CallFacts {
  int hidden = 0, logits = 0, max_slots = 0;
  int gate_inputs = -1;  // negative: the layer has no gate
  int state_columns = 0;
  Uses uses = Uses::nothing;
  bool any_element = true;  // whether the executor takes other types than float32
  bool row_by_row = true;   // whether the router decides each row on its own
};

template <class M>
class CallChecks {
 public:
  CallChecks(const Call<M>& call, const CallFacts& facts) : call_(call), facts_(facts) {}

  /// Throws Error for a call that cannot be routed.
  void routing() const {
    rows_of_x();
    float_unless_any("x", call_.x);
    float_unless_any("x_router", call_.x_router);
    if (call_.max_slots < 0 || call_.max_slots > facts_.max_slots)
      fail("max_slots", concat("0 to ", facts_.max_slots), call_.max_slots);
    if (call_.brings_table()) return table();
    logits();
    state(call_.router_state_in, "rows of router_state_in", "columns of router_state_in");
    state(call_.router_state_out, "rows of router_state_out", "columns of router_state_out");
    required(Uses::tokens, call_.context.tokens, "context.tokens");
    required(Uses::rules, call_.context.rules, "context.rules");
    required(Uses::positions, call_.context.positions, "context.positions");
    if (call_.context.picks != nullptr && !facts_.row_by_row)
      raise(Error(where, "context.picks", "null, for a router that looks at the whole batch", "picks of each row"));
  }

  /// Throws Error for a call whose result has no place.
  void output() const {
    equal("rows of y", call_.x.rows, call_.y.rows);
    equal("columns of y", facts_.hidden, call_.y.cols);
    not_null("data of y", call_.y);
    float_unless_any("y", call_.y);
  }

 private:
  static constexpr const char* where = "moe::MoELayer::forward";

  void rows_of_x() const {
    if (call_.x.rows < 0) fail("rows of x", "0 or more", call_.x.rows);
    equal("columns of x", facts_.hidden, call_.x.cols);
    not_null("data of x", call_.x);
  }
  void table() const {
    equal("rows of the table", call_.x.rows, call_.table.slots.rows);
    if (call_.table.slots.cols < 1) fail("columns of the table", "at least 1", call_.table.slots.cols);
    not_null("data of the table", call_.table.slots);
  }
  void logits() const {
    if (call_.brings_logits()) {
      equal("rows of logits", call_.x.rows, call_.logits.rows);
      equal("columns of logits", facts_.logits, call_.logits.cols);
    } else if (facts_.gate_inputs < 0) {
      if (facts_.logits != 0) raise(Error(where, "a layer without a gate", "logits or a table in the call", "neither"));
    } else {
      equal("rows of x_router", call_.x.rows, call_.router_input().rows);
      equal("columns of the gate's input", facts_.gate_inputs, call_.router_input().cols);
    }
  }
  template <class V>
  void state(const V& view, const char* rows, const char* columns) const {
    if (view.data == nullptr && view.cols == 0) return;
    equal(rows, call_.x.rows, view.rows);
    equal(columns, facts_.state_columns, view.cols);
  }
  void required(Uses use, const int* given, const char* name) const {
    if (given == nullptr && contains(facts_.uses, use))
      raise(Error(where, "what this router needs", concat("Call::", name), "null"));
  }
  template <class V>
  void float_unless_any(const char* what, const V& view) const {
    if (!facts_.any_element && !view.is_float())
      raise(Error(where, concat("element type of ", what), "float32, for this executor", element_type_name(view.type)));
  }
  template <class V>
  static void not_null(const char* what, const V& view) {
    if (view.rows > 0 && view.data == nullptr) raise(Error(where, what, "a pointer", "null"));
  }
  static void equal(const char* what, int expected, int found) { require_equal(where, what, expected, found); }
  [[noreturn]] static void fail(const char* what, const std::string& expected, int found) {
    raise(Error(where, what, expected, std::to_string(found)));
  }

  const Call<M>& call_;
  const CallFacts& facts_;
};

}  // namespace moe::detail
