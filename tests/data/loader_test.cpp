#include "dsv/data/loader.h"

#include <chrono>
#include <cstring>
#include <set>

#include "data/shard_fixture.h"
#include "data/temp_dir.h"
#include "dsv/data/held_out.h"
#include "dsv/data/safetensors.h"
#include "support/catch.h"

using namespace dsv::data;
using dsv::Tensor;

namespace {

std::vector<SampleRecord> fake_records(std::int64_t videos, std::int64_t clips) {
  std::vector<SampleRecord> records;
  for (std::int64_t v = 0; v < videos; ++v) {
    for (std::int64_t c = 0; c < clips; ++c) {
      SampleRecord r;
      r.source = dsv::format("v{}", v);
      r.id = sample_id(r.source, c);
      r.height = r.width = 8;
      r.frames = 4;
      r.latent_shape = {24, 2, 4, 4};
      records.push_back(r);
    }
  }
  return records;
}

struct Opened {
  std::shared_ptr<const Dataset> dataset;
  std::shared_ptr<const BatchPlan> plan;
};

Opened open_set(const std::string& folder, const DataConfig& config, std::uint64_t seed) {
  Opened o;
  o.dataset = std::make_shared<Dataset>(folder);
  const Split split = split_held_out(o.dataset->index().samples, config.held_out_percent);
  o.plan = std::make_shared<BatchPlan>(o.dataset->index().samples, split.train, config, seed);
  return o;
}

// Ids of `steps` steps, per step.
std::vector<std::vector<std::uint64_t>> run(const Opened& o, const DataConfig& config,
                                            LoaderPosition at, std::int64_t steps) {
  Loader loader(o.dataset, o.plan, config, 5, at);
  std::vector<std::vector<std::uint64_t>> out;
  for (std::int64_t s = 0; s < steps; ++s) {
    out.emplace_back();
    for (const LoaderBatch& b : loader.next_step()) {
      CHECK(b.step == at.start_step + s);
      CHECK(b.size() >= 1);
      CHECK(b.size() <= config.micro_batch);
      out.back().insert(out.back().end(), b.sample_ids.begin(), b.sample_ids.end());
    }
  }
  return out;
}

}  // namespace

TEST_CASE("buckets: permutations are bijections and differ by epoch, seed and stream",
          "[buckets]") {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000}) {
    std::set<std::int64_t> seen;
    for (std::int64_t i = 0; i < n; ++i) seen.insert(permuted(1, 0, 0, n, i));
    CHECK(static_cast<std::int64_t>(seen.size()) == n);
    CHECK(*seen.begin() == 0);
    CHECK(*seen.rbegin() == n - 1);
  }
  int same_epoch = 0, same_seed = 0, same_stream = 0;
  for (std::int64_t i = 0; i < 1000; ++i) {
    const std::int64_t p = permuted(1, 0, 0, 1000, i);
    same_epoch += p == permuted(1, 1, 0, 1000, i) ? 1 : 0;
    same_seed += p == permuted(2, 0, 0, 1000, i) ? 1 : 0;
    same_stream += p == permuted(1, 0, 1, 1000, i) ? 1 : 0;
  }
  // About one of a thousand meets itself; ten would be a miracle.
  CHECK(same_epoch < 10);
  CHECK(same_seed < 10);
  CHECK(same_stream < 10);
  // Every member is equally likely at every place: chi-square over 3 members, 2 degrees of freedom.
  int counts[3][3] = {};
  for (std::uint64_t epoch = 0; epoch < 3000; ++epoch) {
    for (int i = 0; i < 3; ++i) ++counts[i][permuted(9, epoch, 0, 3, i)];
  }
  for (const auto& row : counts) {
    double chi = 0;
    for (const int c : row) chi += (c - 1000.0) * (c - 1000.0) / 1000.0;
    CHECK(chi < 18.4);  // p = 1e-4
  }
}

TEST_CASE("buckets: within a bucket every sample occurs once per epoch, in a new order",
          "[buckets]") {
  const auto records = fake_records(37, 1);
  std::vector<std::int64_t> train;
  for (std::int64_t i = 0; i < 37; ++i) train.push_back(i);
  DataConfig config{.batch = 5};
  const BatchPlan plan(records, train, config, 3);
  std::vector<std::int64_t> sequence, epochs;
  for (std::int64_t step = 0; step < 37; ++step) {
    for (std::int64_t slot = 0; slot < 5; ++slot) {
      sequence.push_back(plan.slot(step, slot).sample);
      epochs.push_back(plan.slot(step, slot).epoch);
    }
  }
  std::vector<std::vector<std::int64_t>> orders;
  for (std::size_t e = 0; e < 5; ++e) {
    orders.emplace_back(sequence.begin() + static_cast<std::ptrdiff_t>(37 * e),
                        sequence.begin() + static_cast<std::ptrdiff_t>(37 * (e + 1)));
    CHECK(std::set<std::int64_t>(orders[e].begin(), orders[e].end()).size() == 37);
    CHECK(epochs[37 * e] == static_cast<std::int64_t>(e));
    CHECK(epochs[37 * e + 36] == static_cast<std::int64_t>(e));
    if (e > 0) CHECK(orders[e] != orders[e - 1]);
  }
  CHECK(plan.steps_per_epoch() == Approx(37.0 / 5));
}

TEST_CASE("buckets: counts of earlier steps agree with a scan, draws follow the probabilities",
          "[buckets]") {
  auto records = fake_records(30, 1);
  for (std::size_t i = 0; i < 10; ++i) records[i].frames = 1;
  std::vector<std::int64_t> train;
  for (std::int64_t i = 0; i < 30; ++i) train.push_back(i);
  DataConfig config;
  config.buckets = {{8, 8, 1, 1.0, 4}, {8, 8, 4, 3.0, 2}};
  const BatchPlan plan(records, train, config, 11);
  CHECK(plan.buckets()[0].probability == 0.25);
  CHECK(plan.num_samples(0) == 10);
  std::int64_t count = 0;
  for (std::int64_t step = 0; step < 5000; ++step) {
    if (step % 617 == 0 || step == 1024 || step == 128) CHECK(plan.earlier_steps(0, step) == count);
    count += plan.bucket_of(step) == 0 ? 1 : 0;
  }
  CHECK(count == Approx(1250).margin(125));  // four standard deviations
  // Far away, and still the same from another plan that has seen nothing.
  const BatchPlan fresh(records, train, config, 11);
  const auto begin = std::chrono::steady_clock::now();
  const std::int64_t far = fresh.earlier_steps(1, 1'000'000);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  CHECK(took.count() < 1000);
  CHECK(far + fresh.earlier_steps(0, 1'000'000) == 1'000'000);
  CHECK(plan.slot(1'000'003, 1).sample == fresh.slot(1'000'003, 1).sample);
  // The order within a bucket does not depend on the other buckets of the table.
  DataConfig alone;
  alone.buckets = {{8, 8, 1, 1.0, 4}};
  const BatchPlan single(records, train, alone, 11);
  CHECK(single.num_unused() == 20);
  std::int64_t step = 0;
  while (plan.bucket_of(step) != 0) ++step;
  for (std::int64_t slot = 0; slot < 4; ++slot) {
    CHECK(plan.slot(step, slot).sample == single.slot(0, slot).sample);
  }
}

TEST_CASE("buckets: settings that cannot work are refused", "[buckets]") {
  const auto records = fake_records(4, 1);
  const std::vector<std::int64_t> train = {0, 1, 2, 3};
  const auto refusal = [&](const DataConfig& config) -> std::string {
    try {
      BatchPlan(records, train, config, 0);
      return "";
    } catch (const dsv::Error& e) {
      CHECK(e.code() == dsv::ExitCode::kConfig);
      return e.what();
    }
  };
  DataConfig config;
  CHECK(refusal(config) == "");
  config.buckets = {{16, 16, 4, 1.0, 4}};
  CHECK_THAT(refusal(config), Contains("no training sample has the shape 16x16x4"));
  CHECK_THAT(refusal(config), Contains("the shards hold 8x8x4 (4 samples)"));
  config.buckets = {{8, 8, 4, 1.0, 4}, {8, 8, 4, 1.0, 2}};
  CHECK_THAT(refusal(config), Contains("listed twice"));
  config.buckets = {{8, 8, 4, 0.0, 4}};
  CHECK_THAT(refusal(config), Contains("expected a probability above 0"));
  config.buckets = {{8, 8, 4, -1.0, 4}};
  CHECK_THAT(refusal(config), Contains("data.buckets[0].probability"));
  CHECK_THAT(refusal({.batch = 0}), Contains("data.batch: expected"));
  CHECK_THAT(refusal({.micro_batch = -1}), Contains("data.micro_batch: expected"));
  CHECK_THAT(refusal({.prefetch = 0}), Contains("data.prefetch: expected"));
  CHECK_THAT(refusal({.threads = 0}), Contains("data.threads: expected"));
  CHECK_THAT(refusal({.held_out_percent = 77}), Contains("data.held_out_percent: expected"));
}

TEST_CASE("held out: by hash, in whole videos, never empty without a word", "[held_out]") {
  const auto many = fake_records(400, 5);
  const Split split = split_held_out(many, 5);
  CHECK(split.train.size() + split.held_out.size() == 2000);
  CHECK(split.held_out.size() == Approx(100).margin(90));
  std::set<std::string> trained, held;
  for (const std::int64_t i : split.train) trained.insert(many[static_cast<std::size_t>(i)].source);
  for (const std::int64_t i : split.held_out) held.insert(many[static_cast<std::size_t>(i)].source);
  for (const std::string& source : held) CHECK(trained.count(source) == 0);
  // A larger percentage holds out the same and more; so does a grown set, up to its new samples.
  const Split larger = split_held_out(many, 20);
  const std::set<std::int64_t> more(larger.held_out.begin(), larger.held_out.end());
  for (const std::int64_t i : split.held_out) CHECK(more.count(i) == 1);
  const auto grown = fake_records(500, 5);
  const Split grown_split = split_held_out(grown, 5);
  const std::set<std::int64_t> grown_held(grown_split.held_out.begin(), grown_split.held_out.end());
  for (const std::int64_t i : split.held_out) CHECK(grown_held.count(i) == 1);
  CHECK(split_held_out(many, 0).held_out.empty());

  CHECK(split_held_out(fake_records(1, 1), 5).held_out.empty());
  CHECK(split_held_out(fake_records(2, 1), 5).held_out.size() == 1);
  CHECK(split_held_out(fake_records(15, 1), 5).held_out.size() == 1);
  CHECK(split_held_out(fake_records(16, 1), 5).held_out.size() == 8);
  CHECK(split_held_out(fake_records(40, 1), 5).held_out.size() == 8);
  CHECK(split_held_out(fake_records(1, 100), 5).held_out.size() == 8);  // one video is all there is
  for (int videos = 1; videos < 6; ++videos) {
    const Split s = split_held_out(fake_records(videos, 20), 50);
    CHECK(s.held_out.size() >= 8);
    CHECK(s.train.size() >= s.held_out.size());
  }
  auto mixed = fake_records(10, 1);
  for (std::size_t i = 0; i < 4; ++i) mixed[i].frames = 1;
  const auto groups = group_by_shape(mixed, {0, 4, 1, 5, 2, 6, 7}, 2);
  REQUIRE(groups.size() == 4);
  CHECK(groups[0] == std::vector<std::int64_t>{0, 1});
  CHECK(groups[1] == std::vector<std::int64_t>{2});
  CHECK(groups[2] == std::vector<std::int64_t>{4, 5});
}

TEST_CASE("loader: the union over ranks is the same for any number of ranks", "[loader]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 13}, {8, 16, 2, 9}});
  DataConfig config{.batch = 3, .micro_batch = 2, .prefetch = 3, .threads = 2};
  const Opened o = open_set(dir.path(), config, 42);
  const auto whole = run(o, config, {}, 20);
  std::set<std::size_t> used;
  for (std::int64_t s = 0; s < 20; ++s) used.insert(o.plan->bucket_of(s));
  CHECK(used.size() == 2);
  for (const std::int64_t ranks : {2, 4}) {
    std::vector<std::vector<std::uint64_t>> joined(20);
    std::size_t largest = 0, smallest = 99;
    for (std::int64_t r = 0; r < ranks; ++r) {
      const auto part = run(o, config, {.dp_rank = r, .dp_size = ranks}, 20);
      for (std::size_t s = 0; s < 20; ++s) {
        joined[s].insert(joined[s].end(), part[s].begin(), part[s].end());
        largest = std::max(largest, part[s].size());
        smallest = std::min(smallest, part[s].size());
      }
    }
    CHECK(joined == whole);
    CHECK(largest - smallest <= 1);
  }
}

TEST_CASE("loader: a resumed run continues as the uninterrupted one, at every step", "[loader]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 11}, {8, 8, 2, 9}});
  DataConfig config{.batch = 4, .micro_batch = 3, .prefetch = 2, .threads = 2};
  const Opened o = open_set(dir.path(), config, 7);
  const auto whole = run(o, config, {}, 12);
  for (std::int64_t k = 0; k < 12; ++k) {
    const auto rest = run(o, config, {.start_step = k}, 12 - k);
    CHECK(std::equal(rest.begin(), rest.end(), whole.begin() + k));
  }
  CHECK(run(open_set(dir.path(), config, 8), config, {}, 12) != whole);  // another seed
}

TEST_CASE("loader: batches hold normalised latents, padded text, and their names", "[loader]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 6}});
  DataConfig config{.batch = 4, .micro_batch = 4, .threads = 3};
  const Opened o = open_set(dir.path(), config, 1);
  Loader loader(o.dataset, o.plan, config, 5, {.start_step = 2});
  const LoaderBatch b = loader.next();
  CHECK(b.step == 2);
  CHECK(b.num_micro == 1);
  CHECK(b.global_batch == 4);
  REQUIRE(b.latent.shape() == dsv::Shape{4, 24, 2, 4, 4});
  REQUIRE(b.text.shape() == dsv::Shape{4, 5, 8});
  REQUIRE(b.text_mask.shape() == dsv::Shape{4, 5});
  CHECK(b.data_wait_ms >= 0);
  for (std::int64_t i = 0; i < 4; ++i) {
    const BatchSlot slot = o.plan->slot(2, i);
    const SampleRecord& r = o.dataset->record(slot.sample);
    CHECK(b.sample_ids[static_cast<std::size_t>(i)] == r.id);
    CHECK(b.epochs[static_cast<std::size_t>(i)] == slot.epoch);
    CHECK(b.captions[static_cast<std::size_t>(i)] == r.caption);
    const Tensor latent = o.dataset->read_latent(slot.sample);
    CHECK(std::memcmp(b.latent.select(0, i).raw(), latent.raw(),
                      static_cast<std::size_t>(latent.num_bytes())) == 0);
    const Tensor text = hashed_text(r.caption, {.dim = 8, .max_len = 16});  // three words
    CHECK(std::memcmp(b.text.select(0, i).raw(), text.raw(), 3 * 8 * 4) == 0);
    for (std::int64_t k = 0; k < 5; ++k)
      CHECK(b.text_mask.select(0, i).f32()[k] == (k < 3 ? 1.0f : 0.0f));
    for (std::int64_t k = 24; k < 40; ++k) CHECK(b.text.select(0, i).f32()[k] == 0.0f);
  }
  // Null text: a row of zeros that is valid.
  const Tensor text = host_tensor({5, 8}), mask = host_tensor({5});
  pad_text(o.dataset->null_text(), text, mask);
  CHECK(mask.f32()[0] == 1.0f);
  CHECK(mask.f32()[1] == 0.0f);
  // Longer text is cut.
  pad_text(hashed_text("a b c d e f g", {.dim = 8, .max_len = 16}), text, mask);
  CHECK(mask.f32()[4] == 1.0f);
}

TEST_CASE("loader: a rank without slots in a step still sees the step", "[loader]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 6}});
  DataConfig config{.batch = 2};
  const Opened o = open_set(dir.path(), config, 1);
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < 4; ++r) {
    Loader loader(o.dataset, o.plan, config, 5, {.dp_rank = r, .dp_size = 4});
    for (std::int64_t step = 0; step < 3; ++step) {
      const LoaderBatch b = loader.next();
      CHECK(b.step == step);
      CHECK(b.num_micro == b.size());
      CHECK(b.global_batch == 2);
      total += b.size();
    }
  }
  CHECK(total == 6);
}

TEST_CASE("loader: damage is reported when its turn comes, and again", "[loader]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 8}});
  DataConfig config{.batch = 2, .micro_batch = 2, .prefetch = 4, .threads = 2};
  const Opened o = open_set(dir.path(), config, 1);
  const std::int64_t victim = o.plan->slot(2, 1).sample;
  const SampleRecord& r = o.dataset->record(victim);
  const std::string path = dir / r.file;
  std::string bytes = read_bytes(path);
  const SafetensorsFile file = SafetensorsFile::open(path);
  bytes[static_cast<std::size_t>(file.at(r.latent_name()).offset)] ^= 4;
  write_bytes(path, bytes);
  Loader loader(o.dataset, o.plan, config, 5, {});
  CHECK(loader.next().step == 0);
  CHECK(loader.next().step == 1);
  CHECK_THROWS_WITH(loader.next(), Contains(r.hex_id()));
  CHECK_THROWS_WITH(loader.next(), Contains("CRC-32C"));
  // Without verification the bit goes through: the setting has an effect.
  config.verify_crc = false;
  Loader trusting(o.dataset, o.plan, config, 5, {.start_step = 2});
  CHECK(trusting.next().step == 2);
}

TEST_CASE("loader: destruction does not wait for anybody to take what was read", "[loader]") {
  const TempDir dir;
  write_fixture(dir.path(), {{8, 8, 4, 8}});
  DataConfig config{.prefetch = 2, .threads = 4};
  const Opened o = open_set(dir.path(), config, 1);
  for (int i = 0; i < 20; ++i) {
    Loader loader(o.dataset, o.plan, config, 5, {});
    if (i % 2 == 0) loader.next();
  }
}
