// Scoped timers by name: where a step's time goes. One Tracer per rank; kernels and phases open
// scopes.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace dsv {

class Tracer;

// Takes over the timing of scopes: for devices whose work ends after the scope that started it.
class ScopeObserver {
 public:
  virtual ~ScopeObserver() = default;
  virtual void begin(std::string_view name) = 0;
  virtual void end(std::string_view name) = 0;
  // Adds the times of all scopes since the last call to the tracer, waiting for them if need be.
  virtual void collect(Tracer& tracer) = 0;
};

class Tracer {
 public:
  struct Total {
    double seconds = 0;
    std::int64_t count = 0;
  };

  void add(std::string_view name, double seconds);
  // Of all scopes that have ended; waits for the device where an observer times it.
  const std::map<std::string, Total, std::less<>>& totals();
  void reset();
  // Null: scopes are timed by the wall clock. The observer must outlive its use here.
  void set_observer(ScopeObserver* observer) { observer_ = observer; }
  ScopeObserver* observer() const { return observer_; }
  void set_enabled(bool enabled) { enabled_ = enabled; }
  bool enabled() const { return enabled_; }

 private:
  std::map<std::string, Total, std::less<>> totals_;
  bool enabled_ = true;
  ScopeObserver* observer_ = nullptr;
};

// Adds the time between construction and destruction to tracer[name]. `name` must outlive the
// scope.
class TraceScope {
 public:
  TraceScope(Tracer& tracer, std::string_view name)
      : tracer_(tracer.enabled() ? &tracer : nullptr), name_(name) {
    if (tracer_ == nullptr) return;
    if (tracer_->observer() != nullptr) {
      tracer_->observer()->begin(name_);
    } else {
      start_ = std::chrono::steady_clock::now();
    }
  }
  ~TraceScope() {
    if (tracer_ == nullptr) return;
    if (tracer_->observer() != nullptr) {
      tracer_->observer()->end(name_);
    } else {
      const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start_;
      tracer_->add(name_, d.count());
    }
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  Tracer* tracer_;
  std::string_view name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace dsv
