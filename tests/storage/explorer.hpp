// Explores every state that steps can lead to, and whether all ways on come to an end.
#pragma once

#include <deque>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

/// One step, for a counterexample's text: a letter, and what it is done with.
struct ModelStep {
  char what = ' ';
  int a = -1, b = -1, c = -1;
};

/// A model says what a state's name is, what can be done in it and what must hold.
template <class State>
class Explorer {
 public:
  virtual ~Explorer() = default;

  /// Empty if everything holds, else what does not and the steps that lead there.
  std::string explore() {
    visit(first(), -1, {});
    while (!open_.empty() && problem_.empty()) {
      auto [state, id] = std::move(open_.front());  // the nearest first: short counterexamples
      open_.pop_front();
      from_ = id;
      expand(state);
    }
    if (problem_.empty()) check_progress();
    return problem_;
  }
  std::size_t states() const { return ids_.size(); }

 protected:
  virtual State first() const = 0;
  /// The same for states that need not be told apart.
  virtual std::string key(const State&) const = 0;
  virtual void check(const State&) = 0;
  virtual void check_step(const State& before, const State& after, const ModelStep& how) = 0;
  /// Nothing is left to be done.
  virtual bool finished(const State&) const = 0;
  /// Calls `step` for everything that can be done.
  virtual void expand(const State&) = 0;

  /// `onward`: it begins nothing new, and nothing fails. Such steps must all lead to a finished state.
  template <class Change>
  void step(const State& s, const ModelStep& how, bool onward, const Change& change) {
    if (!problem_.empty()) return;
    State next = s;
    change(next);
    check_step(s, next, how);
    if (!problem_.empty()) return explain(from_, how);
    const int to = visit(std::move(next), from_, how);
    if (onward) progress_.emplace_back(from_, to);
    if (!problem_.empty()) explain(from_, how);
  }
  void fail(const char* what) {
    if (problem_.empty()) problem_ = what;
  }
  const std::string& problem() const { return problem_; }

 private:
  int visit(State&& s, int from, const ModelStep& how) {
    check(s);
    const auto [found, fresh] = ids_.emplace(key(s), static_cast<int>(ids_.size()));
    if (!fresh) return found->second;
    finished_.push_back(finished(s));
    came_.emplace_back(from, how);
    open_.emplace_back(std::move(s), found->second);
    return found->second;
  }
  /// If nobody begins anything and reads end well, every order of steps comes to an end, and there all calls have
  /// ended.
  void check_progress() {
    std::vector<int> out(ids_.size(), 0), first_in(ids_.size() + 1, 0), in(progress_.size());
    for (const auto& [from, to] : progress_) {
      ++out[static_cast<std::size_t>(from)];
      ++first_in[static_cast<std::size_t>(to) + 1];
    }
    for (std::size_t i = 1; i < first_in.size(); ++i) first_in[i] += first_in[i - 1];
    std::vector<int> next(first_in);
    for (const auto& [from, to] : progress_) in[static_cast<std::size_t>(next[static_cast<std::size_t>(to)]++)] = from;
    std::vector<int> ends;
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (out[i] != 0) continue;
      if (!finished_[i]) {
        fail("a call stands still");
        return explain(static_cast<int>(i), {});
      }
      ends.push_back(static_cast<int>(i));
    }
    std::size_t ended = 0;
    for (; ended < ends.size(); ++ended) {
      const auto at = static_cast<std::size_t>(ends[ended]);
      for (int i = first_in[at]; i < first_in[at + 1]; ++i)
        if (--out[static_cast<std::size_t>(in[static_cast<std::size_t>(i)])] == 0)
          ends.push_back(in[static_cast<std::size_t>(i)]);
    }
    if (ended != ids_.size()) fail("calls go round in a circle");
  }
  void explain(int id, const ModelStep& last) {
    std::vector<ModelStep> steps{last};
    for (; id >= 0; id = came_[static_cast<std::size_t>(id)].first)
      steps.push_back(came_[static_cast<std::size_t>(id)].second);
    problem_ += ", after";
    for (auto s = steps.rbegin(); s != steps.rend(); ++s) {
      problem_ += ' ';
      problem_ += s->what;
      for (const int n : {s->a, s->b, s->c})
        if (n >= 0) problem_ += std::to_string(n);
    }
  }

  std::string problem_;
  std::unordered_map<std::string, int> ids_;
  std::deque<std::pair<State, int>> open_;
  int from_ = -1;                              // whose steps are being tried
  std::vector<std::pair<int, int>> progress_;  // steps onward
  std::vector<bool> finished_;
  std::vector<std::pair<int, ModelStep>> came_;
};
