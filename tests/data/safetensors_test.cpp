#include "dsv/data/safetensors.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "data/temp_dir.h"
#include "dsv/base/error.h"
#include "dsv/base/philox.h"
#include "dsv/data/safetensors_writer.h"
#include "support/catch.h"

using namespace dsv::data;
using dsv::DType;
using dsv::Error;
using dsv::ExitCode;
using dsv::Shape;
using dsv::Tensor;

namespace {

std::string little_endian(std::uint64_t n) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[static_cast<std::size_t>(i)] = static_cast<char>(n >> (8 * i));
  return out;
}

std::string file_of(const std::string& header, std::size_t payload_bytes) {
  return little_endian(header.size()) + header + std::string(payload_bytes, 'p');
}

// "" when the file is accepted; checks that refusals are corrupt input.
std::string refusal(const std::string& bytes) {
  try {
    parse_safetensors_header(bytes, bytes.size(), "F");
    return "";
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kCorruptInput);
    return e.what();
  }
}

std::string one(const std::string& entry) {
  return "{\"a\":" + entry + "}";
}

}  // namespace

TEST_CASE("safetensors: every malformed header is refused with its reason", "[safetensors]") {
  const std::string f32x2 = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  struct Case {
    const char* name;
    std::string bytes;
    std::string message;
  };
  const std::string deep = std::string(200, '[') + std::string(200, ']');
  const std::vector<Case> cases = {
      {"empty file", "", "0 bytes are too few"},
      {"seven bytes", std::string(7, '\0'), "7 bytes are too few"},
      {"length zero", little_endian(0), "the header length is 0"},
      {"length beyond file", little_endian(100) + "{}", "header length 100 is beyond the end"},
      {"length one beyond file", little_endian(3) + "{}", "header length 3 is beyond the end"},
      {"length beyond 100 MB", little_endian(100'000'001) + "{}", "beyond the limit of 100 MB"},
      {"length 2^63", little_endian(1ull << 63) + "{}", "9223372036854775808 is beyond the limit"},
      {"length 2^64-1", little_endian(~0ull) + "{}", "beyond the limit of 100 MB"},
      {"not JSON", file_of("{nonsense}", 0), "[json] F: header: byte"},
      {"not an object", file_of("[]", 0), "does not begin with '{'"},
      {"leading space", file_of(" {}", 0), "does not begin with '{'"},
      {"unfinished", file_of("{\"a\":{", 0), "[json] F: header"},
      {"trailing characters", file_of("{}x", 0), "[json] F: header"},
      {"NUL after header", file_of(std::string("{}\0", 3), 0), "[json] F: header"},
      {"bad UTF-8", file_of("{\"\xff\":" + f32x2 + "}", 8), "[json] F: header"},
      {"deep nesting", file_of(one(deep), 0), "nested deeper than 3 levels"},
      {"deep in shape", file_of(one(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,8]})"), 8),
       "nested deeper than 3 levels"},
      {"duplicate tensor", file_of("{\"a\":" + f32x2 + ",\"a\":" + f32x2 + "}", 8),
       "duplicate name 'a'"},
      {"duplicate key",
       file_of(one(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"), 8),
       "duplicate name 'dtype'"},
      {"entry not an object", file_of(one("3"), 0),
       "tensor 'a': expected an object, got a integer"},
      {"no dtype", file_of(one(R"({"shape":[2],"data_offsets":[0,8]})"), 8),
       "expected a string 'dtype'"},
      {"dtype a number", file_of(one(R"({"dtype":32,"shape":[2],"data_offsets":[0,8]})"), 8),
       "expected a string 'dtype'"},
      {"unknown dtype", file_of(one(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})"), 8),
       "unknown dtype 'F33'"},
      {"dtype in lower case",
       file_of(one(R"({"dtype":"f32","shape":[2],"data_offsets":[0,8]})"), 8),
       "unknown dtype 'f32'"},
      {"unknown key", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), 8),
       "unknown key 'x'"},
      {"no shape", file_of(one(R"({"dtype":"F32","data_offsets":[0,8]})"), 8),
       "expected an array 'shape'"},
      {"shape a string", file_of(one(R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})"), 8),
       "expected an array 'shape'"},
      {"negative dim", file_of(one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), 8),
       "negative value -2 in 'shape'"},
      {"fractional dim", file_of(one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), 8),
       "expected integers in 'shape', got a number"},
      {"dim beyond 63 bits",
       file_of(one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]})"), 8),
       "18446744073709551615 in 'shape' does not fit in 63 bits"},
      {"dim beyond 64 bits",
       file_of(one(R"({"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]})"), 8),
       "got a number"},
      {"shape overflow",
       file_of(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"), 8),
       "shape × F32 overflows"},
      {"dtype overflow",
       file_of(one(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,8]})"), 8),
       "shape × F64 overflows"},
      {"overflow hidden by zero",
       file_of(one(R"({"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})"), 0),
       "overflows"},
      {"half a byte", file_of(one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,1]})"), 1),
       "not a whole number of bytes"},
      {"no offsets", file_of(one(R"({"dtype":"F32","shape":[2]})"), 8),
       "expected two 'data_offsets'"},
      {"one offset", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), 8),
       "expected two 'data_offsets'"},
      {"three offsets", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"), 8),
       "expected two 'data_offsets'"},
      {"offset a string", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":["0",8]})"), 8),
       "expected integers in 'data_offsets'"},
      {"negative offset", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})"), 8),
       "negative value -8 in 'data_offsets'"},
      {"reversed offsets", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), 8),
       "data_offsets [8, 0] are reversed"},
      {"beyond the file", file_of(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), 7),
       "beyond the payload of 7 bytes"},
      {"offset 2^62",
       file_of(
           one(R"({"dtype":"U8","shape":[1],"data_offsets":[4611686018427387904,4611686018427387905]})"),
           8),
       "beyond the payload of 8 bytes"},
      {"shape smaller than offsets",
       file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})"), 8),
       "shape × F32 needs 4 bytes, data_offsets hold 8"},
      {"shape larger than offsets",
       file_of(one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), 8),
       "needs 12 bytes, data_offsets hold 8"},
      {"overlap",
       file_of("{\"a\":" + f32x2 + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
               12),
       "tensor 'b' overlaps the tensor before it by 4 bytes"},
      {"same bytes twice", file_of("{\"a\":" + f32x2 + ",\"b\":" + f32x2 + "}", 8),
       "overlaps the tensor before it by 8 bytes"},
      {"hole",
       file_of("{\"a\":" + f32x2 + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
               16),
       "hole of 4 bytes before tensor 'b'"},
      {"hole at the beginning",
       file_of(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), 8),
       "hole of 4 bytes before tensor 'a'"},
      {"empty tensor inside another",
       file_of("{\"a\":" + f32x2 + R"(,"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})", 8),
       "tensor 'b' overlaps"},
      {"trailing bytes", file_of(one(f32x2), 9), "1 trailing bytes after the last tensor"},
      {"payload without tensors", file_of("{}", 4), "4 trailing bytes"},
      {"metadata not an object", file_of(R"({"__metadata__":[]})", 0),
       "expected an object '__metadata__'"},
      {"metadata value a number", file_of(R"({"__metadata__":{"k":1}})", 0),
       "expected strings in '__metadata__', 'k' is a integer"},
      {"terminal escape in a name", file_of("{\"\\u001b[31m\":3}", 0),
       "tensor '[31m': expected an object"},
  };
  REQUIRE(cases.size() >= 40);
  for (const Case& c : cases) {
    INFO(c.name);
    const std::string message = refusal(c.bytes);
    CHECK_THAT(message, Contains(c.message));
    CHECK_THAT(message, Contains("F"));
  }
}

TEST_CASE("safetensors: a mutated header is refused or tiles the file", "[safetensors]") {
  const std::string good = file_of(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})",
      32);
  const dsv::PhiloxStream stream({.seed = 12});
  const std::string alphabet = "{}[]\",:0123456789-+.eE\\ufnrt \xff";
  std::uint64_t draw = 0;
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bad = good;
    for (std::uint32_t k = 0; k <= stream.word(draw) % 3; ++k) {
      const std::size_t at = stream.word(++draw) % bad.size();
      bad[at] = alphabet[stream.word(++draw) % alphabet.size()];
    }
    ++draw;
    if (!refusal(bad).empty()) continue;
    ++accepted;  // a name, the metadata, or a payload byte
    std::int64_t at = 8 + static_cast<std::int64_t>(static_cast<unsigned char>(bad[0]));
    for (const TensorInfo& t : parse_safetensors_header(bad, bad.size(), "F").tensors) {
      CHECK(t.offset == at);
      at += t.num_bytes;
    }
    CHECK(at == static_cast<std::int64_t>(bad.size()));
  }
  CHECK(accepted > 500);
  CHECK(accepted < 15000);
}

TEST_CASE("safetensors: refusals through a file name the file", "[safetensors]") {
  const TempDir dir;
  const std::string path = dir / "bad.safetensors";
  for (const std::string& bytes : {std::string(), std::string(3, 'x'), file_of("{}", 1)}) {
    write_bytes(path, bytes);
    CHECK_THROWS_WITH(SafetensorsFile::open(path), Contains("bad.safetensors"));
  }
  try {
    SafetensorsFile::open(dir / "absent");
    FAIL("opened an absent file");
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kIo);
    CHECK_THAT(e.what(), Contains("No such file"));
  }
  CHECK_THROWS_WITH(SafetensorsFile::open(dir.path()), Contains("not a regular file"));
  REQUIRE(mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK_THROWS_WITH(SafetensorsFile::open(dir / "fifo"), Contains("not a regular file"));
}

TEST_CASE("safetensors: valid headers of other writers are accepted", "[safetensors]") {
  CHECK(refusal(file_of("{}", 0)) == "");
  CHECK(refusal(file_of("{}      ", 0)) == "");
  CHECK(refusal(file_of(one(R"({"dtype":"F32","shape":[],"data_offsets":[0,4]})"), 4)) == "");
  CHECK(refusal(file_of(one(R"({"dtype":"F4","shape":[2,3],"data_offsets":[0,3]})"), 3)) == "");
  CHECK(refusal(file_of(one(R"({"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]})"), 3)) == "");
  CHECK(refusal(file_of(
            R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
            R"("e":{"dtype":"F32","shape":[0,7],"data_offsets":[1,1]},)"
            R"("a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},"__metadata__":{"k":"v"}})",
            3)) == "");
  // Any order of keys; the result is in the order of the bytes.
  const std::string bytes = file_of(R"({"b":{"data_offsets":[4,8],"dtype":"F32","shape":[1]},)"
                                    R"("a":{"shape":[1],"dtype":"I32","data_offsets":[0,4]}})",
                                    8);
  const SafetensorsHeader h = parse_safetensors_header(bytes, bytes.size(), "F");
  REQUIRE(h.tensors.size() == 2);
  CHECK(h.tensors[0].name == "a");
  CHECK(h.tensors[1].offset == h.tensors[0].offset + 4);
}

TEST_CASE("safetensors: types and ranks beyond ours are listed, and refused when accessed",
          "[safetensors]") {
  const TempDir dir;
  const std::string path = dir / "f.safetensors";
  write_bytes(path, file_of(R"({"f8":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},)"
                            R"("b":{"dtype":"BOOL","shape":[1],"data_offsets":[2,3]},)"
                            R"("d":{"dtype":"U8","shape":[1,1,1,1,1,1,1],"data_offsets":[3,4]}})",
                            4));
  const SafetensorsFile f = SafetensorsFile::open(path);
  REQUIRE(f.tensors().size() == 3);
  CHECK_FALSE(f.at("f8").dtype.has_value());
  CHECK_THROWS_WITH(f.view("f8"),
                    Contains("has dtype F8_E4M3, which this engine does not compute with"));
  CHECK_THROWS_WITH(f.read("b"), Contains("dtype BOOL"));
  CHECK_THROWS_WITH(f.view("d"), Contains("has 7 dims, expected at most 6"));
  CHECK_THROWS_WITH(f.view("nope"), Contains("tensor 'nope' is missing"));
  CHECK(f.find("nope") == nullptr);
}

TEST_CASE("safetensors: what is written is read back bit for bit, aligned", "[safetensors]") {
  const TempDir dir;
  const std::string path = dir / "t.safetensors";
  std::vector<std::uint8_t> bytes(5);
  std::vector<float> floats(6);
  std::vector<double> doubles(3);
  std::vector<std::uint16_t> halves(7);
  for (int i = 0; i < 5; ++i)
    bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(250 + i);
  for (int i = 0; i < 6; ++i)
    floats[static_cast<std::size_t>(i)] = 1.0f / static_cast<float>(i);  // one inf
  for (int i = 0; i < 3; ++i) doubles[static_cast<std::size_t>(i)] = 1e-300 * i;
  for (int i = 0; i < 7; ++i)
    halves[static_cast<std::size_t>(i)] = dsv::bf16_from_f32(static_cast<float>(i));
  SafetensorsWriter w;
  w.add("bytes", Tensor(bytes.data(), DType::kU8, {5}));
  w.add("halves", Tensor(halves.data(), DType::kBF16, {7}));
  w.add("floats", Tensor(floats.data(), DType::kF32, {2, 3}));
  w.add("empty", Tensor(nullptr, DType::kF32, {0, 4}));
  w.add("scalar", DType::kF64, {},
        [&](const SafetensorsWriter::Sink& sink) { sink(doubles.data() + 2, 8); });
  w.add("doubles", DType::kF64, {3}, [&](const SafetensorsWriter::Sink& sink) {
    for (double& d : doubles) sink(&d, 8);  // in pieces
  });
  w.set_metadata("format", "old");
  w.set_metadata("format", "x\"y\n");
  w.write(path);
  Tensor kept;
  {
    const SafetensorsFile f = SafetensorsFile::open(path);
    CHECK(f.tensors().size() == 6);
    CHECK(*f.find_metadata("format") == "x\"y\n");
    CHECK(f.tensors()[0].offset % 64 == 0);
    CHECK(f.tensors()[0].name == "scalar");  // widest elements first
    kept = f.view("floats");
    CHECK(std::memcmp(f.view("bytes").raw(), bytes.data(), 5) == 0);
    CHECK(std::memcmp(f.view("halves").raw(), halves.data(), 14) == 0);
    CHECK(std::memcmp(f.read("doubles").raw(), doubles.data(), 24) == 0);
    CHECK(f.view("scalar").shape() == Shape{});
    CHECK(f.view("scalar").f64()[0] == 2e-300);
    CHECK(f.view("empty").shape() == Shape{0, 4});
    CHECK(reinterpret_cast<std::uintptr_t>(f.view("doubles").raw()) % 8 == 0);
  }
  std::filesystem::remove(path);
  CHECK(kept.shape() == Shape{2, 3});  // the view outlives the file object and even the name
  CHECK(std::memcmp(kept.raw(), floats.data(), 24) == 0);
}

TEST_CASE("safetensors: misaligned tensors of other writers are copied", "[safetensors]") {
  const TempDir dir;
  const float values[2] = {1.5f, -2.5f};
  for (int pad = 0; pad < 8; ++pad) {
    const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" +
                               std::string(static_cast<std::size_t>(pad), ' ');
    std::string bytes = file_of(header, 8);
    std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
    write_bytes(dir / "m", bytes);
    const Tensor t = SafetensorsFile::open(dir / "m").view("a");
    CHECK(reinterpret_cast<std::uintptr_t>(t.raw()) % 4 == 0);
    CHECK(t.f32()[0] == 1.5f);
    CHECK(t.f32()[1] == -2.5f);
  }
}

TEST_CASE("safetensors: a file truncated while open gives an error on read", "[safetensors]") {
  const TempDir dir;
  std::vector<float> data(100'000, 1.0f);
  SafetensorsWriter w;
  w.add("a", Tensor(data.data(), DType::kF32, {100'000}));
  w.write(dir / "t");
  const SafetensorsFile f = SafetensorsFile::open(dir / "t");
  REQUIRE(truncate((dir / "t").c_str(), 4096) == 0);
  CHECK_THROWS_WITH(f.read("a"), Contains("was truncated while tensor 'a' was read"));
}

TEST_CASE("safetensors: writing is atomic and wrong use is caught", "[safetensors]") {
  const TempDir dir;
  float x = 1;
  SafetensorsWriter w;
  w.add("a", Tensor(&x, DType::kF32, {1}));
  w.write(dir / "t");
  const std::string before = read_bytes(dir / "t");
  SafetensorsWriter short_one;
  short_one.add("a", DType::kF32, {2}, [&](const SafetensorsWriter::Sink& sink) { sink(&x, 4); });
  CHECK_THROWS_WITH(short_one.write(dir / "t"), Contains("needs 8 bytes, its producer wrote 4"));
  CHECK(read_bytes(dir / "t") == before);
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) ==
        1);  // nothing left behind
  w.add("a", Tensor(&x, DType::kF32, {1}));
  CHECK_THROWS_WITH(w.write(dir / "t"), Contains("two tensors are called 'a'"));
  float grid[4] = {};
  CHECK_THROWS_WITH(w.add("s", Tensor(grid, DType::kF32, {2, 2}).slice(1, 0, 1)),
                    Contains("contiguous"));
  SafetensorsWriter lost;
  lost.add("a", Tensor(&x, DType::kF32, {1}));
  CHECK_THROWS_WITH(lost.write(dir / "no/such/folder/t"), Contains("No such file"));
}
