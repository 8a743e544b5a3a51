#include "checkpoint_snapshot.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "dsv/base/check_math.h"
#include "dsv/tensor/cuda_device.h"
#include "dsv/tensor/transfer.h"

namespace dsv::train {

SnapshotBuffer::~SnapshotBuffer() {
  release();
}

void SnapshotBuffer::release() {
  pinned_.reset();
  if (data_ != nullptr) ::munmap(data_, static_cast<std::size_t>(capacity_bytes_));
  data_ = nullptr;
  capacity_bytes_ = 0;
}

void SnapshotBuffer::reserve(std::int64_t num_bytes, Device from) {
  if (num_bytes <= capacity_bytes_) return;
  release();
  const auto size = static_cast<std::size_t>(round_up(num_bytes, std::int64_t{2} << 20));
  void* const mapped =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    throw_error(ExitCode::kEnvironment,
                "[checkpoint] no {} bytes of host memory for the snapshot: {}", size,
                std::strerror(errno));
  }
  // Page faults dominate the first copy without this; where it is not granted, nothing is lost.
  ::madvise(mapped, size, MADV_HUGEPAGE);
  data_ = static_cast<char*>(mapped);
  capacity_bytes_ = static_cast<std::int64_t>(size);
  ++num_allocations_;
  pinned_ = pin_host_memory(data_, capacity_bytes_, from);
}

void check_piece(const StatePiece& piece) {
  DSV_CHECK(!piece.name.empty(), "[checkpoint] a piece without a name");
  DSV_CHECK(0 <= piece.begin && piece.begin <= piece.end && piece.end <= piece.total,
            "[checkpoint] array '{}': piece [{}, {}) of {} elements", piece.name, piece.begin,
            piece.end, piece.total);
  if (piece.begin == piece.end) return;
  DSV_CHECK(piece.data.defined() && piece.data.dtype() == piece.dtype &&
                piece.data.is_contiguous() && piece.data.num_elements() == piece.end - piece.begin,
            "[checkpoint] array '{}': expected {} contiguous elements of {}, got {} of {}",
            piece.name, piece.end - piece.begin, piece.dtype, piece.data.shape(),
            piece.data.dtype());
}

std::string describe_pieces(const CheckpointMeta& meta, std::span<const StatePiece> pieces) {
  Json out = Json::array();
  for (const StatePiece& p : pieces) {
    out.push_back(Json::Array{p.name, to_string(p.dtype), p.total, p.begin, p.end});
  }
  return Json(Json::Array{meta.step, meta.run_id, std::move(out)}).dump();
}

std::vector<LogicalArray> merge_pieces(std::span<const std::string> texts) {
  std::map<std::string, std::pair<LogicalArray, int>> by_name;  // and the rank that named it first
  Json first;
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    const Json said = parse_json(texts[rank], "pieces of a rank");
    if (rank == 0) first = said;
    for (std::size_t i = 0; i < 2; ++i) {
      const Json &here = said.as_array()[i], &there = first.as_array()[i];
      DSV_CHECK(here == there, "[checkpoint] rank {} saves {} {}, rank 0 saves {}", rank,
                i == 0 ? "step" : "run", here.dump(), there.dump());
    }
    for (const Json& item : said.as_array()[2].as_array()) {
      const Json::Array& v = item.as_array();
      const std::string& name = v[0].as_string();
      const DType dtype = *parse_dtype(v[1].as_string());
      const std::int64_t total = v[2].as_int(), begin = v[3].as_int(), end = v[4].as_int();
      auto& [array, first_rank] =
          by_name.try_emplace(name, LogicalArray{name, dtype, total, {}}, static_cast<int>(rank))
              .first->second;
      DSV_CHECK(array.dtype == dtype && array.total == total,
                "[checkpoint] array '{}' has {} elements of {} on rank {}, {} of {} on rank {}",
                name, array.total, array.dtype, first_rank, total, dtype, rank);
      if (begin < end) array.pieces.push_back({begin, end, static_cast<int>(rank), 0});
    }
  }
  std::vector<LogicalArray> arrays;
  for (auto& [name, entry] : by_name) {
    std::sort(entry.first.pieces.begin(), entry.first.pieces.end(),
              [](const ShardPiece& a, const ShardPiece& b) {
                return a.begin != b.begin ? a.begin < b.begin : a.file < b.file;
              });
    check_coverage(entry.first, ExitCode::kInternal);
    arrays.push_back(std::move(entry.first));
  }
  std::sort(arrays.begin(), arrays.end(), comes_before);
  return arrays;
}

void copy_pieces(const Manifest& manifest, int rank, std::span<const StatePiece> pieces,
                 const Stream& stream, char* image) {
  std::map<std::pair<std::string_view, std::int64_t>, const StatePiece*> mine;
  for (const StatePiece& piece : pieces) {
    if (piece.begin < piece.end) mine[{piece.name, piece.begin}] = &piece;
  }
  for (const LogicalArray& array : manifest.arrays) {
    for (const ShardPiece& place : array.pieces) {
      if (place.file != rank) continue;
      const Tensor& data = mine.at({array.name, place.begin})->data;
      transfer(data, Tensor(image + place.offset, array.dtype, data.shape()), stream);
    }
  }
}

}  // namespace dsv::train
