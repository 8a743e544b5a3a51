#include "dsv/data/shard_check.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <tuple>
#include <unordered_set>

#include "dsv/data/dataset.h"
#include "dsv/data/safetensors.h"

namespace dsv::data {
namespace {

namespace fs = std::filesystem;

// Files in the folder that the index does not name, tensors in named shards that no sample uses.
void note_unused(const std::string& folder, const ShardIndex& index,
                 const std::set<std::string>& shards, CheckReport* report) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const bool shard = name.size() > 12 && name.compare(name.size() - 12, 12, ".safetensors") == 0;
    if ((shard && shards.count(name) == 0) || name.find(".tmp-") != std::string::npos) {
      report->problems.push_back(
          {folder + "/" + printable(name),
           "the index does not name it: left by a run that was cut off, or an "
           "encode is running; safe to delete otherwise",
           true});
    }
  }
  std::unordered_set<std::string> used;
  for (const SampleRecord& r : index.samples) {
    used.insert(r.latent_name());
    used.insert(r.text_name());
  }
  if (index.null_text) used.insert("null.text");
  for (const std::string& name : shards) {
    try {
      std::int64_t count = 0, bytes = 0;
      const SafetensorsFile file = SafetensorsFile::open(folder + "/" + name);
      for (const TensorInfo& t : file.tensors()) {
        if (used.count(t.name) != 0) continue;
        ++count;
        bytes += t.num_bytes;
      }
      if (count > 0) {
        report->problems.push_back(
            {folder + "/" + name, format("{} tensors ({} bytes) belong to no sample", count, bytes),
             true});
      }
    } catch (const Error&) {
      // Its samples have reported it.
    }
  }
}

Json range_of(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return Json(Json::Object{{"min", *low}, {"max", *high}});
}

}  // namespace

bool CheckReport::good() const {
  return std::all_of(problems.begin(), problems.end(),
                     [](const ShardProblem& p) { return p.is_note; });
}

CheckReport check_shards(const std::string& folder,
                         const std::function<bool(std::int64_t, std::int64_t)>& progress) {
  const auto begin = std::chrono::steady_clock::now();
  CheckReport report;
  std::unique_ptr<Dataset> dataset;
  try {
    dataset = std::make_unique<Dataset>(folder);
  } catch (const Error& e) {
    if (e.code() == ExitCode::kIo) throw;  // no set at all
    report.problems.push_back({folder + "/index.json", e.what()});
    return report;
  }
  const std::vector<SampleRecord>& samples = dataset->index().samples;
  report.num_samples = dataset->size();
  // In the order of files: each is read once from begin to end.
  std::vector<std::int64_t> order(samples.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return samples[static_cast<std::size_t>(a)].file < samples[static_cast<std::size_t>(b)].file;
  });
  std::set<std::string> shards, unreadable;
  std::int64_t done = 0;
  bool stopped = false;
  for (const std::int64_t i : order) {
    const SampleRecord& r = samples[static_cast<std::size_t>(i)];
    if (shards.insert(r.file).second) {
      try {
        SafetensorsFile::open(folder + "/" + r.file);
      } catch (const Error& e) {
        // Once per shard, not once per sample.
        const auto lost = std::count_if(samples.begin(), samples.end(),
                                        [&](const SampleRecord& s) { return s.file == r.file; });
        report.problems.push_back(
            {folder + "/" + r.file,
             format("{} samples are lost: {}", static_cast<std::int64_t>(lost), e.what())});
        unreadable.insert(r.file);
      }
    }
    if (unreadable.count(r.file) == 0) {
      bool good = true;
      for (const bool latent : {true, false}) {
        try {
          const Tensor t = latent ? dataset->read_latent(i) : dataset->read_text(i);
          report.num_bytes += t.num_elements() * size_of(latent ? dataset->index().latent_dtype
                                                                : dataset->index().text_dtype);
        } catch (const Error& e) {
          report.problems.push_back({folder + "/" + r.file, e.what()});
          good = false;
        }
      }
      report.num_good += good ? 1 : 0;
    }
    if (progress && !progress(++done, report.num_samples)) {
      stopped = true;
      break;
    }
  }
  if (dataset->index().null_text) {
    shards.insert(dataset->index().null_text->file);
    try {
      dataset->null_text();
    } catch (const Error& e) {
      report.problems.push_back({folder + "/" + dataset->index().null_text->file, e.what()});
    }
  }
  report.num_shards = static_cast<std::int64_t>(shards.size());
  if (stopped) {
    report.problems.push_back(
        {folder, format("stopped after {} of {} samples", done, report.num_samples)});
  } else {
    note_unused(folder, dataset->index(), shards, &report);
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

Json summarise(const ShardIndex& index) {
  struct Group {
    std::int64_t samples = 0;
    double seconds = 0;
    std::set<std::string> sources;
    Shape shape;
  };
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, Group> groups;
  std::set<std::string> captions, sources, files;
  std::int64_t empty = 0, words = 0, most_words = 0, rows = 0, most_rows = 0, bytes = 0;
  for (const SampleRecord& r : index.samples) {
    Group& g = groups[{r.height, r.width, r.frames}];
    ++g.samples;
    g.seconds += static_cast<double>(r.frames) / r.fps;
    g.sources.insert(r.source);
    g.shape = r.latent_shape;
    const auto n = static_cast<std::int64_t>(split_words(r.caption).size());
    empty += n == 0 ? 1 : 0;
    words += n;
    most_words = std::max(most_words, n);
    rows += r.text_rows;
    most_rows = std::max(most_rows, r.text_rows);
    captions.insert(r.caption);
    sources.insert(r.source);
    files.insert(r.file);
    bytes += r.latent_shape.num_elements() * size_of(index.latent_dtype) +
             r.text_rows * index.text.dim * size_of(index.text_dtype);
  }
  const auto count = [](const auto& set) { return static_cast<std::int64_t>(set.size()); };
  const double n = std::max<double>(1.0, static_cast<double>(index.samples.size()));

  Json out = Json::object();
  out.set("samples", count(index.samples));
  out.set("sources", count(sources));
  out.set("shards", count(files));
  out.set("bytes", bytes);
  Json buckets = Json::array();
  for (const auto& [key, g] : groups) {
    Json shape = Json::array();
    for (const std::int64_t d : g.shape) shape.push_back(d);
    buckets.push_back(Json(Json::Object{{"height", std::get<0>(key)},
                                        {"width", std::get<1>(key)},
                                        {"frames", std::get<2>(key)},
                                        {"samples", g.samples},
                                        {"sources", count(g.sources)},
                                        {"seconds", g.seconds},
                                        {"latent_shape", std::move(shape)}}));
  }
  out.set("buckets", std::move(buckets));
  Json latent = Json::object();
  latent.set("kind", index.latent.kind);
  if (index.latent.kind == "haar") {
    latent.set("levels_t", index.latent.wavelet.levels_t);
    latent.set("levels_s", index.latent.wavelet.levels_s);
  }
  latent.set("channels", index.latent.channels);
  latent.set("dtype", to_string(index.latent_dtype));
  latent.set("mean", range_of(index.latent.mean));
  latent.set("std", range_of(index.latent.std));
  out.set("latent", std::move(latent));
  out.set("text", Json(Json::Object{{"kind", index.text_kind},
                                    {"dim", index.text.dim},
                                    {"mean_rows", static_cast<double>(rows) / n},
                                    {"max_rows", most_rows},
                                    {"null_text", index.null_text.has_value()}}));
  out.set("captions", Json(Json::Object{{"distinct", count(captions)},
                                        {"empty", empty},
                                        {"mean_words", static_cast<double>(words) / n},
                                        {"max_words", most_words}}));
  out.set("settings", index.settings);
  return out;
}

}  // namespace dsv::data
