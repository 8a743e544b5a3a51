// The end of a process that would otherwise wait for ever.
#pragma once

#include <string>

namespace dsv::comm {

// Writes the line to stderr, past the log, which a stuck thread may hold, and ends the process at
// once with exit code 21.
[[noreturn]] void exit_hung(const std::string& line);

}  // namespace dsv::comm
