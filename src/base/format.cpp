#include "dsv/base/format.h"

#include <fmt/args.h>
#include <fmt/format.h>

namespace dsv {

std::string vformat(std::string_view pattern, std::initializer_list<FormatArg> args) {
  fmt::dynamic_format_arg_store<fmt::format_context> store;
  store.reserve(args.size(), 0);
  for (const FormatArg& arg : args) {
    switch (arg.kind()) {
      case FormatArg::Kind::kInt: store.push_back(static_cast<long long>(arg.as_int())); break;
      case FormatArg::Kind::kUint:
        store.push_back(static_cast<unsigned long long>(arg.as_uint()));
        break;
      case FormatArg::Kind::kDouble: store.push_back(arg.as_double()); break;
      case FormatArg::Kind::kBool: store.push_back(arg.as_int() != 0); break;
      case FormatArg::Kind::kString: store.push_back(std::string(arg.as_string())); break;
    }
  }
  try {
    return fmt::vformat(fmt::string_view(pattern.data(), pattern.size()), store);
  } catch (const fmt::format_error& e) {
    return std::string(pattern) + " [bad message pattern: " + e.what() + "]";
  }
}

}  // namespace dsv
