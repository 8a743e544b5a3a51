#include "checkpoint_agree.h"

#include <charconv>
#include <filesystem>
#include <new>

namespace dsv::train {
namespace {

std::string pack(const Verdict& verdict) {
  return std::to_string(static_cast<int>(verdict.code)) + ' ' + verdict.message;
}

Verdict unpack(const std::string& text) {
  int code = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), code);
  DSV_CHECK(error == std::errc() && *end == ' ', "[checkpoint] not a verdict: '{}'", text);
  return {static_cast<ExitCode>(code),
          text.substr(static_cast<std::size_t>(end - text.data()) + 1)};
}

}  // namespace

Verdict attempt(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return {error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {ExitCode::kEnvironment, "[checkpoint] out of host memory"};
  } catch (const std::filesystem::filesystem_error& error) {
    return {ExitCode::kIo, error.what()};
  } catch (const std::exception& error) {
    return {ExitCode::kInternal, error.what()};
  }
}

Verdict agree(comm::Communicator& comm, const Verdict& mine) {
  const std::vector<std::string> all = comm.all_gather_bytes(pack(mine));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    Verdict verdict = unpack(all[rank]);
    if (verdict.ok()) continue;
    if (all.size() > 1) verdict.message = format("rank {}: {}", rank, verdict.message);
    return verdict;
  }
  return {};
}

Verdict share(comm::Communicator& comm, const Verdict& mine, int root) {
  return unpack(comm.broadcast_bytes(pack(mine), root));
}

}  // namespace dsv::train
