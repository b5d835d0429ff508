// allocations MODEL: checks that a repeated call allocates nothing in the library, and that the library survives the
// failure of each of its allocations.
//
// The operator new of this program serves the whole process. An allocation counts as the library's if the stack, from
// operator new outwards, reaches librsicrc before OpenVINO. Allocations inside OpenVINO's own calls are not counted.
#include <dlfcn.h>
#include <execinfo.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>

#include "image_pairs.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> library_allocations{0}, backend_allocations{0};
std::atomic<long> fail_at{-1};  // number of the library's allocation that fails; -1: none
thread_local bool in_allocate = false;

bool from_library() {
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
  if (counting && !in_allocate) {
    in_allocate = true;
    const bool counted = from_library();
    in_allocate = false;
    if (!counted) {
      ++backend_allocations;
    } else if (library_allocations++ == fail_at) {
      counting = false;
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
  long library, backend;
};

Counts counted_call(long failing, rsicrc_context* context, const std::vector<rsicrc_pair>& pairs,
                    const rsicrc_caption_options& options) {
  library_allocations = 0;
  backend_allocations = 0;
  fail_at = failing;
  counting = true;
  const rsicrc_status status = rsicrc_caption(context, pairs.data(), pairs.size(), &options);
  counting = false;
  return {status, library_allocations, backend_allocations};
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
    const ImagePairs images(4, 130, 170);
    const std::vector<rsicrc_pair> pairs(images.pairs().begin(), images.pairs().end());
    rsicrc::CaptionOptions options;
    options.beams = 3;
    int wrong = 0;

    {
      const Opened opened(model.get());
      // The first call of a model opens its graphs. Stack traces of all those allocations would take minutes.
      rsicrc::check(rsicrc_caption(opened.context, pairs.data(), pairs.size(), &options));
      const Counts cold = counted_call(-1, Opened(model.get()).context, pairs, options);
      const Counts warm = counted_call(-1, opened.context, pairs, options);
      std::cout << "a context's first call: " << cold.library << " allocations; a warm call: " << warm.library
                << " (and " << warm.backend << " of the backend)" << std::endl;
      // If none were counted in the first call of a context, the counter would not work.
      wrong += warm.status == RSICRC_OK && warm.library == 0 && cold.library > 0 ? 0 : 1;
    }

    // Fails each of the first allocations, then fewer and fewer: later ones come from the same code.
    long failed = 0;
    for (long at = 0;; at += 1 + at / 8) {
      const Opened opened(model.get());
      const Counts counts = counted_call(at, opened.context, pairs, options);
      if (counts.library <= at) break;
      ++failed;
      if (counts.status != RSICRC_OUT_OF_MEMORY) {
        std::cerr << "allocation " << at << " failed, and the call returned " << counts.status << ": "
                  << rsicrc_last_error() << '\n';
        ++wrong;
      }
      // The context must remain usable.
      if (rsicrc_caption(opened.context, pairs.data(), pairs.size(), &options) != RSICRC_OK) {
        std::cerr << "no caption after the failure of allocation " << at << ": " << rsicrc_last_error() << '\n';
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
