#include "dsv/data/encoder.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>

#include "data/temp_dir.h"
#include "dsv/base/json.h"
#include "dsv/data/atomic_file.h"
#include "dsv/data/captions.h"
#include "dsv/data/dataset.h"
#include "dsv/data/host_tensor.h"
#include "dsv/data/shard_check.h"
#include "dsv/data/synth.h"
#include "dsv/data/video_writer.h"
#include "support/catch.h"

using namespace dsv::data;
using dsv::Error;
using dsv::ExitCode;
using dsv::Tensor;

namespace {

// A short synthetic clip.
void write_clip(const std::string& path, std::uint64_t index, std::int64_t frames, double fps = 8,
                std::int64_t height = 32, std::int64_t width = 32) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  const SynthScene scene = synth_scene(1, index);
  VideoWriter writer(path, height, width, {.fps = fps, .crf = 10});
  const Tensor frame = host_tensor({3, height, width});
  for (std::int64_t f = 0; f < frames; ++f) {
    render(scene, static_cast<double>(f) / static_cast<double>(frames), frame);
    writer.add(frame);
  }
  writer.finish();
}

EncodeOptions small_options() {
  EncodeOptions o;
  o.wavelet = {.levels_t = 1, .levels_s = 2};
  o.text = {.dim = 16, .max_len = 32};
  o.buckets = {{.height = 32, .width = 32, .frames = 4}};
  o.fps = 8;
  o.shard_bytes = 100'000;
  o.threads = 2;
  return o;
}

double psnr(const Tensor& a, const Tensor& b) {
  double error = 0;
  for (std::int64_t i = 0; i < a.num_elements(); ++i) {
    error += std::pow(static_cast<double>(a.f32()[i]) - b.f32()[i], 2);
  }
  return -10 * std::log10(error / static_cast<double>(a.num_elements()) + 1e-20);
}

std::string all_bytes(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& e : std::filesystem::directory_iterator(folder))
    names.insert(e.path().filename().string());
  std::string out;
  for (const std::string& n : names) out += n + "\n" + read_bytes(folder + "/" + n);
  return out;
}

std::string reason_of(const EncodeReport& report, const std::string& path) {
  for (const SkippedFile& s : report.skipped) {
    if (s.path == path) return s.reason;
  }
  return "not skipped";
}

}  // namespace

TEST_CASE("encode: a latent decodes to the frames that were read, at 90 dB", "[encode]") {
  const TempDir in, out;
  write_clip(in / "a.mp4", 0, 12);
  write_clip(in / "b.mp4", 1, 8, 8, 48, 64);
  const EncodeOptions options = small_options();
  const EncodeReport report = encode_folder(in.path(), out.path(), options);
  CHECK(report.clips_new == 5);
  CHECK(report.skipped.empty());
  const Dataset dataset(out.path());
  REQUIRE(dataset.size() == 5);
  for (std::int64_t i = 0; i < 5; ++i) {
    const SampleRecord& r = dataset.record(i);
    const Tensor decoded = decode_clip(dataset.index().latent, dataset.read_latent(i), r.frames);
    VideoReader reader(in / r.source);
    Tensor original;
    reader.read_clips({r.start_s}, r.frames, r.fps, r.height, r.width,
                      [&](std::size_t, const Tensor& clip) {
                        original = clip;
                        return true;
                      });
    REQUIRE(original.defined());
    CHECK(psnr(original, decoded) >= 90);
  }
  CHECK(check_shards(out.path()).good());
}

TEST_CASE("encode: the result does not depend on the number of threads", "[encode]") {
  const TempDir in, one, three;
  for (std::uint64_t i = 0; i < 7; ++i)
    write_clip(in / dsv::format("v{}.mp4", i), i, 9 + 2 * static_cast<std::int64_t>(i));
  write_bytes(in / "bad.mp4", "no video");
  EncodeOptions options = small_options();
  options.threads = 1;
  encode_folder(in.path(), one.path(), options);
  options.threads = 3;
  encode_folder(in.path(), three.path(), options);
  CHECK(all_bytes(one.path()) == all_bytes(three.path()));
  CHECK(read_index(one.path()).samples.size() >= 14);
}

TEST_CASE("encode: a run that was stopped continues, and a grown folder extends", "[encode]") {
  const TempDir in, whole, parts;
  for (std::uint64_t i = 0; i < 6; ++i) write_clip(in / dsv::format("v{}.mp4", i), i, 12);
  const EncodeOptions options = small_options();
  encode_folder(in.path(), whole.path(), options);
  const ShardIndex expected = read_index(whole.path());
  REQUIRE(expected.samples.size() == 18);
  // Stopped after every possible number of clips, in one chain of runs.
  std::int64_t runs = 0;
  for (;; ++runs) {
    REQUIRE(runs < 20);
    std::int64_t begin = -1;
    const EncodeReport report =
        encode_folder(in.path(), parts.path(), options, [&](const EncodeProgress& p) {
          if (begin < 0) begin = p.files_done;
          return p.clips < 4;  // one whole file, and a piece of the next
        });
    if (!report.stopped) break;
    CHECK(report.files_kept == runs);
    CHECK(check_shards(parts.path()).good());
  }
  CHECK(runs >= 3);
  const ShardIndex resumed = read_index(parts.path());
  REQUIRE(resumed.samples.size() == 18);
  const Dataset a(whole.path()), b(parts.path());
  for (std::int64_t i = 0; i < 18; ++i) {
    CHECK(a.record(i).id == b.record(i).id);
    CHECK(a.record(i).latent_crc32c == b.record(i).latent_crc32c);
  }
  CHECK(resumed.latent == expected.latent);  // the statistics to the last bit: same order of sums
  // Pieces of files that were begun are left in shards, noted and harmless.
  bool noted = false;
  for (const ShardProblem& p : check_shards(parts.path()).problems) noted = noted || p.is_note;
  CHECK(noted);

  write_clip(in / "a_new.mp4", 9, 12);
  const EncodeReport more = encode_folder(in.path(), whole.path(), options);
  CHECK(more.files_kept == 6);
  CHECK(more.clips_new == 3);
  CHECK(more.clips_total == 21);
  CHECK(Dataset(whole.path()).read_latent(20).defined());
  // Other settings do not mix into a set.
  EncodeOptions other = options;
  other.fps = 4;
  CHECK_THROWS_WITH(encode_folder(in.path(), whole.path(), other),
                    Contains("was encoded with fps 8.0, now 4.0"));
  other = options;
  other.wavelet.levels_t = 0;
  CHECK_THROWS_WITH(encode_folder(in.path(), whole.path(), other),
                    Contains("wavelet levels in time 1, now 0"));
  other = options;
  other.dtype = dsv::DType::kBF16;
  CHECK_THROWS_WITH(encode_folder(in.path(), whole.path(), other), Contains("dtype F32, now BF16"));
  other = options;
  other.scale = LatentScale::kShared;
  CHECK_THROWS_WITH(encode_folder(in.path(), whole.path(), other),
                    Contains("scale \"channel\", now \"shared\""));
}

TEST_CASE("encode: a shared scale is that of the channel that varies most", "[encode]") {
  const TempDir in, each, shared;
  for (std::uint64_t i = 0; i < 3; ++i) write_clip(in / dsv::format("v{}.mp4", i), i, 12);
  EncodeOptions options = small_options();
  encode_folder(in.path(), each.path(), options);
  options.scale = LatentScale::kShared;
  encode_folder(in.path(), shared.path(), options);
  const auto largest = [&] {
    const std::vector<double> std = read_index(each.path()).latent.std;
    return *std::max_element(std.begin(), std.end());
  };
  CHECK(read_index(shared.path()).latent.std == std::vector<double>(96, largest()));
  // An extended set keeps it.
  write_clip(in / "w.mp4", 9, 12);
  encode_folder(in.path(), shared.path(), options);
  options.scale = LatentScale::kPerChannel;
  encode_folder(in.path(), each.path(), options);
  CHECK(read_index(shared.path()).latent.std == std::vector<double>(96, largest()));
}

TEST_CASE("encode: killed at any moment, the set stays valid", "[encode]") {
  const TempDir in, out;
  for (std::uint64_t i = 0; i < 4; ++i) write_clip(in / dsv::format("v{}.mp4", i), i, 12);
  EncodeOptions options = small_options();
  options.shard_bytes = 30'000;
  // What a kill leaves behind: an exception out of the callback does not run the final flush
  // either.
  struct Killed {};
  for (const std::int64_t at : {2, 5, 9}) {
    try {
      encode_folder(in.path(), out.path(), options, [&](const EncodeProgress& p) {
        if (p.clips == at) throw Killed();
        return true;
      });
    } catch (const Killed&) {
    }
    if (std::filesystem::exists(out / "index.json")) {
      const CheckReport report = check_shards(out.path());
      CHECK(report.good());
      CHECK(report.num_good == report.num_samples);
    }
  }
  CHECK(read_index(out.path()).samples.size() >= 6);  // not all was lost
  write_bytes(out / "shard_00099.safetensors.tmp-1-1", "half");
  encode_folder(in.path(), out.path(), options);
  const CheckReport report = check_shards(out.path());
  CHECK(report.good());
  CHECK(report.num_good == 12);
  CHECK_FALSE(report.problems.empty());  // the left-overs are noted
}

TEST_CASE("encode: bad files are skipped with their reason", "[encode]") {
  const TempDir in, out;
  write_clip(in / "good.mp4", 0, 12);
  write_clip(in / "short.mp4", 1, 2);
  write_clip(in / "long.mp4", 2, 40);
  const std::string bytes = read_bytes(in / "long.mp4");
  write_bytes(in / "cut.mp4", bytes.substr(0, bytes.size() * 6 / 10));
  std::filesystem::remove(in / "long.mp4");
  write_bytes(in / "empty.mp4", "");
  write_bytes(in / "note.doc", "hello");
  write_bytes(in / "notes.txt", "not tried at all");
  write_bytes(in / ".hidden.mp4", "not tried either");
  write_bytes(in / "videos2caption.json",
              R"([{"path": "good.mp4", "cap": "Good."}, {"path": "gone.mp4", "cap": "x"}])");
  const EncodeReport report = encode_folder(in.path(), out.path(), small_options());
  CHECK(report.files_total == 5);
  CHECK_THAT(reason_of(report, "short.mp4"),
             Contains("too short: 0.25 s (2 frames), the shortest bucket needs 4 frames"));
  CHECK_THAT(reason_of(report, "cut.mp4"), Contains("of 40 frames are in the file"));
  CHECK_THAT(reason_of(report, "empty.mp4"), Contains("the file is empty"));
  CHECK(reason_of(report, "note.doc") != "not skipped");
  CHECK_THAT(reason_of(report, "gone.mp4"), Contains("no such file"));
  CHECK(report.skipped.size() == 5);
  const dsv::Json list = dsv::parse_json(read_bytes(out / "skipped.json"), "skipped");
  CHECK(list.size() == 5);
  std::int64_t kept = 0;
  for (const dsv::Json& s : list.as_array()) kept += s.at("clips_kept").as_int();
  CHECK(kept >= 1);  // of the file that was cut
  CHECK(report.clips_total == 3 + kept);
  // The next run keeps what was said about the file that is in the set in part.
  const EncodeReport again = encode_folder(in.path(), out.path(), small_options());
  CHECK(again.clips_new == 0);
  CHECK_THAT(reason_of(again, "cut.mp4"), Contains("of 40 frames are in the file"));
  CHECK(again.skipped.size() == 5);

  const TempDir none, empty_out;
  CHECK_THROWS_WITH(encode_folder(none.path(), empty_out.path(), small_options()),
                    Contains("no files that could be videos"));
  write_bytes(none / "a.mp4", "x");
  CHECK_THROWS_WITH(encode_folder(none.path(), empty_out.path(), small_options()),
                    Contains("none of 1 files gave a clip"));
  CHECK_THROWS_WITH(encode_folder(none / "absent", empty_out.path(), small_options()),
                    Contains("is not a folder"));
}

TEST_CASE("encode: captions come from the list, a text file, or the folder", "[encode]") {
  const TempDir in;
  for (const char* name : {"listed.mp4", "texted.mp4", "playing_chess/x.mp4", "videos/y.mp4"}) {
    std::filesystem::create_directories(std::filesystem::path(in / name).parent_path());
    write_bytes(in / name, "x");
  }
  write_bytes(
      in / "videos2caption.json",
      R"([{"path":"./listed.mp4","cap":["First one.","Second one."],"fps":3},{"path":"y.mp4","cap":" y\n "}])");
  write_bytes(in / "texted.txt", "  A text\nfile\xff ");
  write_bytes(in / "listed.txt", "the list comes first");
  const Captions captions(in.path());
  CHECK(captions.find("listed.mp4", 0).text == "First one.");
  CHECK(captions.find("listed.mp4", 3).text == "Second one.");
  CHECK(captions.find("listed.mp4", 0).source == CaptionSource::kList);
  CHECK(captions.find("texted.mp4", 0).text == "A text file\xEF\xBF\xBD");
  CHECK(captions.find("playing_chess/x.mp4", 7).text == "playing chess");
  CHECK(captions.find("videos/y.mp4", 0).text == "y");
  CHECK(captions.missing({"listed.mp4"}) == std::vector<std::string>{"y.mp4"});
  for (const auto& [text, reason] : std::vector<std::pair<std::string, std::string>>{
           {"{}", "expected a list"},
           {"[3]", "entry 0: expected an object"},
           {R"([{"cap":"x"}])", "entry 0: expected a string 'path'"},
           {R"([{"path":"a","cap":3}])", "expected a string or a list of strings 'cap'"},
           {R"([{"path":"a","cap":[3]}])", "expected a string or a list of strings 'cap'"},
           {R"([{"path":"a","cap":"x"},{"path":"./a","cap":"x"}])",
            "entry 1: path './a' is listed twice"},
           {"[", "videos2caption.json"}}) {
    write_bytes(in / "videos2caption.json", text);
    CHECK_THROWS_WITH(Captions(in.path()), Contains(reason));
  }
}

TEST_CASE("encode: buckets and starts follow the file", "[encode]") {
  VideoInfo info;
  info.height = 480, info.width = 640, info.aspect = 4.0 / 3;
  info.num_frames = 241, info.last_frame_s = 10, info.period_s = 10.0 / 240,
  info.duration_s = 10.04;
  const auto pick = [&](const std::string& text) {
    return choose_bucket(info, parse_buckets(text), 16);
  };
  CHECK(pick("64x64x16,48x64x16,64x48x16") == 1);
  CHECK(pick("48x64x1,48x64x16,48x64x320") == 1);      // the longest that fits
  CHECK(pick("48x64x16,96x128x16,960x1280x16") == 1);  // the largest that needs no enlarging
  CHECK(pick("960x1280x16,1920x2560x16") == 0);
  CHECK(pick("48x64x320") == -1);
  CHECK(parse_buckets("8x9x10")[0].width == 9);
  for (const char* bad :
       {"", "8x8", "8x8x8x8", "8x8x", "ax8x8", "8x8x8,", "0x8x8", "-8x8x8", "8x8x99999999999"}) {
    INFO(bad);
    CHECK_THROWS_WITH(parse_buckets(bad), Contains("is not a bucket"));
  }
  EncodeOptions o;
  const auto starts = [&](const Bucket& b) { return clip_starts(info, b, o); };
  CHECK(starts({.frames = 16}).size() == 10);
  CHECK(starts({.frames = 16})[9] == 9.0);
  CHECK(starts({.frames = 1}).size() == 11);
  o.clips_per_video = 2;
  CHECK(starts({.frames = 16}).size() == 2);
  CHECK(starts({.frames = 16})[0] == Approx((10 - 15.0 / 16) / 4).margin(0.02));
  o.stride_s = 0.5;
  CHECK(starts({.frames = 16}) == std::vector<double>{0, 0.5});
  o.clips_per_video = 0;
  CHECK(starts({.frames = 16}).size() == 19);
  const auto refusal = [](const std::function<void(EncodeOptions&)>& change) -> std::string {
    EncodeOptions options;
    change(options);
    try {
      validate(options);
      return "";
    } catch (const Error& e) {
      CHECK(e.code() == ExitCode::kConfig);
      return e.what();
    }
  };
  CHECK(refusal([](EncodeOptions&) {}) == "");
  CHECK_THAT(refusal([](EncodeOptions& e) { e.buckets.clear(); }), Contains("at least one bucket"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.buckets[0].frames = 3; }),
             Contains("frames 1 or a multiple of 2"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.buckets.push_back(e.buckets[0]); }),
             Contains("listed twice"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.fps = 0; }), Contains("expected fps"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.stride_s = -1; }), Contains("expected a stride"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.dtype = dsv::DType::kI32; }),
             Contains("expected latents in"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.shard_bytes = 0; }),
             Contains("expected a shard size"));
  CHECK_THAT(refusal([](EncodeOptions& e) { e.threads = -1; }), Contains("expected threads"));
}

TEST_CASE("encode: still images and videos share a set", "[encode]") {
  const TempDir in, out;
  write_clip(in / "still.mp4", 0, 1);
  write_clip(in / "video.mp4", 1, 8);
  EncodeOptions options = small_options();
  options.buckets = parse_buckets("32x32x4,32x32x1");
  encode_folder(in.path(), out.path(), options);
  const Dataset dataset(out.path());
  REQUIRE(dataset.size() == 3);
  CHECK(dataset.record(0).latent_shape == dsv::Shape{96, 1, 8, 8});
  CHECK(dataset.record(1).latent_shape == dsv::Shape{96, 2, 8, 8});
  CHECK(decode_clip(dataset.index().latent, dataset.read_latent(0), 1).shape() ==
        dsv::Shape{3, 1, 32, 32});
  const dsv::Json summary = summarise(dataset.index());
  CHECK(summary.at("buckets").size() == 2);
  CHECK(summary.at("samples").as_int() == 3);
}

TEST_CASE("check: says what is wrong where", "[check]") {
  const TempDir in, out;
  write_clip(in / "a.mp4", 0, 24);
  encode_folder(in.path(), out.path(), small_options());
  const ShardIndex index = read_index(out.path());
  const CheckReport good = check_shards(out.path());
  CHECK(good.good());
  CHECK(good.num_good == 6);
  CHECK(good.problems.empty());
  const std::string path = out / index.samples[0].file;
  std::string bytes = read_bytes(path);
  bytes[bytes.size() - 3] ^= 1;
  write_bytes(path, bytes);
  const CheckReport bad = check_shards(out.path());
  CHECK_FALSE(bad.good());
  REQUIRE(bad.problems.size() == 1);
  CHECK_THAT(bad.problems[0].what, Contains("CRC-32C"));
  CHECK_THAT(bad.problems[0].where, Contains(index.samples[0].file));
  CHECK(bad.num_good == 5);
  std::filesystem::remove(path);
  CHECK_THAT(check_shards(out.path()).problems.at(0).what, Contains("samples are lost"));
  CHECK_THROWS_WITH(check_shards(out / "absent"), Contains("No such file"));
  write_bytes(out / "index.json", "{");
  CHECK_THAT(check_shards(out.path()).problems.at(0).where, Contains("index.json"));
}

TEST_CASE("synth: clips are the same every time, their captions say what is seen", "[synth]") {
  const TempDir a, b;
  SynthOptions options{.count = 3, .seed = 4, .height = 48, .width = 64, .fps = 12, .seconds = 0.5};
  options.threads = 2;
  CHECK(synth(a.path(), options) == 3);
  options.threads = 1;
  CHECK(synth(b.path(), options) == 3);
  CHECK(all_bytes(a.path()) == all_bytes(b.path()));
  // Completing a folder keeps what is there; other settings are refused.
  std::filesystem::remove(b / "clip_00001.mp4");
  CHECK(synth(b.path(), options) == 3);
  CHECK(all_bytes(a.path()) == all_bytes(b.path()));
  SynthOptions other = options;
  other.seed = 5;
  CHECK_THROWS_WITH(synth(a.path(), other), Contains("was made with other settings"));
  const TempDir foreign;
  write_bytes(foreign / "videos2caption.json", "[]");
  CHECK_THROWS_WITH(synth(foreign.path(), options), Contains("did not write"));
  CHECK_THROWS_WITH(synth(a.path(), {.count = 0}), Contains("expected a count"));

  std::set<std::string> captions;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const SynthScene scene = synth_scene(4, i);
    const std::string text = describe(scene);
    captions.insert(text);
    CHECK(split_words(text).size() <= 64);
    for (const SynthObject& o : scene.objects)
      CHECK_THAT(text, Contains(synth_colour_name(o.colour)));
  }
  CHECK(captions.size() > 195);
  // A lone object that goes right, seen by a camera at rest, is where its caption says.
  SynthScene scene;
  SynthObject object;
  object.colour = 0;
  object.dx = 0.6;
  scene.objects = {object};
  CHECK(describe(scene) == "a small red circle moves right, over a dark background");
  const Tensor frame = host_tensor({3, 64, 64});
  double centre[2] = {};
  for (int end = 0; end < 2; ++end) {
    render(scene, end, frame);
    double weight = 0;
    for (int i = 0; i < 64 * 64; ++i) {
      const double red = frame.f32()[i] > 0.6f ? 1 : 0;
      weight += red;
      centre[end] += red * (i % 64);
    }
    CHECK(weight == Approx(3.14159 * 9 * 9).epsilon(0.05));  // radius 0.14 of 64 pixels
    centre[end] /= weight;
  }
  CHECK(centre[1] - centre[0] == Approx(0.6 * 64).margin(0.5));
}

TEST_CASE("encode: real clips of other people's cameras", "[encode][real]") {
  // tools/fetch_test_clips BUILD_DIR puts them there.
  const char* given = std::getenv("DSV_TEST_CLIPS");
  const std::filesystem::path clips =
      given != nullptr
          ? std::filesystem::path(given)
          : std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() /
                "test_clips";
  if (!std::filesystem::exists(clips / "bikes.mp4")) {
    WARN("SKIPPED: no real clips in " << clips.string()
                                      << "; run tools/fetch_test_clips BUILD_DIR");
    return;
  }
  const TempDir out;
  EncodeOptions options;
  options.buckets = parse_buckets("64x64x16,64x112x16");
  options.clips_per_video = 4;
  const EncodeReport report = encode_folder(clips.string(), out.path(), options);
  CHECK(report.files_total >= 3);
  CHECK(report.skipped.empty());
  CHECK(report.clips_total >= 8);
  CHECK(check_shards(out.path()).good());
  const Dataset dataset(out.path());
  for (std::int64_t i = 0; i < dataset.size(); i += 3) {
    const SampleRecord& r = dataset.record(i);
    VideoReader reader((clips / r.source).string());
    reader.read_clips(
        {r.start_s}, r.frames, r.fps, r.height, r.width, [&](std::size_t, const Tensor& clip) {
          CHECK(psnr(clip, decode_clip(dataset.index().latent, dataset.read_latent(i), r.frames)) >=
                90);
          return true;
        });
  }
}
