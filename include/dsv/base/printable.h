// Text of unknown origin made fit for messages: what a file says must not obey a terminal or fill a
// log.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dsv {

// Bytes of the UTF-8 character that `text` begins with; 0 when it is empty or begins with bytes
// that are malformed, overlong, a surrogate, or beyond U+10FFFF.
std::size_t utf8_length(std::string_view text);

// `text` with control characters (C0, DEL, C1) and bytes that are not UTF-8 written as \xNN. The
// result has at most max_bytes bytes; where the text is longer, it ends in "…".
std::string printable(std::string_view text, std::size_t max_bytes = 80);

}  // namespace dsv
