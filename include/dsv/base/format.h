// "{}"-style formatting without a heavy header: arguments are type-erased here, fmt lives in
// format.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

namespace dsv {

// One argument of a message. Integers, floats, bools, strings, and any type with to_string(x) found
// by argument-dependent lookup. String views must outlive the call, which temporaries in the call
// do.
class FormatArg {
 public:
  enum class Kind { kInt, kUint, kDouble, kBool, kString };

  template <typename T>
  FormatArg(const T& value) {  // NOLINT: implicit by design
    if constexpr (std::is_same_v<T, bool>) {
      kind_ = Kind::kBool;
      int_ = value;
    } else if constexpr (std::is_same_v<T, char>) {
      owned_.assign(1, value);
      string_ = owned_;
    } else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      kind_ = Kind::kInt;
      int_ = value;
    } else if constexpr (std::is_integral_v<T>) {
      kind_ = Kind::kUint;
      uint_ = value;
    } else if constexpr (std::is_floating_point_v<T>) {
      kind_ = Kind::kDouble;
      double_ = value;
    } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      string_ = value;
    } else {
      owned_ = to_string(value);
      string_ = owned_;
    }
  }
  FormatArg(const FormatArg&) = delete;
  FormatArg& operator=(const FormatArg&) = delete;

  Kind kind() const { return kind_; }
  std::int64_t as_int() const { return int_; }
  std::uint64_t as_uint() const { return uint_; }
  double as_double() const { return double_; }
  std::string_view as_string() const { return string_; }

 private:
  Kind kind_ = Kind::kString;
  std::int64_t int_ = 0;
  std::uint64_t uint_ = 0;
  double double_ = 0;
  std::string owned_;
  std::string_view string_;
};

// fmt syntax: "{}", "{:.3f}", "{:>8}". A pattern that does not fit its arguments yields the pattern
// followed by the reason instead of throwing: a message must never hide the error that it reports.
std::string vformat(std::string_view pattern, std::initializer_list<FormatArg> args);

template <typename... Args>
std::string format(std::string_view pattern, const Args&... args) {
  return vformat(pattern, {FormatArg(args)...});
}
// Literals, exactly: std::format, which arguments of the standard library bring into scope, must
// never be the better match.
template <std::size_t n, typename... Args>
std::string format(const char (&pattern)[n], Args&&... args) {
  return vformat(std::string_view(pattern, n - 1), {FormatArg(args)...});
}

}  // namespace dsv
