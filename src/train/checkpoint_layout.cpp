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

std::int64_t padded(std::int64_t header_bytes, ExitCode code) {
  const std::int64_t bytes =
      round_up(kHeadLengthBytes + header_bytes, kPayloadAlignment) - kHeadLengthBytes;
  if (bytes > kMaxHeaderBytes) {
    throw_error(code, "[checkpoint] a shard header of {} bytes, expected at most {}", bytes,
                kMaxHeaderBytes);
  }
  return bytes;
}

std::string head_of(std::string header) {
  const auto header_bytes = static_cast<std::int64_t>(header.size());
  header.append(static_cast<std::size_t>(padded(header_bytes, ExitCode::kInternal) - header_bytes),
                ' ');
  std::string head;
  for (int i = 0; i < kHeadLengthBytes; ++i) {
    head += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i) & 0xff);
  }
  return head + header;
}

std::string first_entry(const Manifest& manifest, std::size_t file) {
  return "{\"__metadata__\":" + shard_metadata(manifest, static_cast<int>(file)).dump();
}

// Gives every piece that is wanted its offset in the payload and calls add(file, text) for the
// texts of which the header of a file consists, in order. Returns the sizes of the payloads.
template <typename Wanted, typename Add>
std::vector<std::int64_t> lay_out(Manifest& manifest, const Wanted& wanted, const Add& add) {
  std::vector<std::int64_t> payloads(manifest.files.size(), 0);
  for (LogicalArray& array : manifest.arrays) {
    // Escaped once, as a hostile manifest can have very many pieces; a range needs no escapes.
    std::string name = "," + Json(array.name).dump();
    name.pop_back();
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
      add(f, name);
      add(f, piece_name("", piece.begin, piece.end) + "\":{\"dtype\":\"" + to_string(array.dtype) +
                 "\",\"shape\":[" + std::to_string(piece.end - piece.begin) +
                 "],\"data_offsets\":[" + std::to_string(begin) + ',' +
                 std::to_string(payloads[f]) + "]}");
    }
  }
  return payloads;
}

// Makes the offsets of pieces those in the whole file.
template <typename Wanted>
void add_head_bytes(Manifest& manifest, const Wanted& wanted,
                    const std::vector<std::int64_t>& head_bytes) {
  for (LogicalArray& array : manifest.arrays) {
    for (ShardPiece& piece : array.pieces) {
      if (wanted(piece.file)) piece.offset += head_bytes[static_cast<std::size_t>(piece.file)];
    }
  }
}

std::int64_t file_bytes(std::int64_t head_bytes, std::int64_t payload_bytes, std::size_t file) {
  std::int64_t bytes = 0;
  if (!try_add(head_bytes, payload_bytes, &bytes)) {
    throw_error(ExitCode::kCorruptInput, "[checkpoint] {} would be larger than 2^63 bytes",
                shard_name(static_cast<int>(file)));
  }
  return bytes;
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
  for (std::size_t f = 0; f < num_files; ++f) {
    if (wanted(static_cast<int>(f))) headers[f] = first_entry(manifest, f);
  }
  const std::vector<std::int64_t> payloads = lay_out(
      manifest, wanted, [&](std::size_t f, const std::string& text) { headers[f] += text; });
  std::vector<ShardPlan> plans(num_files);
  std::vector<std::int64_t> head_bytes(num_files);
  for (std::size_t f = 0; f < num_files; ++f) {
    if (!wanted(static_cast<int>(f))) continue;
    plans[f].head = head_of(std::move(headers[f]) + '}');
    head_bytes[f] = static_cast<std::int64_t>(plans[f].head.size());
    plans[f].num_bytes = file_bytes(head_bytes[f], payloads[f], f);
  }
  add_head_bytes(manifest, wanted, head_bytes);
  return plans;
}

std::vector<std::int64_t> plan_sizes(Manifest& manifest) {
  const auto all = [](int) { return true; };
  std::vector<std::int64_t> head_bytes(manifest.files.size());
  for (std::size_t f = 0; f < head_bytes.size(); ++f) {
    head_bytes[f] =
        static_cast<std::int64_t>(first_entry(manifest, f).size()) + 1;  // and the last '}'
  }
  std::vector<std::int64_t> sizes =
      lay_out(manifest, all, [&](std::size_t f, const std::string& text) {
        head_bytes[f] += static_cast<std::int64_t>(text.size());
      });
  for (std::size_t f = 0; f < sizes.size(); ++f) {
    head_bytes[f] = kHeadLengthBytes + padded(head_bytes[f], ExitCode::kCorruptInput);
    sizes[f] = file_bytes(head_bytes[f], sizes[f], f);
  }
  add_head_bytes(manifest, all, head_bytes);
  return sizes;
}

}  // namespace dsv::train
