// What the contract's cases are made of: expectations that throw, guarded buffers, patterns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>

#include "dsv/base/crc32c.h"
#include "dsv/comm/communicator.h"

namespace contract {

using dsv::DType;
using dsv::Shape;
using dsv::Tensor;
using dsv::comm::Communicator;
using dsv::comm::ReduceOp;
using Counts = std::vector<std::int64_t>;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

#define CONTRACT_EXPECT(condition, ...)                                                      \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      throw contract::Failure(dsv::format("{}:{}: `{}`: ", __FILE__, __LINE__, #condition) + \
                              dsv::format(__VA_ARGS__));                                     \
    }                                                                                        \
  } while (false)

// Host memory with guard bytes behind it, filled with garbage first: reads of what was never
// written and writes past the end show.
class Buffer {
 public:
  Buffer(const Shape& shape, DType dtype)
      : num_bytes_(shape.num_elements() * dsv::size_of(dtype)),
        bytes_(std::make_shared<std::vector<std::uint8_t>>(
            static_cast<std::size_t>(num_bytes_ + kGuard), 0xcc)),
        tensor_(bytes_->data(), dtype, shape, {}, bytes_) {}
  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }  // NOLINT: a buffer is passed as its tensor
  std::uint8_t* bytes() { return bytes_->data(); }
  std::int64_t num_bytes() const { return num_bytes_; }
  void check_guard() const {
    for (std::int64_t i = 0; i < kGuard; ++i) {
      CONTRACT_EXPECT((*bytes_)[static_cast<std::size_t>(num_bytes_ + i)] == 0xcc,
                      "byte {} behind a buffer of {} bytes was written", i, num_bytes_);
    }
  }

 private:
  static constexpr std::int64_t kGuard = 64;
  std::int64_t num_bytes_;
  std::shared_ptr<std::vector<std::uint8_t>> bytes_;
  Tensor tensor_;
};

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
inline std::uint8_t pattern(std::uint64_t seed, std::int64_t i) {
  const std::uint64_t x =
      (seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(i)) * 0xd1342543de82ef95u;
  return static_cast<std::uint8_t>(x >> 56);
}
// Magnitudes from 2^-12 to 2^12 and both signs: sums depend on their order.
inline double value(int rank, std::int64_t i, std::uint64_t seed) {
  const std::uint64_t bits =
      mix((seed + static_cast<std::uint64_t>(rank) * 7919u) * 0x9e3779b97f4a7c15u +
          static_cast<std::uint64_t>(i));
  const std::uint64_t exponent = 1023 - 12 + bits % 25;
  return __builtin_bit_cast(double, (bits & 0x800fffffffffffffu) | (exponent << 52));
}

inline std::int64_t sum(const Counts& counts) {
  std::int64_t n = 0;
  for (const std::int64_t c : counts) n += c;
  return n;
}

// Runs `call`, which must throw Error(code); returns the message.
inline std::string expect_error(dsv::ExitCode code, const std::function<void()>& call) {
  try {
    call();
  } catch (const dsv::Error& e) {
    CONTRACT_EXPECT(e.code() == code, "expected exit code {}, got {}: {}", static_cast<int>(code),
                    static_cast<int>(e.code()), e.what());
    return e.what();
  }
  CONTRACT_EXPECT(false, "expected an error with exit code {}, got none", static_cast<int>(code));
  return {};
}

inline void expect_same_on_all_ranks(Communicator& comm, const void* data, std::int64_t num_bytes,
                                     const char* what) {
  const std::uint32_t crc = dsv::crc32c(data, static_cast<std::size_t>(num_bytes));
  const std::vector<std::string> all = comm.all_gather_bytes(std::to_string(crc));
  for (const std::string& other : all) {
    CONTRACT_EXPECT(other == all[0], "{}: ranks hold different bits", what);
  }
}

}  // namespace contract
