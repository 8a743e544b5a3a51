#include "dsv/data/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "dsv/base/json.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/text.h"

namespace dsv::data {
namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

// Bits, not bytes: the format knows types of four and six bits.
struct KnownDType {
  const char* name;
  std::int64_t bits;
};
constexpr KnownDType kKnownDTypes[] = {{"BOOL", 8},    {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6},
                                       {"U8", 8},      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
                                       {"F8_E8M0", 8}, {"I16", 16}, {"U16", 16},    {"F16", 16},
                                       {"BF16", 16},   {"I32", 32}, {"U32", 32},    {"F32", 32},
                                       {"C64", 64},    {"F64", 64}, {"I64", 64},    {"U64", 64}};

template <typename... Args>
[[noreturn]] void refuse(const std::string& where, std::string_view pattern, const Args&... args) {
  throw_error(ExitCode::kCorruptInput, "[safetensors] {}: {}", where, format(pattern, args...));
}

// A size or offset: an integer in [0, 2^63).
std::int64_t read_size(const Json& value, const char* what, const std::string& name,
                       const std::string& where) {
  if (!value.is_integer()) {
    refuse(where, "tensor '{}': expected integers in '{}', got a {}", printable(name), what,
           value.type_name());
  }
  if (value.as_double() < 0) {
    refuse(where, "tensor '{}': negative value {} in '{}'", printable(name), value.as_int(), what);
  }
  if (value.as_uint() > static_cast<std::uint64_t>(INT64_MAX)) {
    refuse(where, "tensor '{}': value {} in '{}' does not fit in 63 bits", printable(name),
           value.as_uint(), what);
  }
  return value.as_int();
}

std::int64_t num_bytes_of(const TensorInfo& info, std::int64_t bits, const std::string& where) {
  std::int64_t total_bits = bits;
  for (const std::int64_t d : info.dims) {
    if (!try_mul(total_bits, d, &total_bits)) {
      refuse(where, "tensor '{}': shape × {} overflows", printable(info.name), info.dtype_name);
    }
  }
  if (total_bits % 8 != 0) {
    refuse(where, "tensor '{}': shape × {} is not a whole number of bytes", printable(info.name),
           info.dtype_name);
  }
  return total_bits / 8;
}

// One header entry. Offsets in it are relative to the payload; the result's are absolute.
TensorInfo read_entry(const std::string& name, const Json& entry, std::int64_t payload_offset,
                      std::int64_t payload_bytes, const std::string& where) {
  if (!entry.is_object()) {
    refuse(where, "tensor '{}': expected an object, got a {}", printable(name), entry.type_name());
  }
  TensorInfo info;
  info.name = name;
  for (const auto& [key, value] : entry.as_object()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      refuse(where, "tensor '{}': unknown key '{}'", printable(name), printable(key));
    }
  }
  const Json* dtype = entry.find("dtype");
  const Json* shape = entry.find("shape");
  const Json* offsets = entry.find("data_offsets");
  if (dtype == nullptr || !dtype->is_string()) {
    refuse(where, "tensor '{}': expected a string 'dtype'", printable(name));
  }
  if (shape == nullptr || !shape->is_array()) {
    refuse(where, "tensor '{}': expected an array 'shape'", printable(name));
  }
  if (offsets == nullptr || !offsets->is_array() || offsets->size() != 2) {
    refuse(where, "tensor '{}': expected two 'data_offsets'", printable(name));
  }
  info.dtype_name = dtype->as_string();
  const auto* known = std::find_if(std::begin(kKnownDTypes), std::end(kKnownDTypes),
                                   [&](const KnownDType& k) { return info.dtype_name == k.name; });
  if (known == std::end(kKnownDTypes)) {
    refuse(where, "tensor '{}': unknown dtype '{}'", printable(name), printable(info.dtype_name));
  }
  info.dtype = parse_dtype(info.dtype_name);
  for (const Json& d : shape->as_array()) info.dims.push_back(read_size(d, "shape", name, where));
  const std::int64_t begin = read_size(offsets->as_array()[0], "data_offsets", name, where);
  const std::int64_t end = read_size(offsets->as_array()[1], "data_offsets", name, where);
  if (end < begin) {
    refuse(where, "tensor '{}': data_offsets [{}, {}] are reversed", printable(name), begin, end);
  }
  if (end > payload_bytes) {
    refuse(where, "tensor '{}': data_offsets [{}, {}] are beyond the payload of {} bytes",
           printable(name), begin, end, payload_bytes);
  }
  info.num_bytes = num_bytes_of(info, known->bits, where);
  if (info.num_bytes != end - begin) {
    refuse(where, "tensor '{}': shape × {} needs {} bytes, data_offsets hold {}", printable(name),
           info.dtype_name, info.num_bytes, end - begin);
  }
  info.offset = payload_offset + begin;
  return info;
}

// Tensors, sorted by their bytes, must tile the payload exactly.
void check_tiling(const std::vector<TensorInfo>& tensors, std::int64_t payload_offset,
                  std::int64_t file_bytes, const std::string& where) {
  std::int64_t at = payload_offset;
  for (const TensorInfo& t : tensors) {
    if (t.offset < at) {
      refuse(where, "tensor '{}' overlaps the tensor before it by {} bytes", printable(t.name),
             at - t.offset);
    }
    if (t.offset > at) {
      refuse(where, "hole of {} bytes before tensor '{}'", t.offset - at, printable(t.name));
    }
    at += t.num_bytes;
  }
  if (at != file_bytes) refuse(where, "{} trailing bytes after the last tensor", file_bytes - at);
}

}  // namespace

Shape TensorInfo::shape() const {
  if (dims.size() > static_cast<std::size_t>(Shape::kMaxDims)) {
    throw_error(ExitCode::kCorruptInput,
                "[safetensors] tensor '{}' has {} dims, expected at most {}", printable(name),
                dims.size(), Shape::kMaxDims);
  }
  Shape out;
  for (const std::int64_t d : dims) out.push_back(d);
  return out;
}

SafetensorsHeader parse_safetensors_header(std::string_view begin, std::uint64_t file_bytes,
                                           const std::string& where) {
  if (file_bytes > static_cast<std::uint64_t>(INT64_MAX)) refuse(where, "{} bytes", file_bytes);
  if (file_bytes < 8 || begin.size() < 8) {
    refuse(where, "{} bytes are too few for the 8-byte header length", file_bytes);
  }
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) {
    header_bytes =
        header_bytes << 8 | static_cast<unsigned char>(begin[static_cast<std::size_t>(i)]);
  }
  if (header_bytes == 0) refuse(where, "the header length is 0");
  if (header_bytes > kMaxHeaderBytes) {
    refuse(where, "the header length {} is beyond the limit of 100 MB", header_bytes);
  }
  if (header_bytes > file_bytes - 8 || header_bytes > begin.size() - 8) {
    refuse(where, "the header length {} is beyond the end of the file of {} bytes", header_bytes,
           file_bytes);
  }
  const std::string_view text = begin.substr(8, header_bytes);
  if (text[0] != '{') refuse(where, "the header does not begin with '{{'");

  JsonLimits limits;
  limits.max_depth = 3;  // header, tensor, shape
  limits.max_bytes = kMaxHeaderBytes;
  limits.max_values = 4'000'000;
  const Json root = parse_json(text, where + ": header", limits);
  const auto payload_offset = static_cast<std::int64_t>(8 + header_bytes);
  const std::int64_t payload_bytes = static_cast<std::int64_t>(file_bytes) - payload_offset;

  SafetensorsHeader header;
  for (const auto& [name, entry] : root.as_object()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) refuse(where, "expected an object '__metadata__'");
      for (const auto& [key, value] : entry.as_object()) {
        if (!value.is_string()) {
          refuse(where, "expected strings in '__metadata__', '{}' is a {}", printable(key),
                 value.type_name());
        }
        header.metadata.emplace_back(key, value.as_string());
      }
    } else {
      header.tensors.push_back(read_entry(name, entry, payload_offset, payload_bytes, where));
    }
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) {
                     return std::pair(a.offset, a.num_bytes) < std::pair(b.offset, b.num_bytes);
                   });
  check_tiling(header.tensors, payload_offset, static_cast<std::int64_t>(file_bytes), where);
  return header;
}

struct SafetensorsFile::State {
  std::string path;
  int fd = -1;
  void* data = MAP_FAILED;
  std::size_t size_bytes = 0;
  SafetensorsHeader header;
  std::unordered_map<std::string_view, const TensorInfo*> by_name;

  ~State() {
    if (data != MAP_FAILED) ::munmap(data, size_bytes);
    if (fd >= 0) ::close(fd);
  }
};

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  const auto state = std::make_shared<State>();
  state->path = path;
  // O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
  state->fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info {};
  if (state->fd < 0 || ::fstat(state->fd, &info) != 0) {
    throw_error(ExitCode::kIo, "[safetensors] {}: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    throw_error(ExitCode::kIo, "[safetensors] {}: not a regular file", path);
  }
  if (info.st_size < 8)
    parse_safetensors_header({}, static_cast<std::uint64_t>(info.st_size), path);
  state->size_bytes = static_cast<std::size_t>(info.st_size);
  state->data = ::mmap(nullptr, state->size_bytes, PROT_READ, MAP_PRIVATE, state->fd, 0);
  if (state->data == MAP_FAILED) {
    throw_error(ExitCode::kIo, "[safetensors] {}: cannot map {} bytes: {}", path, state->size_bytes,
                std::strerror(errno));
  }
  state->header = parse_safetensors_header(
      {static_cast<const char*>(state->data), state->size_bytes}, state->size_bytes, path);
  for (const TensorInfo& t : state->header.tensors) state->by_name.emplace(t.name, &t);
  SafetensorsFile file;
  file.state_ = state;
  return file;
}

const std::string& SafetensorsFile::path() const& {
  return state_->path;
}
const std::vector<TensorInfo>& SafetensorsFile::tensors() const& {
  return state_->header.tensors;
}
const std::vector<std::pair<std::string, std::string>>& SafetensorsFile::metadata() const& {
  return state_->header.metadata;
}

const std::string* SafetensorsFile::find_metadata(std::string_view key) const& {
  for (const auto& [name, value] : state_->header.metadata) {
    if (name == key) return &value;
  }
  return nullptr;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const& {
  const auto it = state_->by_name.find(name);
  return it == state_->by_name.end() ? nullptr : it->second;
}

const TensorInfo& SafetensorsFile::at(std::string_view name) const& {
  const TensorInfo* info = find(name);
  if (info == nullptr) refuse(path(), "tensor '{}' is missing", printable(name));
  return *info;
}

Tensor SafetensorsFile::view(std::string_view name) const {
  const TensorInfo& info = at(name);
  if (!info.dtype) {
    refuse(path(), "tensor '{}' has dtype {}, which this engine does not compute with",
           printable(name), info.dtype_name);
  }
  const Shape shape = info.shape();
  if (info.num_bytes == 0) return Tensor(nullptr, *info.dtype, shape);
  char* bytes = static_cast<char*>(state_->data) + info.offset;
  if (reinterpret_cast<std::uintptr_t>(bytes) % static_cast<std::uintptr_t>(size_of(*info.dtype)) ==
      0) {
    // The owner erases the constness of the state, not of the pages.
    return Tensor(bytes, *info.dtype, shape, {}, std::const_pointer_cast<State>(state_));
  }
  const Tensor copy = host_tensor(shape, *info.dtype);
  std::memcpy(copy.raw(), bytes, static_cast<std::size_t>(info.num_bytes));
  return copy;
}

void SafetensorsFile::read(const TensorInfo& info, void* out) const {
  char* to = static_cast<char*>(out);
  std::int64_t done = 0;
  while (done < info.num_bytes) {
    const ssize_t n = ::pread(state_->fd, to + done,
                              static_cast<std::size_t>(info.num_bytes - done), info.offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_error(ExitCode::kIo, "[safetensors] {}: {}", path(), std::strerror(errno));
    if (n == 0) {
      throw_error(ExitCode::kIo,
                  "[safetensors] {}: the file was truncated while tensor '{}' was read", path(),
                  printable(info.name));
    }
    done += n;
  }
}

Tensor SafetensorsFile::read(std::string_view name) const {
  const TensorInfo& info = at(name);
  if (!info.dtype) {
    refuse(path(), "tensor '{}' has dtype {}, which this engine does not compute with",
           printable(name), info.dtype_name);
  }
  const Tensor out = host_tensor(info.shape(), *info.dtype);
  read(info, out.raw());
  return out;
}

}  // namespace dsv::data
