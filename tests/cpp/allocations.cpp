// allocations MODEL: counts what the library itself allocates once it is warm, and fails each of its allocations once.
//
// This program's operator new serves the whole process. An allocation is the library's when, seen from operator new
// outwards, librsicrc comes before OpenVINO: a backend allocates inside its own calls whatever it likes.
#include <dlfcn.h>
#include <execinfo.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>

#include "pictures.h"

namespace {

std::atomic<bool> watching{false};
std::atomic<long> ours{0}, theirs{0};
std::atomic<long> fail_at{-1};  // which of our allocations fails
thread_local bool inside = false;

bool is_ours() {
  std::array<void*, 48> frames{};
  const int count = backtrace(frames.data(), static_cast<int>(frames.size()));
  for (int i = 0; i < count; ++i) {
    Dl_info info{};
    if (dladdr(frames[static_cast<std::size_t>(i)], &info) == 0 || info.dli_fname == nullptr) continue;
    if (std::strstr(info.dli_fname, "librsicrc") != nullptr) return true;
    if (std::strstr(info.dli_fname, "libopenvino") != nullptr || std::strstr(info.dli_fname, "libtbb") != nullptr) {
      return false;
    }
  }
  return false;
}

void* allocate(std::size_t bytes) {
  if (watching && !inside) {
    inside = true;
    const bool counted = is_ours();
    inside = false;
    if (!counted) {
      ++theirs;
    } else if (ours++ == fail_at) {
      watching = false;
      throw std::bad_alloc();
    }
  }
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

struct Counts {
  rsicrc_status status;
  long ours, theirs;
};

Counts watched(long failing, rsicrc_context* context, const std::vector<rsicrc_pair>& pairs,
               const rsicrc_caption_options& options) {
  ours = 0, theirs = 0, fail_at = failing;
  watching = true;
  const rsicrc_status status = rsicrc_caption(context, pairs.data(), pairs.size(), &options);
  watching = false;
  return {status, ours, theirs};
}

struct Opened {
  explicit Opened(rsicrc_model* model) { rsicrc::check(rsicrc_context_open(model, &context)); }
  ~Opened() { rsicrc_context_close(context); }
  rsicrc_context* context = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    rsicrc::OpenOptions open;
    open.threads = 1;
    const rsicrc::Model model(argv[1], open);
    const Pictures pictures(4, 130, 170);
    const std::vector<rsicrc_pair> pairs(pictures.pairs().begin(), pictures.pairs().end());
    rsicrc::CaptionOptions options;
    options.beams = 3;
    int wrong = 0;

    {
      const Opened opened(model.get());
      // The model's first call opens its graphs; a look at each of those allocations would take minutes.
      rsicrc::check(rsicrc_caption(opened.context, pairs.data(), pairs.size(), &options));
      const Counts cold = watched(-1, Opened(model.get()).context, pairs, options);
      const Counts warm = watched(-1, opened.context, pairs, options);
      std::cout << "a context's first call: " << cold.ours << " allocations; a warm call: " << warm.ours << " (and "
                << warm.theirs << " of the backend)" << std::endl;
      // Were the first call's not seen, none seen in the second would mean nothing.
      wrong += warm.status == RSICRC_OK && warm.ours == 0 && cold.ours > 0 ? 0 : 1;
    }

    // Every one of the first, then ever fewer: later ones come from the same places.
    long failed = 0;
    for (long at = 0;; at += 1 + at / 8) {
      const Opened opened(model.get());
      const Counts counts = watched(at, opened.context, pairs, options);
      if (counts.ours <= at) break;
      ++failed;
      if (counts.status != RSICRC_OUT_OF_MEMORY) {
        std::cerr << "allocation " << at << " failed, and the call gave " << counts.status << ": "
                  << rsicrc_last_error() << '\n';
        ++wrong;
      }
      // The same context must be usable afterwards.
      if (rsicrc_caption(opened.context, pairs.data(), pairs.size(), &options) != RSICRC_OK) {
        std::cerr << "no caption after allocation " << at << " had failed: " << rsicrc_last_error() << '\n';
        ++wrong;
      }
    }
    std::cout << failed << " allocations failed once each\n";
    return wrong == 0 && failed > 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
