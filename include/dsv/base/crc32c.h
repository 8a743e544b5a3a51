// CRC-32C (Castagnoli, reflected, RFC 3720 appendix B.4): the checksum of shards, indices,
// checkpoints.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsv {

// Extends `crc` (0 to begin) over `size` bytes. Uses the SSE 4.2 instruction where the CPU has it.
std::uint32_t crc32c(const void* data, std::size_t size, std::uint32_t crc = 0);

// The table version, the oracle of the one above.
std::uint32_t crc32c_portable(const void* data, std::size_t size, std::uint32_t crc = 0);

}  // namespace dsv
