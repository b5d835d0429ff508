#include "files.h"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <memory>
#include <vector>

#include "error.h"

namespace rsicrc::impl {
namespace {

std::ifstream open(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) fail(RSICRC_BAD_MODEL, path.string(), ": missing");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(RSICRC_BAD_MODEL, path.string(), ": cannot be read");
  return file;
}

class Sha256 {
 public:
  Sha256() : digest_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!digest_ || EVP_DigestInit_ex(digest_.get(), EVP_sha256(), nullptr) != 1) {
      fail(RSICRC_INTERNAL, "libcrypto has no SHA-256");
    }
  }

  void update(std::string_view content) { EVP_DigestUpdate(digest_.get(), content.data(), content.size()); }

  std::string hexadecimal() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned int count = 0;
    EVP_DigestFinal_ex(digest_.get(), bytes.data(), &count);
    constexpr char kDigits[] = "0123456789abcdef";
    std::string digits;
    for (unsigned int i = 0; i < count; ++i) digits += {kDigits[bytes[i] >> 4], kDigits[bytes[i] & 15]};
    return digits;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> digest_;
};

}  // namespace

std::string read_file(const std::filesystem::path& path, std::size_t max_bytes) {
  std::ifstream file = open(path);
  const std::size_t bytes = std::filesystem::file_size(path);
  if (bytes > max_bytes)
    fail(RSICRC_BAD_MODEL, path.string(), ": ", bytes, " bytes, more than the limit of ", max_bytes);
  std::string content(bytes, '\0');
  file.read(content.data(), static_cast<std::streamsize>(bytes));
  if (static_cast<std::size_t>(file.gcount()) != bytes) fail(RSICRC_BAD_MODEL, path.string(), ": cannot be read");
  return content;
}

std::string sha256_file(const std::filesystem::path& path) {
  std::ifstream file = open(path);
  Sha256 digest;
  std::vector<char> chunk(std::size_t{1} << 20);
  while (file) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    digest.update({chunk.data(), static_cast<std::size_t>(file.gcount())});
  }
  if (file.bad()) fail(RSICRC_BAD_MODEL, path.string(), ": cannot be read");
  return digest.hexadecimal();
}

std::string sha256(std::string_view content) {
  Sha256 digest;
  digest.update(content);
  return digest.hexadecimal();
}

}  // namespace rsicrc::impl
