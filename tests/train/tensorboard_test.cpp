// TensorBoard event files: decoded here by hand, and by TensorBoard itself where it is installed.
#include "dsv/train/tensorboard.h"

#include <sys/wait.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "dsv/base/crc32c.h"
#include "support/catch.h"
#include "train/temporary_folder.h"

using namespace dsv;
using namespace dsv::train;
using test::read_text;
using test::TemporaryFolder;

namespace {

std::uint64_t little_endian(std::string_view data, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = size; i > 0; --i)
    value = value << 8 | static_cast<unsigned char>(data[i - 1]);
  return value;
}

std::uint32_t masked(std::string_view data) {
  const std::uint32_t crc = crc32c_portable(data.data(), data.size());
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

// The records of a TFRecord file, each checked by its CRCs.
std::vector<std::string> records_of(const std::string& file) {
  std::vector<std::string> records;
  std::string_view rest = file;
  while (!rest.empty()) {
    REQUIRE(rest.size() >= 16);
    const std::uint64_t size = little_endian(rest, 8);
    CHECK(little_endian(rest.substr(8), 4) == masked(rest.substr(0, 8)));
    REQUIRE(rest.size() >= 16 + size);
    const std::string_view data = rest.substr(12, size);
    CHECK(little_endian(rest.substr(12 + size), 4) == masked(data));
    records.emplace_back(data);
    rest.remove_prefix(16 + size);
  }
  return records;
}

// A protocol buffer as its fields in order; varints and fixed numbers as integers.
struct ProtoField {
  std::uint64_t number = 0;
  std::uint64_t integer = 0;
  std::string bytes;
};

std::vector<ProtoField> fields_of(std::string_view data) {
  std::vector<ProtoField> fields;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      REQUIRE(!data.empty());
      REQUIRE(shift < 64);
      const auto byte = static_cast<unsigned char>(data.front());
      data.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (!data.empty()) {
    const std::uint64_t key = varint();
    ProtoField field{key >> 3, 0, ""};
    const auto type = key & 7;
    if (type == 0) {
      field.integer = varint();
    } else if (type == 2) {
      const std::uint64_t size = varint();
      REQUIRE(size <= data.size());
      field.bytes = data.substr(0, size);
      data.remove_prefix(size);
    } else {
      REQUIRE((type == 1 || type == 5));
      const std::size_t size = type == 1 ? 8 : 4;
      REQUIRE(size <= data.size());
      field.integer = little_endian(data, size);
      data.remove_prefix(size);
    }
    fields.push_back(field);
  }
  return fields;
}

const ProtoField& at(const std::vector<ProtoField>& fields, std::uint64_t number) {
  for (const ProtoField& field : fields) {
    if (field.number == number) return field;
  }
  FAIL("no field " << number);
  return fields.front();
}

// 2 x 1 pixels of RGB, red and blue: signature, IHDR, IDAT, IEND.
const std::string kPng = [] {
  const unsigned char bytes[] = {
      0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48,
      0x44, 0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x08, 0x02, 0x00, 0x00,
      0x00, 0x7b, 0x40, 0xe8, 0xdd, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78,
      0xda, 0x63, 0xf8, 0xcf, 0x00, 0x04, 0xff, 0x01, 0x07, 0x00, 0x01, 0xff, 0x3d, 0x7d,
      0x8c, 0x49, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
  return std::string(reinterpret_cast<const char*>(bytes), sizeof(bytes));
}();

Json numbers(double loss, std::int64_t tokens) {
  Json values = Json::object();
  values.set("loss", loss);
  values.set("tokens", tokens);
  values.set("stage", "dense");  // not a number: left out
  return values;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("the masked CRC is TensorFlow's", "[tensorboard]") {
  // The length field of a record of 24 bytes, and its masked CRC as TensorFlow writes it.
  CHECK(crc32c("123456789", 9) == 0xe3069283u);
  CHECK(masked(std::string("\x18\0\0\0\0\0\0\0", 8)) == 0x224b7fa3u);
}

TEST_CASE("events are framed, versioned, and hold what was written", "[tensorboard]") {
  const TemporaryFolder folder;
  TensorboardWriter writer(folder / "tb", 0);
  writer.scalars(300, "train", numbers(0.25, 1'000'000));
  writer.image(301, "samples/0", kPng);
  writer.text(302, "captions", "a **red** square ☃");
  Json only_text = Json::object();
  only_text.set("stage", "dense");
  writer.scalars(303, "train", only_text);  // no number, no event

  const std::string name = std::filesystem::path(writer.path()).filename();
  CHECK(name.starts_with("events.out.tfevents."));
  const auto records = records_of(read_text(writer.path()));
  REQUIRE(records.size() == 4);
  CHECK(at(fields_of(records[0]), 3).bytes == "brain.Event:2");
  CHECK(std::bit_cast<double>(at(fields_of(records[0]), 1).integer) > 1.7e9);

  const auto scalars = fields_of(records[1]);
  CHECK(at(scalars, 2).integer == 300);
  const auto values = fields_of(at(scalars, 5).bytes);
  REQUIRE(values.size() == 2);
  CHECK(at(fields_of(values[0].bytes), 1).bytes == "train/loss");
  CHECK(std::bit_cast<float>(
            static_cast<std::uint32_t>(at(fields_of(values[0].bytes), 2).integer)) == 0.25f);
  CHECK(at(fields_of(values[1].bytes), 1).bytes == "train/tokens");

  const auto image_value = fields_of(fields_of(at(fields_of(records[2]), 5).bytes)[0].bytes);
  CHECK(at(image_value, 1).bytes == "samples/0");
  const auto image = fields_of(at(image_value, 4).bytes);
  CHECK(at(image, 1).integer == 1);  // height
  CHECK(at(image, 2).integer == 2);  // width
  CHECK(at(image, 4).bytes == kPng);

  const auto text_value = fields_of(fields_of(at(fields_of(records[3]), 5).bytes)[0].bytes);
  const auto tensor = fields_of(at(text_value, 8).bytes);
  CHECK(at(tensor, 1).integer == 7);  // DT_STRING
  CHECK(at(tensor, 8).bytes == "a **red** square ☃");
  CHECK(at(fields_of(at(fields_of(at(text_value, 9).bytes), 1).bytes), 1).bytes == "text");
}

TEST_CASE("a resumed run begins a later file that takes steps back", "[tensorboard]") {
  const TemporaryFolder folder;
  const std::string tb = folder / "tb";
  std::string first, second, third;
  {
    TensorboardWriter writer(tb, 0);
    writer.scalars(5, "train", numbers(1, 1));
    first = writer.path();
  }
  {
    TensorboardWriter writer(tb, 4);
    second = writer.path();
  }
  third = TensorboardWriter(tb, 2).path();
  CHECK(files_in(tb) == std::vector<std::string>{first, second, third});  // also within one second
  const auto records = records_of(read_text(second));
  REQUIRE(records.size() == 2);
  CHECK(at(fields_of(records[1]), 2).integer == 4);
  CHECK(at(fields_of(at(fields_of(records[1]), 7).bytes), 1).integer == 1);  // SessionLog START
}

TEST_CASE("what is not a PNG is not an image", "[tensorboard]") {
  const TemporaryFolder folder;
  TensorboardWriter writer(folder / "tb", 0);
  CHECK_THROWS_AS(writer.image(0, "x", "GIF89a"), Error);
  CHECK_THROWS_AS(writer.image(0, "x", kPng.substr(0, 20)), Error);
}

TEST_CASE("a folder that cannot be made is an I/O error", "[tensorboard]") {
  const TemporaryFolder folder;
  test::write_text(folder / "file", "");
  try {
    TensorboardWriter writer(folder / "file/tb", 0);
    FAIL("made");
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kIo);
    CHECK_THAT(e.what(), Contains("file/tb"));
  }
}

TEST_CASE("TensorBoard reads the files back", "[tensorboard]") {
  const TemporaryFolder folder;
  const std::string tb = folder / "tb";
  const double infinity = std::numeric_limits<double>::infinity();
  {
    TensorboardWriter writer(tb, 0);
    for (int step = 0; step < 6; ++step) writer.scalars(step, "train", numbers(step / 4.0, 7));
    writer.image(5, "samples/0", kPng);
  }
  TensorboardWriter writer(tb, 3);  // steps 3, 4, 5 are forgotten
  writer.scalars(3, "train", numbers(std::nan(""), 1));
  writer.scalars(4, "train", numbers(-infinity, std::int64_t{1} << 40));
  writer.scalars(4, "eval", numbers(0.125, 1));
  writer.image(4, "samples/0", kPng);
  writer.text(4, "captions", "a **red** square ☃");

  const char* python = std::getenv("DSV_PYTHON");
  const std::string out = folder / "out.json";
  const std::string command = std::string(python != nullptr ? python : "python3") +
                              " " DSV_SOURCE_DIR "/tools/read_tensorboard.py " + tb + " > " + out +
                              " 2> " + (folder / "err.txt");
  const int status = std::system(command.c_str());
  if (WIFEXITED(status) && (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)) {
    WARN(
        "SKIPPED: no tensorboard package for Python (pip install tensorboard; DSV_PYTHON names "
        "it)");
    return;
  }
  INFO(read_text(folder / "err.txt"));
  REQUIRE(status == 0);
  const Json read = parse_json(read_text(out), out);
  CHECK(read.at("scalars").at("train/loss").dump() ==
        R"([[0,0.0],[1,0.25],[2,0.5],[3,"NaN"],[4,"-Infinity"]])");
  CHECK(read.at("scalars").at("train/tokens").dump() ==
        "[[0,7.0],[1,7.0],[2,7.0],[3,1.0],[4,1099511627776.0]]");
  CHECK(read.at("scalars").at("eval/loss").dump() == "[[4,0.125]]");
  CHECK(read.at("scalars").size() == 4);
  CHECK(read.at("images").at("samples/0").dump() == format("[[4,2,1,{}]]", kPng.size()));
  CHECK(read.at("texts").at("captions").dump() == R"([[4,"a **red** square ☃"]])");
}
