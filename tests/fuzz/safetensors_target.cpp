// data/safetensors: headers in memory, and whole files through the system's door.
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <set>

#include "dsv/data/safetensors.h"
#include "safetensors_file.h"
#include "target.h"

namespace dsv::fuzz {
namespace {

using data::SafetensorsFile;
using data::SafetensorsHeader;
using data::TensorInfo;

// A file without a name, so that inputs are opened and mapped as files without touching a disk.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view bytes) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0 || ::write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      throw std::logic_error("cannot write a file in memory");
    }
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

std::int64_t bits_of(const std::string& dtype) {
  constexpr std::pair<const char*, int> kOdd[] = {
      {"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  for (const auto& [name, bits] : kOdd) {
    if (dtype == name) return bits;
  }
  // U8, F64, BF16, F8_E5M2, C64: the digits after the letters.
  return std::stoi(dtype.substr(dtype.find_first_of("0123456789")));
}

// Tensors tile the payload, in order, and have the size that their shape says; in 128 bits, where
// nothing overflows.
void check_header(const SafetensorsHeader& header, std::string_view bytes) {
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  __int128 at = static_cast<__int128>(length) + 8;
  std::set<std::string> names;
  for (const TensorInfo& t : header.tensors) {
    promise(names.insert(t.name).second, "'{}' is there twice", t.name);
    promise(t.offset == at && t.num_bytes >= 0, "'{}' begins at {}", t.name, t.offset);
    at += t.num_bytes;
    __int128 bits = bits_of(t.dtype_name);
    for (const std::int64_t d : t.dims) {
      promise(d >= 0, "'{}' has dim {}", t.name, d);
      bits *= d;
      if (bits > (__int128{1} << 66)) bits = __int128{1} << 66;
    }
    promise(bits == 8 * static_cast<__int128>(t.num_bytes), "'{}' has {} bytes", t.name,
            t.num_bytes);
    promise(!t.dtype || size_of(*t.dtype) * 8 == bits_of(t.dtype_name), "'{}' has dtype {}", t.name,
            t.dtype_name);
  }
  promise(at == static_cast<__int128>(bytes.size()), "the tensors end at {}",
          static_cast<std::int64_t>(at));
}

// Every tensor can be read both ways, or is refused as one that this engine cannot hold.
void check_file(std::string_view bytes) {
  const MemoryFile memory(bytes);
  const SafetensorsFile file = SafetensorsFile::open(memory.path());
  for (const TensorInfo& t : file.tensors()) {
    try {
      const Tensor seen = file.view(t.name), read = file.read(t.name);
      promise(seen.num_bytes() == t.num_bytes && read.num_bytes() == t.num_bytes,
              "'{}' has {} and {} bytes", t.name, seen.num_bytes(), read.num_bytes());
      const std::string_view expected =
          bytes.substr(static_cast<std::size_t>(t.offset), static_cast<std::size_t>(t.num_bytes));
      for (const Tensor* tensor : {&seen, &read}) {
        promise(t.num_bytes == 0 || expected == std::string_view(static_cast<char*>(tensor->raw()),
                                                                 expected.size()),
                "'{}' reads as other bytes", t.name);
      }
    } catch (const Error& error) {
      promise(
          error.code() == ExitCode::kCorruptInput && (!t.dtype || t.dims.size() > Shape::kMaxDims),
          "'{}' cannot be read: {}", t.name, error.what());
    }
  }
}

Check parse(std::string_view input) {
  const auto header =
      std::make_shared<SafetensorsHeader>(data::parse_safetensors_header(input, input.size(), "F"));
  return [header, input] {
    check_header(*header, input);
    check_file(input);
    // The head alone is enough, as shards are read; a byte less is not.
    const std::size_t payload = [&] {
      std::size_t bytes = 0;
      for (const TensorInfo& t : header->tensors) bytes += static_cast<std::size_t>(t.num_bytes);
      return bytes;
    }();
    const std::string_view head = input.substr(0, input.size() - payload);
    promise(data::parse_safetensors_header(head, input.size(), "F").tensors.size() ==
                header->tensors.size(),
            "its head alone reads otherwise");
    try {
      data::parse_safetensors_header(head.substr(0, head.size() - 1), input.size(), "F");
    } catch (const Error&) {
      return;
    }
    promise(false, "its head is accepted without its last byte");
  };
}

std::vector<std::string> seeds() {
  return {
      one(entry("F32", "2", "0,8")),
      file_of("{\"a\":" + entry("F32", "2,1", "0,8") + ",\"b\":" + entry("BF16", "3", "8,14") +
                  ",\"c\":" + entry("U8", "2", "14,16") + ",\"__metadata__\":{\"k\":\"v\"}}",
              16),
      file_of("{\"x\":" + entry("F4", "4", "0,2") + ",\"y\":" + entry("F64", "0,5", "2,2") + "}",
              2)};
}

// Mutations leave the length and the payload wrong, which is seen before anything else: mostly they
// are made to fit again, the payload to the last offset.
std::string repair(std::string input, Random& random) {
  if (random.one_in(8)) return input;
  const auto begin = input.find('{');
  const auto end = input.rfind('}');
  if (begin == input.npos || end == input.npos || end < begin) return input;
  const std::string header = input.substr(begin, end + 1 - begin);
  std::size_t payload = input.size() - end - 1;
  if (!random.one_in(4)) {
    payload = 0;
    const std::string key = "\"data_offsets\":[";
    for (auto at = header.find(key); at != header.npos; at = header.find(key, at + 1)) {
      const auto comma = header.find(',', at);
      if (comma == header.npos) break;
      payload =
          std::max<std::size_t>(payload, std::strtoull(header.c_str() + comma + 1, nullptr, 10));
    }
    payload = std::min<std::size_t>(payload, 4096);
  }
  return file_of(header, payload);
}

}  // namespace

// Memory: that of the JSON value, whose entries of three members take less than its lists, and the
// entries beside it.
Target safetensors_target() {
  return {.name = "safetensors",
          .parse = parse,
          .codes = {ExitCode::kCorruptInput},
          .cases = safetensors_cases,
          .seeds = seeds,
          .words = {"\"dtype\"", "\"shape\"", "\"data_offsets\"", "\"__metadata__\"", "\"F32\"",
                    "\"BF16\"", "\"F6_E2M3\"", "\"I64\"", "\"C64\"", "[0,0]", "[0,8]", "{}", "[]",
                    ",", ":", "\"\"", "null",
                    ",\"d\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"},
          .repair = repair,
          .bytes_per_byte = 64,
          .fixed_bytes = 16 << 10,
          .min_reasons = 30};
}

}  // namespace dsv::fuzz
