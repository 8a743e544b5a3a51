// Scoped timers by name: where a step's time goes. One Tracer per rank; kernels and phases open
// scopes.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace dsv {

class Tracer {
 public:
  struct Total {
    double seconds = 0;
    std::int64_t count = 0;
  };

  void add(std::string_view name, double seconds);
  const std::map<std::string, Total, std::less<>>& totals() const { return totals_; }
  void reset() { totals_.clear(); }
  void set_enabled(bool enabled) { enabled_ = enabled; }
  bool enabled() const { return enabled_; }

 private:
  std::map<std::string, Total, std::less<>> totals_;
  bool enabled_ = true;
};

// Adds the time between construction and destruction to tracer[name]. `name` must outlive the
// scope.
class TraceScope {
 public:
  TraceScope(Tracer& tracer, std::string_view name)
      : tracer_(tracer.enabled() ? &tracer : nullptr), name_(name) {
    if (tracer_ != nullptr) start_ = std::chrono::steady_clock::now();
  }
  ~TraceScope() {
    if (tracer_ == nullptr) return;
    const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start_;
    tracer_->add(name_, d.count());
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Tracer* tracer_;
  std::string_view name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace dsv
