#include <algorithm>

#include "dsv/data/text.h"
#include "dsv/train/inspect.h"

namespace dsv::train {
namespace {

std::string readable_bytes(std::int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return unit == 0 ? format("{} B", bytes) : format("{:.1f} {}", value, kUnits[unit]);
}

std::string bytes_of(const Json& value) {
  return readable_bytes(value.at("bytes").as_int());
}

void add_problems(std::string& out, const Json& what) {
  for (const char* key : {"problems", "notes"}) {
    if (const Json* texts = what.find(key)) {
      for (const Json& text : texts->as_array()) {
        out += format("  {}: {}\n", key[0] == 'p' ? "PROBLEM" : "note", text.as_string());
      }
    }
  }
}

// "valid in every byte" is only said of what was read.
const char* verdict(const Json& what) {
  if (!what.at("valid").as_bool()) return "NOT VALID";
  return what.at("verified").as_bool() ? "valid in every byte"
                                       : "valid headers and sizes (--verify reads all)";
}

std::string checkpoint_line(const Json& c) {
  if (c.find("step") == nullptr) return format("{}: {}\n", c.at("path").as_string(), verdict(c));
  return format("{}: step {}, {} in {} shards, {}\n", c.at("path").as_string(),
                c.at("step").as_int(), bytes_of(c), c.at("files").size(), verdict(c));
}

std::string checkpoint_text(const Json& c) {
  std::string out = checkpoint_line(c);
  add_problems(out, c);
  if (c.find("step") == nullptr) return out;
  out += format("  run {}, save {}, {} elements\n", data::printable(c.at("run_id").as_string()),
                data::printable(c.at("save_id").as_string()), c.at("elements").as_int());
  out += format("  {:<5} {:>14} {:>11} {:>6}  array\n", "dtype", "elements", "bytes", "pieces");
  for (const Json& a : c.at("arrays").as_array()) {
    out += format("  {:<5} {:>14} {:>11} {:>6}  {}\n", a.at("dtype").as_string(),
                  a.at("elements").as_int(), bytes_of(a), a.at("pieces").as_int(),
                  data::printable(a.at("name").as_string()));
  }
  const std::string& yaml = c.at("config_yaml").as_string();
  out += format("  configuration of {} lines (--json prints it)\n",
                std::count(yaml.begin(), yaml.end(), '\n'));
  out += "  extra " + c.at("extra").dump(1) + '\n';
  return out;
}

std::string safetensors_text(const Json& f) {
  std::string out = format("{}: {}\n", f.at("path").as_string(), verdict(f));
  add_problems(out, f);
  if (f.find("tensors") == nullptr) return out;
  out += format("  {} tensors, {}\n", f.at("tensors").size(), bytes_of(f));
  for (const auto& [key, value] : f.at("metadata").as_object()) {
    out += format("  {}: {}\n", data::printable(key), data::printable(value.as_string()));
  }
  out += format("  {:<7} {:>11}  tensor\n", "dtype", "bytes");
  for (const Json& t : f.at("tensors").as_array()) {
    out += format("  {:<7} {:>11}  {} {}\n", t.at("dtype").as_string(), bytes_of(t),
                  data::printable(t.at("name").as_string()), t.at("shape").dump());
  }
  if (f.find("crc32c") != nullptr) {
    out += format("  CRC-32C of the file {}\n", f.at("crc32c").as_string());
    for (const auto& [name, count] : f.at("non_finite").as_object()) {
      out +=
          format("  {} values that are not finite in {}\n", count.as_int(), data::printable(name));
    }
  }
  return out;
}

std::string list_text(const Json& list) {
  std::string out;
  for (const Json& c : list.at("checkpoints").as_array()) {
    out += checkpoint_line(c);
    add_problems(out, c);
  }
  if (const Json* others = list.find("not_used")) {
    for (const Json& name : others->as_array()) {
      out += format("{}/{}: not used (unfinished or set aside)\n", list.at("path").as_string(),
                    name.as_string());
    }
  }
  if (out.empty()) out = format("{}: no checkpoints\n", list.at("path").as_string());
  return out;
}

}  // namespace

std::string inspection_text(const Json& inspection) {
  const std::string& kind = inspection.at("kind").as_string();
  if (kind == "checkpoint") return checkpoint_text(inspection);
  if (kind == "checkpoints") return list_text(inspection);
  if (kind == "safetensors") return safetensors_text(inspection);
  std::string out = format("{}: {}\n", inspection.at("path").as_string(), verdict(inspection));
  add_problems(out, inspection);
  if (const Json* summary = inspection.find("summary")) out += "  " + summary->dump(1) + '\n';
  return out;
}

}  // namespace dsv::train
