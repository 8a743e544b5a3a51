// dsv data synth | encode | check | stats: from video files to shards, and what is in them.
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "data_text.h"
#include "dsv/base/error.h"
#include "dsv/data/synth.h"

namespace dsv::cli {
namespace {

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void read_size(const std::string& text, std::int64_t* height, std::int64_t* width) {
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, *height);
  if (first.ec == std::errc() && first.ptr != end && *first.ptr == 'x') {
    const auto second = std::from_chars(first.ptr + 1, end, *width);
    if (second.ec == std::errc() && second.ptr == end) return;
  }
  throw_error(ExitCode::kConfig, "--size: expected HEIGHTxWIDTH, for example 128x128, got '{}'",
              text);
}

void add_synth(CLI::App& data, Invocation& invocation) {
  struct Options {
    std::string folder, size = "128x128";
    data::SynthOptions synth;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = data.add_subcommand("synth", "Write synthetic captioned .mp4 clips");
  command->add_option("DIR", o->folder, "Folder for the clips and videos2caption.json")->required();
  command->add_option("-n,--count", o->synth.count, "Clips")->capture_default_str();
  command->add_option("--seed", o->synth.seed, "The same seed makes the same clips")
      ->capture_default_str();
  command->add_option("--size", o->size, "HEIGHTxWIDTH in pixels")->capture_default_str();
  command->add_option("--fps", o->synth.fps, "Frames per second")->capture_default_str();
  command->add_option("--seconds", o->synth.seconds, "Length of a clip")->capture_default_str();
  command->add_option("--crf", o->synth.crf, "Quality of H.264: 0 lossless, 51 worst")
      ->capture_default_str();
  command->add_option("--threads", o->synth.threads, "0: all cores")->capture_default_str();
  command->footer(
      "Textured shapes move, spin and cover each other under a panning camera; captions describe "
      "them.\n"
      "Examples:\n  dsv data synth clips -n 256\n"
      "  dsv data synth clips -n 2000 --size 96x160 --seconds 4 --seed 7");
  command->callback([o, &invocation] {
    read_size(o->size, &o->synth.height, &o->synth.width);
    const StopRequest stop;
    std::int64_t written = 0;
    {
      WorkProgress progress("synth");
      written = data::synth(o->folder, o->synth, [&](std::int64_t done) {
        progress.update(done, o->synth.count, "clips", "");
        return !stop.requested();
      });
    }
    print(format("{} clips in {}\n", written, o->folder));
    if (written < o->synth.count) {
      print("stopped before the end; the same command continues\n");
      invocation.exit_code = static_cast<int>(ExitCode::kStopped);
    }
  });
}

void add_encode(CLI::App& data, Invocation& invocation) {
  struct Options {
    std::string folder, out, buckets = "64x64x16", scale = "channel", dtype = "F32";
    std::int64_t shard_mb = 256;
    bool strict = false;
    data::EncodeOptions encode;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command =
      data.add_subcommand("encode", "Turn a folder of videos into shards of latents");
  command->add_option("DIR", o->folder, "Folder of videos and images, searched recursively")
      ->required();
  command->add_option("-o,--out", o->out, "Folder of the shard set")->required();
  command
      ->add_option("--buckets", o->buckets,
                   "Shapes of clips, HEIGHTxWIDTHxFRAMES,…; each file takes the one that fits best")
      ->capture_default_str();
  command->add_option("--fps", o->encode.fps, "Frames per second of clips")->capture_default_str();
  command
      ->add_option("--levels-t", o->encode.wavelet.levels_t,
                   "Wavelet levels in time: frames / 2^levels")
      ->capture_default_str();
  command
      ->add_option("--levels-s", o->encode.wavelet.levels_s,
                   "Wavelet levels in space: sides / 2^levels")
      ->capture_default_str();
  command
      ->add_option("--clips-per-video", o->encode.clips_per_video,
                   "At most this many per file, spread over it; 0: all that fit")
      ->capture_default_str();
  command
      ->add_option("--stride", o->encode.stride_s,
                   "Seconds between the starts of clips; 0: they do not overlap")
      ->capture_default_str();
  command
      ->add_option("--scale", o->scale,
                   "Divide latents by the standard deviation of each 'channel', or by a 'shared' "
                   "one, the largest: keeps fine bands small, learns structure first")
      ->capture_default_str();
  command->add_option("--dtype", o->dtype, "Of stored latents: F32, BF16 or F16")
      ->capture_default_str();
  command
      ->add_option("--text-dim", o->encode.text.dim,
                   "Width of hashed word embeddings (model.text_dim)")
      ->capture_default_str();
  command
      ->add_option("--text-len", o->encode.text.max_len,
                   "Words per caption at most (model.text_len)")
      ->capture_default_str();
  command->add_option("--shard-mb", o->shard_mb, "Size at which a shard is closed, in MB")
      ->capture_default_str();
  command->add_option("--threads", o->encode.threads, "0: all cores")->capture_default_str();
  command->add_flag("--strict", o->strict, "Exit code 10 when any file was skipped or cut");
  command->footer(
      "Captions: videos2caption.json ([{\"path\": …, \"cap\": …}]), else NAME.txt beside NAME.mp4, "
      "else the "
      "folder's name.\nA run that was stopped continues with the same command; new files extend "
      "the set.\n"
      "Examples:\n  dsv data encode clips -o shards\n"
      "  dsv data encode clips -o shards --buckets 64x64x16,64x112x16,64x64x1 --fps 8 "
      "--clips-per-video 4");
  command->callback([o, &invocation] {
    o->encode.buckets = data::parse_buckets(o->buckets);
    const auto dtype = parse_dtype(o->dtype);
    if (!dtype)
      throw_error(ExitCode::kConfig, "--dtype: expected F32, BF16 or F16, got '{}'", o->dtype);
    o->encode.dtype = *dtype;
    if (o->scale != "channel" && o->scale != "shared") {
      throw_error(ExitCode::kConfig, "--scale: expected channel or shared, got '{}'", o->scale);
    }
    o->encode.scale =
        o->scale == "shared" ? data::LatentScale::kShared : data::LatentScale::kPerChannel;
    if (o->shard_mb < 1 || o->shard_mb > 65536) {
      throw_error(ExitCode::kConfig, "--shard-mb: expected a size in [1, 65536], got {}",
                  o->shard_mb);
    }
    o->encode.shard_bytes = o->shard_mb * 1'000'000;
    const StopRequest stop;
    data::EncodeReport report;
    {
      WorkProgress progress("encode");
      std::int64_t before = -1;
      report =
          data::encode_folder(o->folder, o->out, o->encode, [&](const data::EncodeProgress& p) {
            if (before < 0) before = p.files_done;
            progress.update(p.files_done, p.files_total, "files",
                            format("{} clips, {:.1f}/s{}", p.clips,
                                   p.seconds > 0 ? static_cast<double>(p.clips) / p.seconds : 0.0,
                                   p.skipped > 0 ? format(", {} skipped", p.skipped) : ""),
                            before);
            return !stop.requested();
          });
    }
    print(encode_text(report, o->out));
    if (report.stopped) {
      invocation.exit_code = static_cast<int>(ExitCode::kStopped);
    } else if (o->strict && !report.skipped.empty()) {
      invocation.exit_code = static_cast<int>(ExitCode::kCorruptInput);
    }
  });
}

void add_check(CLI::App& data, Invocation& invocation) {
  struct Options {
    std::string folder;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command = data.add_subcommand("check", "Read every byte of a shard set and verify it");
  command->add_option("SHARDS", o->folder, "Folder of the shard set")->required();
  command->add_flag("--json", o->json, "Print JSON for programs");
  command->footer(
      "Exit code 10 when anything is damaged or missing.\nExample:\n  dsv data check shards");
  command->callback([o, &invocation] {
    const StopRequest stop;
    data::CheckReport report;
    {
      WorkProgress progress("check");
      report = data::check_shards(o->folder, [&](std::int64_t done, std::int64_t total) {
        progress.update(done, total, "samples", "");
        return !stop.requested();
      });
    }
    print(o->json ? check_json(report).dump(1) + "\n" : check_text(report, o->folder));
    if (stop.requested()) {
      invocation.exit_code = static_cast<int>(ExitCode::kStopped);
    } else if (!report.good()) {
      invocation.exit_code = static_cast<int>(ExitCode::kCorruptInput);
    }
  });
}

void add_stats(CLI::App& data) {
  struct Options {
    std::string folder;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  CLI::App* command =
      data.add_subcommand("stats", "Shapes, durations, latents and captions of a shard set");
  command->add_option("SHARDS", o->folder, "Folder of the shard set")->required();
  command->add_flag("--json", o->json, "Print JSON for programs");
  command->footer("Example:\n  dsv data stats shards --json");
  command->callback([o] {
    const Json summary = data::summarise(data::read_index(o->folder));
    print(o->json ? summary.dump(1) + "\n" : stats_text(summary, o->folder));
  });
}

}  // namespace

void add_data_command(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("data", "Make, encode and check training data");
  command->require_subcommand(1);
  command->footer(
      "Example:\n  dsv data synth clips -n 256 && dsv data encode clips -o shards && dsv data "
      "stats shards");
  add_synth(*command, invocation);
  add_encode(*command, invocation);
  add_check(*command, invocation);
  add_stats(*command);
}

}  // namespace dsv::cli
