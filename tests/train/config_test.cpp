#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "dsv/base/error.h"
#include "dsv/train/config_io.h"
#include "support/catch.h"
#include "train/temporary_folder.h"

using namespace dsv;
using namespace dsv::train;
using test::read_text;
using test::TemporaryFolder;
using test::write_text;

namespace {

const std::string kRoot = DSV_SOURCE_DIR;

// Writes a file into the folder and gives its path.
std::string write_in(const TemporaryFolder& folder, const std::string& name,
                     const std::string& text) {
  write_text(folder / name, text);
  return folder / name;
}

// The message of the Error(kConfig); "" when nothing is thrown.
template <typename Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kConfig);
    return e.what();
  }
  return "";
}

// Every leaf of the JSON form as "section.key" (buckets count as one).
std::vector<std::string> paths_of(const Json& json) {
  std::vector<std::string> paths;
  for (const auto& [section, members] : json.as_object()) {
    for (const auto& [key, value] : members.as_object()) paths.push_back(section + "." + key);
  }
  return paths;
}

const Json& at_path(const Json& json, const std::string& path) {
  const auto dot = path.find('.');
  return json.at(path.substr(0, dot)).at(path.substr(dot + 1));
}

// A valid value other than the default for every field, with what makes it count.
struct Change {
  std::string path;
  std::string value;
  std::vector<std::string> also = {};
};

const std::vector<Change>& changes() {
  const std::string by_table = "diffusion.loss_weighting=by_table";
  const std::string scaled = "diffusion.shift_scaling=resolution_and_frames";
  const std::string sparse = "attention.policy=dsv";
  const std::string cosine = "optim.schedule=cosine", dsv = "model.preset=dsv-0.8b";
  static const std::vector<Change> kChanges{
      {"run.name", "other"},
      {"run.dir", "/data/my runs: all"},
      {"run.seed", "18446744073709551615"},
      {"run.steps", "12345678901"},
      {"run.device", "cpu"},
      {"run.threads", "3"},
      {"run.determinism", "fast"},
      {"precision.compute", "f32"},
      {"model.preset", "wan-14b"},
      {"model.num_layers", "5"},
      {"model.num_heads", "8"},
      {"model.head_dim", "64"},
      {"model.ffn_dim", "640"},
      {"model.ffn", "geglu"},
      {"model.in_channels", "48", {"model.out_channels=48"}},
      {"model.out_channels", "192", {"model.learn_sigma=true"}},
      {"model.learn_sigma", "true", {"model.out_channels=192"}},
      {"model.family", "dsv", {"model.qk_norm=false", "model.cross_attn_norm=false"}},
      {"model.patch_size", "[2, 1, 4]"},
      {"model.text_dim", "128"},
      {"model.text_len", "32"},
      {"model.freq_dim", "128"},
      {"model.eps", "3e-7"},
      {"model.cross_attn_norm", "false"},
      {"model.qk_norm", "false"},
      {"model.pos_base_size", "[8, 12]", {dsv}},
      {"model.pos_interpolation_scale", "0.3", {dsv}},
      {"model.checkpointing", "keep_attention"},
      {"attention.policy", "dsv"},
      {"attention.window", "two_thirds", {"attention.policy=window"}},
      {"attention.granularity", "64", {sparse}},
      {"attention.group_cubes", "2", {sparse}},
      {"attention.cube_path", "raster", {sparse}},
      {"sparsity.count", "fixed", {sparse}},
      {"sparsity.mass", "0.95", {sparse}},
      {"sparsity.min_density", "0.05", {sparse}},
      {"sparsity.max_density", "0.4", {sparse}},
      {"sparsity.force_density", "0.1", {sparse}},
      {"sparsity.profile", "/data/h100.json", {sparse}},
      {"sparsity.allow_stale", "true", {sparse, "sparsity.profile=p.json"}},
      {"sparsity.break_even_density", "0.3", {sparse}},
      {"sparsity.min_steps", "7", {sparse}},
      {"sparsity.max_steps", "70", {sparse}},
      {"sparsity.loss_threshold", "0.02", {sparse}},
      {"sparsity.loss_ema", "0.9", {sparse}},
      {"sparsity.covered_blocks", "1", {sparse}},
      {"sparsity.coverage_min", "0.9", {sparse}},
      {"sparsity.coverage_every", "10", {sparse}},
      {"sparsity.profile_every", "50", {sparse}},
      {"sparsity.profile_groups", "4", {sparse}},
      {"sparsity.ema", "0.5", {sparse}},
      {"sparsity.predictor_rank", "8", {sparse}},
      {"sparsity.predictor_input", "hidden", {sparse}},
      {"sparsity.predictor_center", "true", {sparse}},
      {"sparsity.predictor_proxy", "centre", {sparse}},
      {"sparsity.predictor_sample_every", "32", {sparse}},
      {"sparsity.predictor_lr_factor", "0.5", {sparse}},
      {"diffusion.timestep_sampling", "uniform"},
      {"diffusion.logit_mean", "-0.1"},
      {"diffusion.logit_std", "0.7"},
      {"diffusion.mode_scale", "0.81", {"diffusion.timestep_sampling=mode"}},
      {"diffusion.shift", "5"},
      {"diffusion.shift_scaling", "resolution_and_frames"},
      {"diffusion.shift_base_pixels", "4096", {scaled}},
      {"diffusion.shift_base_frames", "2.5", {scaled}},
      {"diffusion.loss_weighting", "by_table", {"diffusion.loss_weight_table=[1, 1]"}},
      {"diffusion.loss_weight_table", "[0.1, 1, 3e-5]", {by_table}},
      {"diffusion.cfg_dropout", "0"},
      {"data.shards", "/data/my shards"},
      {"data.buckets", "{480x832: {81: [0.1, 16], 1: [0.2, 64]}, 64x64: {16: [1, 3]}}"},
      {"data.batch", "6"},
      {"data.micro_batch", "2"},
      {"data.prefetch", "9"},
      {"data.threads", "2"},
      {"data.verify_crc", "false"},
      {"data.held_out_percent", "2.5"},
      {"optim.lr", "0.1"},
      {"optim.beta1", "0.95"},
      {"optim.beta2", "0.95"},
      {"optim.eps", "1e-15"},
      {"optim.weight_decay", "0"},
      {"optim.grad_clip", "0"},
      {"optim.schedule", "linear"},
      {"optim.warmup_steps", "0"},
      {"optim.decay_steps", "77", {cosine}},
      {"optim.min_lr_ratio", "0.25", {cosine}},
      {"optim.ema", "false"},
      {"optim.ema_decay", "0.9999"},
      {"checkpoint.every_steps", "0"},
      {"checkpoint.keep", "1"},
      {"checkpoint.async", "false"},
      {"checkpoint.verify_after_save", "false"},
      {"resume.mode", "required"},
      {"resume.allow", "[optim.lr, data.shards]"},
      {"resume.fallback", "strict"},
      {"log.every_steps", "10"},
      {"log.tensorboard", "false"},
      {"log.progress", "off"},
      {"log.level", "debug"},
      {"log.all_ranks", "true"},
      {"eval.every_steps", "0"},
      {"eval.max_samples", "0"},
      {"eval.quantiles", "3"},
      {"sample.every_steps", "50"},
      {"sample.prompts", R"(["a \"red\" square\nturns", 'true', "", "naïve ☃"])"},
      {"sample.steps", "7"},
      {"sample.cfg_scale", "1"},
      {"sample.count", "1"},
      {"sample.fps", "23.976"},
      {"parallel.dp", "2"},
      {"watchdog.enabled", "false"},
      {"watchdog.init_seconds", "60"},
      {"watchdog.load_seconds", "0.5"},
      {"watchdog.step_seconds", "30"},
      {"watchdog.first_step_factor", "1"},
      {"watchdog.save_seconds", "86400"},
      {"watchdog.sample_seconds", "1"},
  };
  return kChanges;
}

// Fields with one valid value.
const std::set<std::string> kFixed{"parallel.cp"};

Config with(const Change& change) {
  std::vector<std::string> sets = change.also;
  sets.push_back(change.path + "=" + change.value);
  return load_config({}, sets);
}

}  // namespace

TEST_CASE("defaults are valid and equal the structs'", "[config]") {
  CHECK_NOTHROW(validate(Config{}));
  CHECK(dump_config(load_config({}, {})) == dump_config(Config{}));
  CHECK(paths_of(config_json(Config{})).size() == changes().size() + kFixed.size());
}

TEST_CASE("every field is set, dumped, read back, and told apart", "[config]") {
  std::set<std::string> covered = kFixed;
  const Json defaults = config_json(Config{});
  for (const Change& change : changes()) {
    CAPTURE(change.path);
    covered.insert(change.path);
    const Config changed = with(change);
    const Json json = config_json(changed);
    CHECK(!(at_path(json, change.path) == at_path(defaults, change.path)));

    // YAML and JSON read back equal, and dump the same text again.
    const std::string dumped = dump_config(changed);
    CHECK(config_json(parse_config(dumped, "dump")) == json);
    CHECK(dump_config(parse_config(dumped, "dump")) == dumped);
    CHECK(config_json(parse_config(json.dump(1), "json")) == json);

    const auto differences = config_differences(Config{}, changed);
    const auto found =
        std::find_if(differences.begin(), differences.end(),
                     [&](const ConfigDifference& d) { return d.path == change.path; });
    REQUIRE(found != differences.end());
    CHECK(found->old_value != found->new_value);
    CHECK(config_differences(changed, changed).empty());
  }
  const auto all = paths_of(defaults);
  CHECK(covered == std::set<std::string>(all.begin(), all.end()));
}

TEST_CASE("values arrive exactly", "[config]") {
  const Config c = load_config(
      {}, {"run.seed=18446744073709551615", "run.steps=999999999999", "optim.lr=0.1",
           "model.eps=1e-6", "run.name=\"007\"", "run.dir=true", "diffusion.shift=+2",
           "diffusion.cfg_dropout=.5", "diffusion.logit_mean=-0.25", "model.patch_size=[1,4,2]"});
  CHECK(c.run.seed == UINT64_MAX);
  CHECK(c.run.steps == 999'999'999'999);
  CHECK(c.optim.lr == 0.1);
  CHECK(c.model.eps == 1e-6f);
  CHECK(c.run.name == "007");
  CHECK(c.run.dir == "true");
  CHECK(c.diffusion.shift == 2.0);
  CHECK(c.diffusion.cfg_dropout == 0.5);
  CHECK(c.diffusion.logit_mean == -0.25);
  CHECK(c.model.patch_size == std::array<std::int64_t, 3>{1, 4, 2});
}

TEST_CASE("buckets are read in either form and sorted", "[config]") {
  const Config c = parse_config(R"(
data:
  buckets:
    480x832:
      81: {batch: 2, probability: 0.25}
      1: [0.5, 16]
    64x64: {16: [1, 4]}
)",
                                "memory");
  const std::vector<data::Bucket> expected{
      {64, 64, 16, 1.0, 4}, {480, 832, 1, 0.5, 16}, {480, 832, 81, 0.25, 2}};
  CHECK(c.data.buckets == expected);
  CHECK(parse_config("data: {buckets: {}}", "memory").data.buckets.empty());
}

TEST_CASE("later layers win, settings come last", "[config]") {
  const TemporaryFolder folder;
  const std::string base = write_in(folder, "base.yaml", R"(
run: {seed: 1, steps: 10}
optim: {lr: 1.0e-3, beta1: 0.8}
)");
  const std::string over = write_in(folder, "over.yaml", "run: {seed: 2}\noptim: {lr: 2.0e-3}\n");
  const Config c = load_config({base, over}, {"optim.lr=3e-3", "optim.lr=4e-3"});
  CHECK(c.run.seed == 2);
  CHECK(c.run.steps == 10);
  CHECK(c.optim.lr == 4e-3);
  CHECK(c.optim.beta1 == 0.8);
  CHECK(load_config({over, base}, {}).run.seed == 1);
}

TEST_CASE("a layer that names a preset starts the model afresh", "[config]") {
  const TemporaryFolder folder;
  const std::string base = write_in(
      folder, "base.yaml", "model:\n  num_layers: 7\n  preset: wan-1.3b\n  text_len: 64\n");
  const Config first = load_config({base}, {});
  CHECK(first.model.num_layers == 7);  // the preset comes first wherever it stands
  CHECK(first.model.num_heads == 12);
  const Config second = load_config({base}, {"model.preset=wan-14b", "model.ffn_dim=100"});
  CHECK(second.model.num_layers == 40);
  CHECK(second.model.text_len == 512);
  CHECK(second.model.ffn_dim == 100);
  const Config kept = load_config({base}, {"model.text_dim=8"});
  CHECK(kept.model.num_layers == 7);
  CHECK(kept.model.text_dim == 8);
  // What the first layer set and the second threw away is not to blame for anything.
  const std::string odd = write_in(folder, "odd.yaml", "model: {head_dim: 33}\n");
  CHECK(refusal([&] { load_config({odd}, {"model.preset=wan-1.3b"}); }) == "");
}

TEST_CASE("a run is named after the first file unless a layer names it", "[config]") {
  const TemporaryFolder folder;
  const std::string file = write_in(folder, "my run!.v2.yaml", "run: {seed: 1}\n");
  const std::string named = write_in(folder, "b.yaml", "run: {name: named}\n");
  CHECK(load_config({file}, {}).run.name == "my-run-.v2");
  CHECK(load_config({file, named}, {}).run.name == "named");
  CHECK(load_config({named, file}, {}).run.name == "named");
  CHECK(load_config({file}, {"run.name=x"}).run.name == "x");
  CHECK(load_config({}, {}).run.name == "run");
  CHECK(load_config({write_in(folder, "..yaml", "run: {seed: 1}\n")}, {}).run.name == "run");
}

TEST_CASE("anchors and aliases work within limits", "[config]") {
  const Config c = parse_config("run: {steps: &n 40}\noptim: {warmup_steps: *n}\n", "memory");
  CHECK(c.optim.warmup_steps == 40);
}

TEST_CASE("byte order mark, line ends, and document marks are no obstacle", "[config]") {
  CHECK(parse_config("\xef\xbb\xbfrun:\r\n  seed: 3\r\n", "memory").run.seed == 3);
  CHECK(parse_config("---\nrun: {seed: 3}\n...\n", "memory").run.seed == 3);
  CHECK(parse_config("run: {seed: 3} # comment", "memory").run.seed == 3);
}

TEST_CASE("settings of the command line are refused by name", "[config]") {
  const auto set = [](const char* text) { return refusal([&] { load_config({}, {text}); }); };
  CHECK_THAT(set("optim.lr=fast"),
             Contains("--set optim.lr=fast: optim.lr: expected a finite number"));
  CHECK_THAT(set("optim.rl=1"), Contains("unknown key; did you mean optim.lr?"));
  CHECK_THAT(set("lr=1"), Contains("did you mean optim.lr?"));
  CHECK_THAT(set("optm.lr=1"), Contains("did you mean optim.lr?"));
  CHECK_THAT(set("optim.lr"), Contains("expected --set section.key=value"));
  CHECK_THAT(set("=1"), Contains("expected --set section.key=value"));
  CHECK_THAT(set(""), Contains("expected --set section.key=value"));
  CHECK_THAT(set("optim.lr="), Contains("expected a finite number, got nothing"));
  CHECK_THAT(set("optim=1"), Contains("expected section.key"));
  CHECK_THAT(set("model.patch_size=[1,2"), Contains("--set model.patch_size=[1,2"));
  CHECK_THAT(set("run.name=a b"), Contains("run.name: expected 1 … 100 letters"));
  CHECK_THAT(set("run.determinism=canonical"),
             Contains("expected layout, fast, got 'canonical': it is not built yet"));
}

TEST_CASE("all problems of a configuration come at once, each with its place", "[config]") {
  const TemporaryFolder folder;
  const std::string file = write_in(folder, "bad.yaml", R"(
optim:
  lr: fast
  beta3: 0.9
run:
  steps: -1
)");
  const std::string message = refusal([&] { load_config({file}, {"data.batch=0"}); });
  CHECK(message == file + ":3:7: optim.lr: expected a finite number, got 'fast'\n" +           //
                       file + ":4:3: optim.beta3: unknown key; did you mean optim.beta1?\n" +  //
                       file + ":6:10: run.steps: expected 1 … 1e12, got -1\n" +
                       "--set data.batch=0: data.batch: expected 1 … 1000000, got 0");
}

TEST_CASE("a struct out of range is refused without any file", "[config]") {
  const auto edited = [](auto edit) {
    Config c;
    edit(c);
    return refusal([&] { validate(c); });
  };
  CHECK_THAT(edited([](Config& c) { c.optim.lr = std::nan(""); }),
             Contains("[config] optim.lr: expected 0 … 10"));
  CHECK_THAT(edited([](Config& c) { c.diffusion.shift = INFINITY; }), Contains("diffusion.shift"));
  CHECK_THAT(edited([](Config& c) { c.data.buckets.push_back({}), c.data.buckets.push_back({}); }),
             Contains("data.buckets: 64x64, 16 frames: expected each shape once, got it twice"));
  CHECK_THAT(edited([](Config& c) { c.run.name = "../x"; }), Contains("run.name"));
  CHECK_THAT(edited([](Config& c) { c.model.head_dim = 33; }),
             Contains("model.head_dim: expected an even number"));
  CHECK_THAT(edited([](Config& c) { c.model.preset = "x"; }), Contains("model.preset"));
  CHECK_THAT(edited([](Config& c) { c.resume.allow = {"optim.Lr"}; }),
             Contains("did you mean optim.lr?"));
}

TEST_CASE("the table's ranges of the model are those that the model accepts", "[config]") {
  // Edges and beyond, for each integer field: the model's own check and the table's must agree.
  const Config base;
  for (const std::string& path : paths_of(config_json(base))) {
    if (!path.starts_with("model.") || !at_path(config_json(base), path).is_integer()) continue;
    for (const std::string value : {"0", "-1", "100000000"}) {
      CAPTURE(path, value);
      const std::string by_table = refusal([&] { load_config({}, {path + "=" + value}); });
      REQUIRE_THAT(by_table, Contains(path + ": expected "));
      const auto range_at = by_table.find("expected ");
      const std::string range = by_table.substr(range_at, by_table.find(", got") - range_at);
      Config c;
      const auto number = std::stoll(value);
      if (path == "model.num_layers") c.model.num_layers = number;
      if (path == "model.num_heads") c.model.num_heads = number;
      if (path == "model.head_dim") c.model.head_dim = number;
      if (path == "model.ffn_dim") c.model.ffn_dim = number;
      if (path == "model.in_channels") c.model.in_channels = number;
      if (path == "model.out_channels") c.model.out_channels = number;
      if (path == "model.text_dim") c.model.text_dim = number;
      if (path == "model.text_len") c.model.text_len = number;
      if (path == "model.freq_dim") c.model.freq_dim = number;
      CHECK_THAT(refusal([&] { model::validate(c.model); }), Contains(path + ": " + range + ","));
    }
  }
}

TEST_CASE("auto becomes what this machine has", "[config]") {
  const Config cpu = resolve_auto(Config{}, false);
  CHECK(cpu.run.device == DeviceChoice::kCpu);
  CHECK(cpu.precision.compute == Compute::kF32);
  const Config cuda = resolve_auto(Config{}, true);
  CHECK(cuda.run.device == DeviceChoice::kCuda);
  CHECK(cuda.precision.compute == Compute::kBF16);
  Config bf16;
  bf16.precision.compute = Compute::kBF16;
  CHECK_NOTHROW(resolve_auto(bf16, true));
  CHECK_THAT(refusal([&] { resolve_auto(bf16, false); }),
             Contains("precision.compute: expected f32"));
  Config f32;
  f32.precision.compute = Compute::kF32;
  CHECK(resolve_auto(f32, true).precision.compute == Compute::kF32);
}

TEST_CASE("drift decides what may be resumed", "[config]") {
  const auto drift_of = [](const Config& changed, const std::string& path) {
    for (const ConfigDifference& d : config_differences(Config{}, changed)) {
      if (d.path == path) return d.drift;
    }
    FAIL("no difference in " << path);
    return Drift::kFree;
  };
  const auto of = [&](const std::string& path) {
    for (const Change& change : changes()) {
      if (change.path == path) return drift_of(with(change), path);
    }
    FAIL("no change of " << path);
    return Drift::kFree;
  };
  // The matrix of faults: model shape; lr, batch, data; layout, precision, logging, intervals.
  for (const char* path : {"model.num_layers", "model.eps", "optim.ema"}) {
    CHECK(of(path) == Drift::kModel);
  }
  for (const char* path : {"optim.lr", "data.batch", "data.shards", "data.buckets", "run.seed",
                           "diffusion.shift", "data.held_out_percent"}) {
    CHECK(of(path) == Drift::kTraining);
  }
  for (const char* path :
       {"parallel.dp", "run.threads", "precision.compute", "log.level", "checkpoint.every_steps", "run.steps", "run.dir",
        "data.micro_batch", "model.checkpointing", "model.preset", "eval.quantiles"}) {
    CHECK(of(path) == Drift::kFree);
  }
  // The length of a schedule that ends at run.steps.
  CHECK(drift_of(load_config({}, {"run.steps=500", "optim.schedule=cosine"}), "run.steps") ==
        Drift::kTraining);
  CHECK(drift_of(load_config({}, {"run.steps=500", "optim.schedule=cosine", "optim.decay_steps=9"}),
                 "run.steps") == Drift::kFree);
}

TEST_CASE("resuming is refused with the differences, or allowed by name", "[config]") {
  const Config changed = load_config({}, {"optim.lr=0.5", "data.batch=7", "log.level=warn"});
  const auto differences = config_differences(Config{}, changed);
  CHECK(differences.size() == 3);
  CHECK_NOTHROW(require_resumable(differences, {"optim.lr", "data.batch"}));
  try {
    require_resumable(differences, {"data.batch"});
    FAIL("not refused");
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kResumeRefused);
    CHECK_THAT(e.what(), Contains("optim.lr: checkpoint 1.0e-04, now 0.5"));
    CHECK_THAT(e.what(), Contains("resume.allow: [optim.lr]"));
    CHECK_THAT(e.what(), !Contains("log.level") && !Contains("data.batch:"));
  }
  // run.steps needs leave where a schedule's length follows from it, and can be given it.
  const Config longer = load_config(
      {}, {"run.steps=500", "optim.schedule=cosine", "resume.allow=[run.steps, optim.schedule]"});
  CHECK_NOTHROW(
      require_resumable(config_differences(Config{}, longer), longer.resume.allow));
  const auto shape = config_differences(Config{}, load_config({}, {"model.num_layers=5"}));
  try {
    require_resumable(shape, {"model.num_layers"});  // cannot be allowed
    FAIL("not refused");
  } catch (const Error& e) {
    CHECK(e.code() == ExitCode::kResumeRefused);
    CHECK_THAT(e.what(),
               Contains("model.num_layers: checkpoint 4, now 5 (the stored state does not fit)"));
    CHECK_THAT(e.what(), !Contains("resume.allow"));
  }
}

TEST_CASE("every file in configs/ loads", "[config]") {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kRoot + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    CAPTURE(entry.path().string());
    names.insert(entry.path().stem());
    const Config config = load_config({entry.path()}, {});
    CHECK(config.run.name == entry.path().stem());
    CHECK(config_json(parse_config(dump_config(config), "dump")) == config_json(config));
    CHECK_THAT(read_text(entry.path()), Contains("# ") && Contains("dsv train configs/"));
  }
  for (const char* name :
       {"tiny-cpu", "quickstart", "quality-cpu", "dsv-0.8b", "dsv-2.7b", "dsv-30b", "wan-1.3b"}) {
    CHECK(names.contains(name));
  }
}

TEST_CASE("docs/config.md is what the table says", "[config]") {
  INFO("run: dsv train --config-reference > docs/config.md");
  CHECK((read_text(kRoot + "/docs/config.md") == config_reference_markdown()));
}

TEST_CASE("the reference names every field once", "[config]") {
  const std::string text = config_reference_markdown();
  for (const std::string& path : paths_of(config_json(Config{}))) {
    const auto dot = path.find('.');
    const auto section = text.find("\n## " + path.substr(0, dot) + "\n");
    REQUIRE(section != std::string::npos);
    const auto row = text.find("| `" + path.substr(dot + 1) + "` |", section);
    CAPTURE(path);
    CHECK(row < text.find("\n## ", section + 1));
  }
}
