// Texts that may be written to a terminal.
#pragma once

#include <string>
#include <string_view>

namespace rsicrc::impl {

// Returns true if a text is UTF-8 without control characters, invisible formatting characters and line separators. See
// rsicrc/untrusted/fields.py.
bool is_printable(std::string_view text);

// Returns a text on one line that `is_printable`: line breaks and tabs become spaces, other characters and bytes that
// are not printable become `\xNN`.
std::string printable(std::string_view text);

}  // namespace rsicrc::impl
