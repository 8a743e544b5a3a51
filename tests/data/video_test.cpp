#include <cmath>
#include <cstring>

#include "data/temp_dir.h"
#include "dsv/base/error.h"
#include "dsv/base/philox.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/contact_sheet.h"
#include "dsv/data/png_writer.h"
#include "dsv/data/video_reader.h"
#include "dsv/data/video_writer.h"
#include "support/catch.h"

using namespace dsv::data;
using dsv::Error;
using dsv::ExitCode;
using dsv::Tensor;

namespace {

// Smooth colour waves that move: friendly to 4:2:0 and small quantisers.
Tensor waves(std::int64_t frames, std::int64_t height, std::int64_t width) {
  const Tensor clip = host_tensor({3, frames, height, width});
  std::int64_t i = 0;
  for (int rgb = 0; rgb < 3; ++rgb) {
    for (std::int64_t f = 0; f < frames; ++f) {
      for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t x = 0; x < width; ++x) {
          clip.f32()[i++] = static_cast<float>(
              0.5 +
              0.4 * std::sin(0.15 * static_cast<double>(x) + rgb + 0.3 * static_cast<double>(f)) *
                  std::cos(0.11 * static_cast<double>(y) - rgb));
        }
      }
    }
  }
  return clip;
}

// Frame f is uniformly grey (f + 1) / (frames + 1).
Tensor counter_frame(std::int64_t f, std::int64_t frames) {
  const Tensor frame = host_tensor({3, 16, 16});
  std::fill_n(frame.f32(), frame.num_elements(),
              static_cast<float>(f + 1) / static_cast<float>(frames + 1));
  return frame;
}

std::int64_t counter_of(const Tensor& clip, std::int64_t f, std::int64_t frames) {
  const float grey = clip.select(1, f).f32()[5 * 16 + 5];
  return std::llround(grey * static_cast<float>(frames + 1)) - 1;
}

double psnr(const Tensor& a, const Tensor& b) {
  double error = 0;
  for (std::int64_t i = 0; i < a.num_elements(); ++i) {
    error += std::pow(static_cast<double>(a.f32()[i]) - b.f32()[i], 2);
  }
  return -10 * std::log10(error / static_cast<double>(a.num_elements()) + 1e-20);
}

Tensor read_one(VideoReader& reader, double start, std::int64_t frames, double fps,
                std::int64_t height, std::int64_t width) {
  Tensor out;
  const ReadOutcome outcome =
      reader.read_clips({start}, frames, fps, height, width, [&](std::size_t, const Tensor& clip) {
        out = clip;
        return true;
      });
  CHECK(outcome.problem == "");
  REQUIRE(outcome.num_clips == 1);
  return out;
}

void check_refused(const std::string& path, const std::string& reason,
                   ExitCode code = ExitCode::kCorruptInput) {
  INFO(path);
  try {
    VideoReader reader(path);
    FAIL("opened as " << reader.info().codec);
  } catch (const Error& e) {
    CHECK(e.code() == code);
    CHECK_THAT(e.what(), Contains(reason));
    CHECK_THAT(e.what(), Contains(path));
  }
}

// The display matrix of the mp4 track header: 16.16 fixed point, big-endian.
void set_display_matrix(const std::string& path, const std::array<std::int32_t, 4>& abcd) {
  std::string bytes = read_bytes(path);
  const auto at = bytes.find("tkhd");
  REQUIRE(at != std::string::npos);
  const int places[4] = {0, 1, 3, 4};
  for (int i = 0; i < 4; ++i) {
    const auto value = static_cast<std::uint32_t>(abcd[static_cast<std::size_t>(i)] * 65536);
    for (int b = 0; b < 4; ++b) {
      bytes[at + 4 + 40 + static_cast<std::size_t>(places[i]) * 4 + static_cast<std::size_t>(b)] =
          static_cast<char>(value >> (24 - 8 * b));
    }
  }
  write_bytes(path, bytes);
}

}  // namespace

TEST_CASE("video: what is written is read back at its own rate and size", "[video]") {
  const TempDir dir;
  const Tensor clip = waves(12, 48, 64);
  write_video(dir / "a.mp4", clip, {.fps = 24, .crf = 4, .full_chroma = true});
  write_video(dir / "b.mp4", clip, {.fps = 24, .crf = 4});
  for (const char* name : {"a.mp4", "b.mp4"}) {
    VideoReader reader(dir / name);
    CHECK(reader.info().codec == "h264");
    CHECK(reader.info().num_frames == 12);
    CHECK(reader.info().width == 64);
    CHECK(reader.info().height == 48);
    CHECK(reader.info().duration_s == Approx(0.5));
    CHECK(reader.info().damage == "");
    CHECK(reader.info().latest_start_s(12, 24) >= 0);
    CHECK(reader.info().latest_start_s(13, 24) < 0);
    const Tensor back = read_one(reader, 0, 12, 24, 48, 64);
    CHECK(psnr(clip, back) > (name[0] == 'a' ? 42 : 38));
  }
  // The same call writes the same bytes.
  write_video(dir / "c.mp4", clip, {.fps = 24, .crf = 4});
  CHECK(read_bytes(dir / "b.mp4") == read_bytes(dir / "c.mp4"));
  CHECK(std::distance(std::filesystem::directory_iterator(dir.path()), {}) == 3);
}

TEST_CASE("video: pure colours keep their values through matrix and range", "[video]") {
  const TempDir dir;
  const float colours[6][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1},
                               {1, 1, 1}, {0, 0, 0}, {0.2f, 0.6f, 0.9f}};
  for (const auto& colour : colours) {
    for (const bool full_chroma : {true, false}) {
      const Tensor clip = host_tensor({3, 2, 32, 32});
      for (int rgb = 0; rgb < 3; ++rgb) std::fill_n(clip.f32() + rgb * 2048, 2048, colour[rgb]);
      write_video(dir / "c.mp4", clip, {.crf = 0, .full_chroma = full_chroma});
      VideoReader reader(dir / "c.mp4");
      const Tensor back = read_one(reader, 0, 2, 16, 32, 32);
      for (int rgb = 0; rgb < 3; ++rgb) {
        // Two steps of eight bits: rounding to limited range and back.
        CHECK(std::fabs(back.f32()[rgb * 2048 + 1500] - colour[rgb]) <= 2.01f / 255);
      }
    }
  }
}

TEST_CASE("video: frames are sampled by time, the nearest first", "[video]") {
  const TempDir dir;
  VideoWriter writer(dir / "v.mp4", 16, 16, {.fps = 30, .crf = 0});
  for (int f = 0; f < 30; ++f) writer.add(counter_frame(f, 30));
  writer.finish();
  VideoReader reader(dir / "v.mp4");
  const Tensor tens = read_one(reader, 0, 10, 10, 16, 16);
  for (int f = 0; f < 10; ++f) CHECK(counter_of(tens, f, 30) == 3 * f);
  const Tensor sixties = read_one(reader, 0.5, 8, 60, 16, 16);  // halfway goes to the earlier frame
  for (int f = 0; f < 8; ++f) CHECK(counter_of(sixties, f, 30) == 15 + f / 2);
  // Several clips in one pass, overlapping.
  std::vector<std::int64_t> firsts;
  const ReadOutcome outcome = reader.read_clips(
      {0.0, 0.1, 0.2, 0.7}, 9, 30, 16, 16, [&](std::size_t index, const Tensor& clip) {
        CHECK(index == firsts.size());
        firsts.push_back(counter_of(clip, 0, 30));
        CHECK(counter_of(clip, 8, 30) == firsts.back() + 8);
        return true;
      });
  CHECK(outcome.problem == "");
  CHECK(firsts == std::vector<std::int64_t>{0, 3, 6, 21});
  // Stopping early is not a problem of the file; asking for too much is.
  CHECK(
      reader.read_clips({0.0, 0.5}, 2, 30, 16, 16, [](std::size_t, const Tensor&) { return false; })
          .num_clips == 1);
  CHECK_THAT(
      reader.read_clips({0.9}, 9, 30, 16, 16, [](std::size_t, const Tensor&) { return true; })
          .problem,
      Contains("pictures end at 0.97 s"));
}

TEST_CASE("video: a variable rate is sampled evenly in time", "[video]") {
  const TempDir dir;
  const double times[8] = {0.0, 0.02, 0.05, 0.50, 0.51, 0.52, 0.90, 1.0};
  VideoWriter writer(dir / "vfr.mp4", 16, 16, {.crf = 0, .variable_rate = true});
  for (int f = 0; f < 8; ++f) writer.add(counter_frame(f, 8), times[f]);
  writer.finish();
  VideoReader reader(dir / "vfr.mp4");
  CHECK(reader.info().num_frames == 8);
  CHECK(reader.info().last_frame_s == Approx(1.0).margin(1e-4));
  const Tensor clip = read_one(reader, 0, 11, 10, 16, 16);
  for (int i = 0; i <= 10; ++i) {
    int nearest = 0;
    for (int f = 1; f < 8; ++f) {
      if (std::fabs(times[f] - 0.1 * i) < std::fabs(times[nearest] - 0.1 * i) - 1e-9) nearest = f;
    }
    CHECK(counter_of(clip, i, 8) == nearest);
  }
}

TEST_CASE("video: odd sizes and one frame", "[video]") {
  const TempDir dir;
  const Tensor odd = waves(5, 33, 47);
  write_video(dir / "odd.mp4", odd, {.fps = 10, .crf = 4});
  VideoReader reader(dir / "odd.mp4");
  CHECK(reader.info().height == 33);
  CHECK(reader.info().width == 47);
  CHECK(psnr(odd, read_one(reader, 0, 5, 10, 33, 47)) > 40);
  write_video(dir / "one.mp4", waves(1, 32, 32));
  VideoReader one(dir / "one.mp4");
  CHECK(one.info().num_frames == 1);
  CHECK(one.info().latest_start_s(1, 16) >= 0);
  CHECK(one.info().latest_start_s(2, 16) < 0);
  CHECK(read_one(one, 0, 1, 16, 32, 32).dim(1) == 1);
}

TEST_CASE("video: pictures are scaled to cover, cropped at the centre, turned upright", "[video]") {
  const TempDir dir;
  // Left quarter red, middle green, right quarter blue.
  const Tensor wide = host_tensor({3, 3, 64, 128});
  for (std::int64_t i = 0; i < wide.num_elements(); ++i) {
    const std::int64_t rgb = i / (3 * 64 * 128), x = i % 128;
    wide.f32()[i] = rgb == (x < 32 ? 0 : x < 96 ? 1 : 2) ? 1.0f : 0.0f;
  }
  const std::string path = dir / "wide.mp4";
  write_video(path, wide, {.crf = 0, .full_chroma = true});
  const auto colour_at = [](const Tensor& clip, std::int64_t y, std::int64_t x) {
    int best = 0;
    for (int rgb = 1; rgb < 3; ++rgb) {
      if (clip.select(1, 0).select(1, y).f32()[rgb * clip.stride(0) + x] >
          clip.select(1, 0).select(1, y).f32()[best * clip.stride(0) + x]) {
        best = rgb;
      }
    }
    return best;
  };
  {
    VideoReader reader(path);
    const Tensor square = read_one(reader, 0, 1, 16, 32, 32);  // the middle only
    for (const int x : {1, 16, 30}) CHECK(colour_at(square, 16, x) == 1);
    const Tensor all = read_one(reader, 0, 1, 16, 32, 64);
    CHECK(colour_at(all, 16, 3) == 0);
    CHECK(colour_at(all, 16, 60) == 2);
    const Tensor larger = read_one(reader, 0, 1, 16, 100, 200);
    CHECK(colour_at(larger, 50, 20) == 0);
    CHECK(colour_at(larger, 50, 100) == 1);
  }
  // A telephone held sideways: shown a quarter clockwise, the left side is on top.
  struct Turn {
    std::array<std::int32_t, 4> matrix;
    std::int64_t height, width, red_y, red_x, blue_y, blue_x;
  };
  const Turn turns[3] = {{{0, 1, -1, 0}, 128, 64, 5, 32, 120, 32},
                         {{-1, 0, 0, -1}, 64, 128, 32, 120, 32, 5},
                         {{0, -1, 1, 0}, 128, 64, 120, 32, 5, 32}};
  for (const Turn& turn : turns) {
    set_display_matrix(path, turn.matrix);
    VideoReader reader(path);
    CHECK(reader.info().height == turn.height);
    CHECK(reader.info().width == turn.width);
    const Tensor clip = read_one(reader, 0, 1, 16, turn.height, turn.width);
    CHECK(colour_at(clip, turn.red_y, turn.red_x) == 0);
    CHECK(colour_at(clip, turn.blue_y, turn.blue_x) == 2);
  }
}

TEST_CASE("video: what is no video is refused with its reason", "[video]") {
  const TempDir dir;
  check_refused(dir / "absent.mp4", "No such file", ExitCode::kIo);
  check_refused(dir.path(), "not a regular file", ExitCode::kIo);
  write_bytes(dir / "empty.mp4", "");
  check_refused(dir / "empty.mp4", "the file is empty");
  write_bytes(dir / "text.mp4", "This is not a video, it only has the name of one.\n");
  check_refused(dir / "text.mp4", "");
  std::string noise(100'000, '\0');
  const dsv::PhiloxStream stream({.seed = 1});
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<char>(stream.word(i));
  write_bytes(dir / "noise.mp4", noise);
  check_refused(dir / "noise.mp4", "");
  // Sound only: one second of 8 kHz mono PCM.
  std::string wav(
      "RIFF\x64\x1f\0\0WAVEfmt "
      "\x10\0\0\0\1\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data\x40\x1f\0\0",
      44);
  wav += std::string(8000, '\x80');
  write_bytes(dir / "sound.wav", wav);
  check_refused(dir / "sound.wav", "only sound, no video stream");
  // Lists that point elsewhere.
  write_bytes(dir / "list.m3u8",
              "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n");
  check_refused(dir / "list.m3u8", "files of format 'hls' are not read");
  write_bytes(dir / "list.mp4", "ffconcat version 1.0\nfile /etc/passwd\n");
  check_refused(dir / "list.mp4", "files of format 'concat' are not read");
  // A picture that claims 20000 × 10000 pixels in 54 bytes.
  std::string bmp("BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x20\x4e\0\0\x10\x27\0\0\1\0\x18\0", 30);
  bmp += std::string(24, '\0');
  write_bytes(dir / "huge.bmp", bmp);
  check_refused(dir / "huge.bmp", "pictures");
  write_video(dir / "small.mp4", waves(2, 32, 64));
  CHECK_THROWS_WITH(VideoReader(dir / "small.mp4", {.max_side = 63}),
                    Contains("pictures of 32x64 exceed"));
  CHECK_THROWS_WITH(VideoReader(dir / "small.mp4", {.max_frames = 1}),
                    Contains("more than 1 frames"));
}

TEST_CASE("video: a truncated file gives the clips before the cut and says so", "[video]") {
  const TempDir dir;
  write_video(dir / "v.mp4", waves(48, 64, 64), {.fps = 24, .crf = 10});
  const std::string bytes = read_bytes(dir / "v.mp4");
  int with_clips = 0, refused = 0;
  for (int percent = 1; percent < 100; percent += 7) {
    write_bytes(dir / "cut.mp4",
                bytes.substr(0, bytes.size() * static_cast<std::size_t>(percent) / 100));
    try {
      VideoReader reader(dir / "cut.mp4");
      std::int64_t clips = 0;
      const ReadOutcome outcome =
          reader.read_clips({0, 0.5, 1.0, 1.5}, 12, 24, 64, 64,
                            [&](std::size_t, const Tensor&) { return ++clips > 0; });
      CHECK(outcome.num_clips == clips);
      CHECK(clips < 4);
      CHECK(outcome.problem != "");
      CHECK_THAT(reader.info().damage, Contains("of 48 frames are in the file"));
      if (clips > 0) ++with_clips;
    } catch (const Error& e) {
      CHECK(e.code() == ExitCode::kCorruptInput);
      ++refused;
    }
  }
  CHECK(with_clips >= 5);
  CHECK(refused >= 1);
}

TEST_CASE("video: flipped bits never crash the reader", "[video]") {
  const TempDir dir;
  write_video(dir / "v.mp4", waves(8, 32, 32), {.fps = 8, .crf = 20});
  const std::string bytes = read_bytes(dir / "v.mp4");
  const dsv::PhiloxStream stream({.seed = 7});
  for (std::uint64_t round = 0; round < 60; ++round) {
    std::string bad = bytes;
    for (std::uint64_t k = 0; k < 8; ++k) {
      const std::uint32_t word = stream.word(round * 8 + k);
      bad[word % bad.size()] = static_cast<char>(bad[word % bad.size()] ^ (1 << (word >> 29)));
    }
    write_bytes(dir / "bad.mp4", bad);
    try {
      VideoReader reader(dir / "bad.mp4");
      reader.read_clips({0}, 4, 8, 32, 32,
                        [](std::size_t, const Tensor& clip) { return clip.f32()[0] >= 0; });
    } catch (const Error& e) {
      CHECK((e.code() == ExitCode::kCorruptInput || e.code() == ExitCode::kIo));
    }
  }
}

TEST_CASE("video: the writer refuses what cannot be written", "[video]") {
  const TempDir dir;
  CHECK_THROWS_WITH(VideoWriter(dir / "a.mp4", 0, 16), Contains("expected sides in"));
  CHECK_THROWS_WITH(VideoWriter(dir / "a.mp4", 16, 16, {.fps = NAN}), Contains("expected fps in"));
  CHECK_THROWS_WITH(VideoWriter(dir / "a.mp4", 16, 16, {.preset = "warp"}),
                    Contains("preset 'warp'"));
  CHECK_THROWS_WITH(VideoWriter(dir / "no/folder/a.mp4", 16, 16), Contains("No such file"));
  {
    VideoWriter abandoned(dir / "a.mp4", 16, 16);
    abandoned.add(counter_frame(0, 1));
    CHECK_THROWS_WITH(abandoned.add(waves(1, 8, 8).select(1, 0)),
                      Contains("expected a frame [3, 16, 16]"));
  }
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("png: pictures come back exactly, sheets have the documented layout", "[png]") {
  const TempDir dir;
  const Tensor image = host_tensor({3, 21, 35});
  for (std::int64_t i = 0; i < image.num_elements(); ++i)
    image.f32()[i] = static_cast<float>(i % 256) / 255;
  image.f32()[0] = NAN;   // black
  image.f32()[1] = 7.0f;  // clamped
  write_png(dir / "a%03d.png", image);
  image.f32()[0] = 0;
  image.f32()[1] = 1;
  VideoReader reader(dir / "a%03d.png");
  const Tensor back = read_one(reader, 0, 1, 1, 21, 35);
  for (std::int64_t i = 0; i < image.num_elements(); ++i) {
    REQUIRE(back.f32()[i] == Approx(image.f32()[i]).margin(1e-6));
  }
  const Tensor clip = host_tensor({3, 5, 4, 6});
  for (std::int64_t i = 0; i < clip.num_elements(); ++i)
    clip.f32()[i] = static_cast<float>(i / 24 % 5) / 10;
  const Tensor sheet = contact_sheet({clip, clip}, 3, 1);
  REQUIRE(sheet.shape() == dsv::Shape{3, 11, 22});
  CHECK(sheet.f32()[0] == 1.0f);
  CHECK(sheet.f32()[22 + 1] == 0.0f);           // frame 0
  CHECK(sheet.f32()[22 + 1 + 7] == 0.2f);       // frame 2
  CHECK(sheet.f32()[22 + 1 + 14] == 0.4f);      // frame 4
  CHECK(sheet.f32()[6 * 22 + 1 + 14] == 0.4f);  // second clip
}
