// The exception type inside the library: a status for the C interface and a message for the user.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "rsicrc/rsicrc.h"

namespace rsicrc::impl {

class Error : public std::runtime_error {
 public:
  Error(rsicrc_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  rsicrc_status status() const noexcept { return status_; }

 private:
  rsicrc_status status_;
};

// Throws an Error. Its message is the concatenation of the parts.
template <typename... Parts>
[[noreturn]] void fail(rsicrc_status status, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(status, message.str());
}

}  // namespace rsicrc::impl
