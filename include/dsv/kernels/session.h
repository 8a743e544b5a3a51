// What the kernels of a device keep beside a stream: library handles, scratch memory, cached plans.
#pragma once

#include <memory>

#include "dsv/tensor/device.h"

namespace dsv::kernels {

struct SessionOptions {
  // The same bits from the same inputs. false allows what libraries offer faster with sums in
  // arbitrary order.
  bool deterministic = true;
};

// One per stream, from the thread that uses it; put into Stream::session, which kernels read. Null
// on the CPU, whose kernels keep nothing. The owner must not outlive the stream.
std::shared_ptr<void> make_session(const Stream& stream, const SessionOptions& options);

}  // namespace dsv::kernels
