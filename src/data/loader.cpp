#include "dsv/data/loader.h"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "dsv/base/log.h"
#include "dsv/data/host_tensor.h"

namespace dsv::data {

LoaderBatch read_batch(const Dataset& dataset, const std::vector<std::int64_t>& samples,
                       std::int64_t text_len, bool verify_crc, Arena* staging) {
  DSV_CHECK(text_len > 0, "[loader] expected text_len > 0, got {}", text_len);
  LoaderBatch batch;
  const auto b = static_cast<std::int64_t>(samples.size());
  if (b == 0) return batch;
  const Shape shape = dataset.record(samples[0]).latent_shape;
  const std::int64_t dim = dataset.index().text.dim;
  const SampleRecord& first = dataset.record(samples.front());
  batch.height = first.height;
  batch.width = first.width;
  batch.frames = first.frames;
  const auto make = [staging](const Shape& s) {
    return staging != nullptr ? staging->empty(s) : host_tensor(s);
  };
  batch.latent = make({b, shape[0], shape[1], shape[2], shape[3]});
  batch.text = make({b, text_len, dim});
  batch.text_mask = make({b, text_len});
  for (std::int64_t i = 0; i < b; ++i) {
    const std::int64_t sample = samples[static_cast<std::size_t>(i)];
    const SampleRecord& record = dataset.record(sample);
    DSV_CHECK(record.latent_shape == shape, "[loader] samples of shapes {} and {} in one batch",
              shape, record.latent_shape);
    dataset.read_latent(sample, batch.latent.select(0, i), verify_crc);
    pad_text(dataset.read_text(sample, verify_crc), batch.text.select(0, i),
             batch.text_mask.select(0, i));
    batch.sample_ids.push_back(record.id);
    batch.epochs.push_back(0);
    batch.captions.push_back(record.caption);
  }
  return batch;
}

struct Loader::State {
  std::shared_ptr<const Dataset> dataset;
  std::shared_ptr<const BatchPlan> plan;
  DataConfig config;
  std::int64_t text_len = 0;
  LoaderPosition position;
  std::unique_ptr<Arena> staging;

  // Tickets number the micro-batches from the start; all below are guarded by the mutex.
  std::mutex mutex;
  std::condition_variable produced, wanted;
  std::int64_t next_step = 0, next_micro = 0;  // of the next ticket handed to a thread
  std::int64_t next_ticket = 0, next_consumed = 0;
  std::map<std::int64_t, LoaderBatch> ready;
  std::map<std::int64_t, std::exception_ptr> failed;
  bool stop = false;
  std::vector<std::thread> threads;

  struct Task {
    std::int64_t ticket, step, micro, begin, end, num_micro;  // slots [begin, end)
  };

  // The caller holds the mutex.
  Task take_task() {
    const std::int64_t batch = plan->batch_of(next_step);
    const std::int64_t lo = batch * position.dp_rank / position.dp_size;
    const std::int64_t hi = batch * (position.dp_rank + 1) / position.dp_size;
    const std::int64_t num_micro = ceil_div(hi - lo, config.micro_batch);
    const std::int64_t begin = lo + next_micro * config.micro_batch;
    const Task task{
        next_ticket++, next_step, next_micro, begin, std::min(hi, begin + config.micro_batch),
        num_micro};
    if (++next_micro >= num_micro) {
      next_micro = 0;
      ++next_step;
    }
    return task;
  }

  LoaderBatch read(const Task& task) const {
    std::vector<std::int64_t> samples, epochs;
    for (std::int64_t slot = task.begin; slot < task.end; ++slot) {
      const BatchSlot s = plan->slot(task.step, slot);
      samples.push_back(s.sample);
      epochs.push_back(s.epoch);
    }
    LoaderBatch batch = read_batch(*dataset, samples, text_len, config.verify_crc, staging.get());
    batch.step = task.step;
    batch.micro = task.micro;
    batch.num_micro = task.num_micro;
    batch.bucket = plan->bucket_of(task.step);
    batch.global_batch = plan->buckets()[batch.bucket].batch;
    batch.epochs = std::move(epochs);
    return batch;
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      wanted.wait(lock, [&] { return stop || next_ticket < next_consumed + config.prefetch; });
      if (stop) return;
      const Task task = take_task();
      lock.unlock();
      LoaderBatch batch;
      std::exception_ptr error;
      try {
        batch = read(task);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error != nullptr) {
        failed.emplace(task.ticket, error);
      } else {
        ready.emplace(task.ticket, std::move(batch));
      }
      produced.notify_one();
    }
  }
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const BatchPlan> plan,
               const DataConfig& config, std::int64_t text_len, const LoaderPosition& position,
               std::unique_ptr<Arena> staging)
    : state_(std::make_unique<State>()) {
  validate(config);
  DSV_CHECK(position.dp_size > 0 && position.dp_rank >= 0 && position.dp_rank < position.dp_size &&
                position.start_step >= 0,
            "[loader] rank {} of {}, step {}", position.dp_rank, position.dp_size,
            position.start_step);
  std::int64_t num_cut = 0;
  for (const SampleRecord& r : dataset->index().samples) num_cut += r.text_rows > text_len ? 1 : 0;
  if (num_cut > 0 && position.dp_rank == 0) {
    log_warn("[data] {} of {} captions have more than model.text_len = {} rows and are cut",
             num_cut, dataset->size(), text_len);
  }
  state_->dataset = std::move(dataset);
  state_->plan = std::move(plan);
  state_->config = config;
  state_->text_len = text_len;
  state_->position = position;
  state_->staging = std::move(staging);
  state_->next_step = position.start_step;
  for (std::int64_t t = 0; t < config.threads; ++t) {
    state_->threads.emplace_back([s = state_.get()] { s->work(); });
  }
}

Loader::~Loader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wanted.notify_all();
  for (std::thread& t : state_->threads) t.join();
}

LoaderBatch Loader::next() {
  State& s = *state_;
  const auto begin = std::chrono::steady_clock::now();
  std::unique_lock lock(s.mutex);
  const std::int64_t ticket = s.next_consumed;
  s.produced.wait(lock, [&] { return s.ready.count(ticket) != 0 || s.failed.count(ticket) != 0; });
  if (const auto it = s.failed.find(ticket); it != s.failed.end())
    std::rethrow_exception(it->second);
  const auto it = s.ready.find(ticket);
  LoaderBatch batch = std::move(it->second);
  s.ready.erase(it);
  ++s.next_consumed;
  lock.unlock();
  s.wanted.notify_one();
  const std::chrono::duration<double, std::milli> waited = std::chrono::steady_clock::now() - begin;
  batch.data_wait_ms = waited.count();
  return batch;
}

std::vector<LoaderBatch> Loader::next_step() {
  std::vector<LoaderBatch> batches;
  do {
    batches.push_back(next());
    DSV_CHECK(batches.back().micro == static_cast<std::int64_t>(batches.size()) - 1,
              "[loader] next_step in the middle of step {}", batches.back().step);
  } while (batches.back().micro + 1 < batches.back().num_micro);
  if (batches.back().num_micro == 0) batches.clear();
  return batches;
}

}  // namespace dsv::data
