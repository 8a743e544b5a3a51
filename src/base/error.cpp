#include "dsv/base/error.h"

#include <cstring>

namespace dsv {

void throw_check_failure(const char* expression, const char* file, int line, std::string message) {
  const char* slash = std::strrchr(file, '/');
  throw Error(ExitCode::kInternal, format("{} (check `{}` failed at {}:{})", message, expression,
                                          slash != nullptr ? slash + 1 : file, line));
}

}  // namespace dsv
