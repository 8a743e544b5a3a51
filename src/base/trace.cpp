#include "dsv/base/trace.h"

namespace dsv {

void Tracer::add(std::string_view name, double seconds) {
  auto it = totals_.find(name);
  if (it == totals_.end()) it = totals_.emplace(std::string(name), Total{}).first;
  it->second.seconds += seconds;
  it->second.count += 1;
}

const std::map<std::string, Tracer::Total, std::less<>>& Tracer::totals() {
  if (observer_ != nullptr) observer_->collect(*this);
  return totals_;
}

void Tracer::reset() {
  if (observer_ != nullptr) observer_->collect(*this);
  totals_.clear();
}

}  // namespace dsv
