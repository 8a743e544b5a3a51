#include "checkpoint_commit.h"

#include <sys/stat.h>

#include "checkpoint_agree.h"
#include "dsv/base/log.h"
#include "dsv/data/atomic_file.h"
#include "dsv/train/checkpoint_manifest.h"

namespace dsv::train {
namespace {

bool exists(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0;
}

void write_manifest(const CommitPlan& plan, const Manifest& manifest, const FaultSite& site) {
  const std::string folder = plan.dir + '/' + plan.unfinished;
  const std::string path = folder + '/' + std::string(kManifestName);
  const std::string text = manifest_text(manifest);
  if (static_cast<std::int64_t>(text.size()) > kMaxManifestBytes) {
    throw_error(ExitCode::kInternal, "[checkpoint] a manifest of {} bytes, expected at most {}",
                text.size(), kMaxManifestBytes);
  }
  // What cannot be read must not be committed, e.g. text in `extra` that is not UTF-8.
  parse_manifest(text, path);
  throw_if_fault(fault_point("ckpt_manifest", site.rank, site.step), "write", path);
  data::write_file_atomic(path, text);
  sync_folder(folder);
  if (!plan.verify) return;
  if (data::read_file(path, kMaxManifestBytes) != text) {
    throw_error(ExitCode::kIo, "[checkpoint] '{}' reads back as other bytes than were written",
                path);
  }
  for (std::size_t f = 0; f < manifest.files.size(); ++f) {
    const OpenFile shard = OpenFile::for_reading(folder + '/' + shard_name(static_cast<int>(f)));
    if (shard.num_bytes() != manifest.files[f].num_bytes) {
      throw_error(ExitCode::kIo, "[checkpoint] '{}' has {} bytes, {} were written", shard.path(),
                  shard.num_bytes(), manifest.files[f].num_bytes);
    }
  }
}

std::string superseded_name(const std::string& name) {
  return name + ".superseded-" + random_id();
}

void set_aside_other_histories(const CommitPlan& plan) {
  for (const auto& [step, name] : list_checkpoints(plan.dir).committed) {
    if (step <= plan.newest_of_history) continue;
    const std::string aside = superseded_name(name);
    log_warn("[checkpoint] {}/{} is not of this run's history: it is kept as {}", plan.dir, name,
             aside);
    rename_path(plan.dir + '/' + name, plan.dir + '/' + aside);
  }
}

}  // namespace

void commit_folder(const CommitPlan& plan, const Manifest& manifest, const FaultSite& site) {
  write_manifest(plan, manifest, site);

  const std::string from = plan.dir + '/' + plan.unfinished;
  const std::string to = plan.dir + '/' + step_name(manifest.meta.step);
  throw_if_fault(fault_point("ckpt_rename", site.rank, site.step),
                 "rename to '" + to + "' the folder", from);
  set_aside_other_histories(plan);
  // A checkpoint of the same step is replaced in one step where the file system can exchange names.
  // Elsewhere there is a moment without step_N; a crash in it leaves the old one set aside.
  std::string replaced;
  bool exchanged = false;
  if (exists(to)) {
    exchanged = exchange_paths(from, to);
    replaced = exchanged ? from : superseded_name(to);
    if (!exchanged) rename_path(to, replaced);
  }
  if (!exchanged) {
    const Verdict renamed = attempt([&] { rename_path(from, to); });
    if (!renamed.ok() && !replaced.empty()) rename_path(replaced, to);
    renamed.throw_if_failed();
  }

  const Verdict durable = attempt([&] {
    throw_if_fault(fault_point("ckpt_commit", site.rank, site.step), "sync folder", plan.dir);
    sync_folder(plan.dir);
  });
  if (!durable.ok()) {
    if (exchanged) {
      exchange_paths(from, to);
    } else {
      rename_path(to, from);
      if (!replaced.empty()) rename_path(replaced, to);
    }
    durable.throw_if_failed();
  }
  if (!replaced.empty()) {
    log_info("[checkpoint] {} was replaced", to);
    const Verdict removed = attempt([&] { remove_tree(replaced); });
    if (!removed.ok()) log_warn("{}", removed.message);
  }
}

std::vector<std::string> retire_old(const std::string& dir, std::int64_t keep) {
  std::vector<std::string> retired;
  const CheckpointFolder found = list_checkpoints(dir);
  auto left = static_cast<std::int64_t>(found.committed.size());
  for (auto it = found.committed.begin(); it != found.committed.end() && left > keep;
       ++it, --left) {
    // Removal takes time and may die in the middle: first the name, then the bytes.
    const std::string out_of_sight = dir + '/' + it->second + ".tmp-" + random_id();
    rename_path(dir + '/' + it->second, out_of_sight);
    retired.push_back(out_of_sight);
  }
  return retired;
}

}  // namespace dsv::train
