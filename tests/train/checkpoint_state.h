// State for checkpoint tests: arrays whose every byte is a function of (array, element, step), so
// that any rank of any world can tell whether what it reads is what was saved.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "data/temp_dir.h"
#include "dsv/base/philox.h"
#include "dsv/train/checkpoint_reader.h"
#include "dsv/train/checkpoint_writer.h"

namespace dsv::test {

using data::read_bytes;
using data::TempDir;
using data::write_bytes;

struct ArraySpec {
  const char* name;
  DType dtype;
  std::int64_t total;
};

// Small arrays of every width, an empty one, one smaller than a world, and one over several chunks.
inline const std::vector<ArraySpec>& mixed_state() {
  static const std::vector<ArraySpec> specs = {
      {"block.0/master", DType::kF32, 100'003}, {"block.0/m", DType::kF32, 100'003},
      {"block.1/ema", DType::kF32, 3'000'017},  {"predictor", DType::kBF16, 4'099},
      {"statistics", DType::kF64, 3},           {"cursor", DType::kI64, 1},
      {"flags \"ü\"", DType::kU8, 77},          {"empty", DType::kF32, 0}};
  return specs;
}
// The same without the large one.
inline const std::vector<ArraySpec>& small_state() {
  static const std::vector<ArraySpec> specs = [] {
    std::vector<ArraySpec> out = mixed_state();
    out.erase(out.begin() + 2);
    out[0].total = out[1].total = 1'003;
    return out;
  }();
  return specs;
}

// Calls visit(byte index in data, expected byte) for elements [begin, …) of an array.
template <typename Visit>
void for_expected_bytes(const ArraySpec& spec, std::int64_t step, std::int64_t begin,
                        std::int64_t size, const Visit& visit) {
  const std::uint64_t key = fnv1a(spec.name, std::strlen(spec.name)) ^
                            (static_cast<std::uint64_t>(step) * 0x9E3779B97F4A7C15ull);
  std::uint64_t word = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const auto at = static_cast<std::uint64_t>(begin * size_of(spec.dtype) + i);
    if (i == 0 || at % 8 == 0) {
      word = (key ^ (at / 8)) * 0xD6E8FEB86659FD93ull;
      word = (word ^ (word >> 32)) * 0xD6E8FEB86659FD93ull;
    }
    visit(i, static_cast<std::uint8_t>(word >> (8 * (at % 8))));
  }
}

// Owns the bytes of elements [begin, end) of an array.
inline Tensor make_bytes(DType dtype, std::int64_t num_elements) {
  const auto size =
      static_cast<std::size_t>(std::max<std::int64_t>(1, num_elements * size_of(dtype)));
  const std::shared_ptr<void> owner(::operator new(size), [](void* p) { ::operator delete(p); });
  return Tensor(owner.get(), dtype, Shape{num_elements}, {}, owner);
}

inline void fill(const ArraySpec& spec, std::int64_t step, std::int64_t begin, const Tensor& data) {
  auto* p = static_cast<std::uint8_t*>(data.raw());
  for_expected_bytes(spec, step, begin, data.num_bytes(),
                     [&](std::int64_t i, std::uint8_t expected) { p[i] = expected; });
}

inline bool is_filled(const ArraySpec& spec, std::int64_t step, std::int64_t begin,
                      const Tensor& data) {
  const auto* p = static_cast<const std::uint8_t*>(data.raw());
  bool same = true;
  for_expected_bytes(
      spec, step, begin, data.num_bytes(),
      [&](std::int64_t i, std::uint8_t expected) { same = same && p[i] == expected; });
  return same;
}

// What rank `rank` of `size` holds: one even share of each array, or, interleaved, many small
// pieces dealt out in turn, given in descending order.
inline std::vector<train::StatePiece> make_state(const std::vector<ArraySpec>& specs,
                                                 std::int64_t step, int rank, int size,
                                                 bool interleaved = false) {
  std::vector<train::StatePiece> pieces;
  const auto add = [&](const ArraySpec& spec, std::int64_t begin, std::int64_t end) {
    train::StatePiece piece{spec.name, spec.dtype, spec.total, begin, end, Tensor()};
    if (begin < end) {
      piece.data = make_bytes(spec.dtype, end - begin);
      fill(spec, step, begin, piece.data);
    }
    pieces.push_back(std::move(piece));
  };
  for (const ArraySpec& spec : specs) {
    if (!interleaved) {
      const train::ElementRange share = train::even_share(spec.total, rank, size);
      add(spec, share.begin, share.end);
      continue;
    }
    const std::int64_t width = spec.total / 13 + 1;
    for (std::int64_t i = 12; i >= 0; --i) {
      if (i % size != rank) continue;
      add(spec, std::min(i * width, spec.total), std::min((i + 1) * width, spec.total));
    }
  }
  return pieces;
}

inline train::CheckpointMeta make_meta(std::int64_t step) {
  train::CheckpointMeta meta;
  meta.step = step;
  meta.run_id = "run-of-a-test";
  meta.config_yaml = "run: {name: \"t\"}\n# step " + std::to_string(step) + "\n";
  meta.extra.set("cursor", step * 7);
  meta.extra.set("lr", 0.1 + 1e-17 * static_cast<double>(step));
  return meta;
}

// Reads everything in odd slices; "" or what differs.
inline std::string compare_state(const train::CheckpointReader& reader,
                                 const std::vector<ArraySpec>& specs, std::int64_t step, int rank,
                                 int size) {
  const train::CheckpointMeta meta = make_meta(step);
  if (reader.meta().step != step || reader.meta().run_id != meta.run_id ||
      reader.meta().config_yaml != meta.config_yaml || !(reader.meta().extra == meta.extra)) {
    return "meta";
  }
  for (const ArraySpec& spec : specs) {
    if (!reader.has(spec.name)) return std::string("absent: ") + spec.name;
    const train::ElementRange share = train::even_share(spec.total, rank, size, 1);
    const Tensor out = make_bytes(spec.dtype, share.end - share.begin);
    reader.read(spec.name, share.begin, share.end, out);
    if (!is_filled(spec, step, share.begin, out)) return spec.name;
  }
  return "";
}

// Runs `body` on every rank of a loopback world, one thread each. Returns what each threw: its exit
// code and message, empty for none. A rank that throws leaves, it does not abort: its peers may be
// about to throw the same.
inline std::vector<std::string> run_ranks(int size,
                                          const std::function<void(comm::Communicator&)>& body) {
  auto ranks = comm::make_loopback(size);
  std::vector<std::string> errors(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back([&, r] {
      const std::unique_ptr<comm::Communicator> mine = std::move(ranks[r]);
      try {
        body(*mine);
      } catch (const Error& e) {
        errors[r] = std::to_string(static_cast<int>(e.code())) + ": " + e.what();
      } catch (const std::exception& e) {
        errors[r] = e.what();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return errors;
}

inline bool all_empty(const std::vector<std::string>& texts) {
  for (const std::string& t : texts) {
    if (!t.empty()) return false;
  }
  return true;
}

// One committed checkpoint of `size` ranks.
inline std::vector<std::string> save_one(const std::string& dir,
                                         const std::vector<ArraySpec>& specs, std::int64_t step,
                                         int size, bool interleaved = false,
                                         const train::CheckpointWriter::Options& options = {}) {
  return run_ranks(size, [&](comm::Communicator& comm) {
    train::CheckpointWriter writer(dir, options, comm);
    const auto pieces = make_state(specs, step, comm.rank(), comm.size(), interleaved);
    writer.save(make_meta(step), pieces);
    writer.drain();
    if (writer.stats().last_saved_step != step) throw std::runtime_error(writer.stats().last_error);
  });
}

// What the ranks of a world find: "step N" when newest_valid is N and holds what was saved there,
// "none", or what is wrong.
inline std::string load_newest(const std::string& dir, const std::vector<ArraySpec>& specs,
                               int size, const train::CheckpointReader::Options& options = {}) {
  std::vector<std::string> found(static_cast<std::size_t>(size));
  const std::vector<std::string> errors = run_ranks(size, [&](comm::Communicator& comm) {
    const auto reader = train::CheckpointReader::open_newest_valid(dir, options, comm);
    std::string& mine = found[static_cast<std::size_t>(comm.rank())];
    if (!reader) {
      mine = "none";
      return;
    }
    const std::string difference =
        compare_state(*reader, specs, reader->meta().step, comm.rank(), comm.size());
    mine = difference.empty() ? "step " + std::to_string(reader->meta().step) : difference;
  });
  for (std::size_t r = 0; r < found.size(); ++r) {
    if (!errors[r].empty()) found[r] = errors[r];
    if (found[r] != found[0]) return "ranks differ: " + found[0] + " | " + found[r];
  }
  return found[0];
}

// Names in a folder, hidden ones left out, sorted.
inline std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (name[0] != '.') out.push_back(name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace dsv::test
