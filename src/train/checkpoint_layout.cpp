#include "dsv/train/checkpoint_layout.h"

#include <algorithm>

#include "dsv/base/check_math.h"

namespace dsv::train {
namespace {

constexpr std::int64_t kPayloadAlignment = 64;
constexpr std::int64_t kHeadLengthBytes = 8;
constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  // what readers of the format accept

Json shard_metadata(const Manifest& manifest, int file) {
  Json metadata = Json::object();
  metadata.set("format", "dsv-checkpoint-shard");
  metadata.set("run_id", manifest.meta.run_id);
  metadata.set("save_id", manifest.save_id);
  metadata.set("step", std::to_string(manifest.meta.step));
  metadata.set("rank", std::to_string(file));
  metadata.set("world", std::to_string(manifest.files.size()));
  return metadata;
}

std::string head_of(std::string header) {
  const auto unpadded = kHeadLengthBytes + static_cast<std::int64_t>(header.size());
  header.append(static_cast<std::size_t>(round_up(unpadded, kPayloadAlignment) - unpadded), ' ');
  if (static_cast<std::int64_t>(header.size()) > kMaxHeaderBytes) {
    throw_error(ExitCode::kInternal, "[checkpoint] a shard header of {} bytes, expected at most {}",
                header.size(), kMaxHeaderBytes);
  }
  std::string head;
  for (int i = 0; i < kHeadLengthBytes; ++i) {
    head += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i) & 0xff);
  }
  return head + header;
}

}  // namespace

ElementRange even_share(std::int64_t total, int rank, int size, std::int64_t align) {
  DSV_CHECK(total >= 0 && align > 0 && 0 <= rank && rank < size,
            "[checkpoint] even_share of {} elements for rank {} of {}, align {}", total, rank, size,
            align);
  const std::int64_t blocks = total / align + (total % align != 0);
  const std::int64_t each = blocks / size, longer = blocks % size;
  const auto begin_of = [&](std::int64_t r) {
    return std::min((each * r + std::min(r, longer)) * align, total);
  };
  return {begin_of(rank), begin_of(rank + 1)};
}

std::string shard_name(int rank) {
  return format("rank_{:05}.safetensors", rank);
}

std::string piece_name(std::string_view array, std::int64_t begin, std::int64_t end) {
  return std::string(array) + '[' + std::to_string(begin) + ',' + std::to_string(end) + ')';
}

bool comes_before(const LogicalArray& a, const LogicalArray& b) {
  if (size_of(a.dtype) != size_of(b.dtype)) return size_of(a.dtype) > size_of(b.dtype);
  return a.name < b.name;
}

void check_coverage(const LogicalArray& array, ExitCode code) {
  std::int64_t bytes = 0;
  if (array.total < 0 || !try_mul(array.total, size_of(array.dtype), &bytes)) {
    throw_error(code, "[checkpoint] array '{}': {} elements of {} are not possible", array.name,
                array.total, array.dtype);
  }
  std::int64_t covered = 0;
  int previous = -1;
  for (const ShardPiece& piece : array.pieces) {
    if (piece.begin < 0 || piece.end <= piece.begin || piece.end > array.total) {
      throw_error(code, "[checkpoint] array '{}': shard {} holds [{}, {}) of {} elements",
                  array.name, piece.file, piece.begin, piece.end, array.total);
    }
    if (piece.begin > covered) {
      throw_error(code, "[checkpoint] array '{}': elements [{}, {}) are in no shard", array.name,
                  covered, piece.begin);
    }
    if (piece.begin < covered) {
      throw_error(code,
                  "[checkpoint] array '{}': elements [{}, {}) are in shard {} and in shard {}",
                  array.name, piece.begin, std::min(covered, piece.end), previous, piece.file);
    }
    covered = piece.end;
    previous = piece.file;
  }
  if (covered != array.total) {
    throw_error(code, "[checkpoint] array '{}': elements [{}, {}) are in no shard", array.name,
                covered, array.total);
  }
}

std::vector<ShardPlan> plan_shards(Manifest& manifest, int only) {
  const std::size_t num_files = manifest.files.size();
  const auto wanted = [&](int file) { return only < 0 || file == only; };
  std::vector<std::string> headers(num_files);
  std::vector<std::int64_t> payloads(num_files, 0);
  for (std::size_t f = 0; f < num_files; ++f) {
    if (!wanted(static_cast<int>(f))) continue;
    headers[f] = "{\"__metadata__\":" + shard_metadata(manifest, static_cast<int>(f)).dump();
  }
  for (LogicalArray& array : manifest.arrays) {
    for (ShardPiece& piece : array.pieces) {
      if (!wanted(piece.file)) continue;
      const auto f = static_cast<std::size_t>(piece.file);
      const std::int64_t begin = payloads[f];
      // Each piece fits by check_coverage, the sum over a hostile manifest's pieces may not.
      if (!try_add(begin, (piece.end - piece.begin) * size_of(array.dtype), &payloads[f])) {
        throw_error(ExitCode::kCorruptInput, "[checkpoint] {} would be larger than 2^63 bytes",
                    shard_name(piece.file));
      }
      piece.offset = begin;
      headers[f] += ',' + Json(piece_name(array.name, piece.begin, piece.end)).dump() +
                    ":{\"dtype\":\"" + to_string(array.dtype) + "\",\"shape\":[" +
                    std::to_string(piece.end - piece.begin) + "],\"data_offsets\":[" +
                    std::to_string(begin) + ',' + std::to_string(payloads[f]) + "]}";
    }
  }
  std::vector<ShardPlan> plans(num_files);
  for (std::size_t f = 0; f < num_files; ++f) {
    if (!wanted(static_cast<int>(f))) continue;
    plans[f].head = head_of(headers[f] + '}');
    if (!try_add(static_cast<std::int64_t>(plans[f].head.size()), payloads[f],
                 &plans[f].num_bytes)) {
      throw_error(ExitCode::kCorruptInput, "[checkpoint] {} would be larger than 2^63 bytes",
                  shard_name(static_cast<int>(f)));
    }
  }
  for (LogicalArray& array : manifest.arrays) {
    for (ShardPiece& piece : array.pieces) {
      if (!wanted(piece.file)) continue;
      piece.offset +=
          static_cast<std::int64_t>(plans[static_cast<std::size_t>(piece.file)].head.size());
    }
  }
  return plans;
}

}  // namespace dsv::train
