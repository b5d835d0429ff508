// Image preprocessing: bicubic resize of the shorter side to the model's image size, then center crop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rsicrc/rsicrc.h"
#include "span.h"

namespace rsicrc::impl {

// Throws BAD_IMAGE or INVALID_ARGUMENT if a pair cannot be used; `index` is for messages.
void check_pair(const rsicrc_pair& pair, std::size_t index);

// Resizes and crops images, with the same pixels as rsicrc/preprocessing.py. Its buffers are reused for the next image.
class Preprocessor {
 public:
  explicit Preprocessor(std::size_t size) : size_(size) {}

  // Writes an image that passed check_pair as uint8 [size, size, 3].
  void prepare(const rsicrc_image& image, Span<std::uint8_t> square);

 private:
  // The input rows or columns of one output row or column: `count` from `first` on.
  struct Taps {
    std::size_t first;
    std::size_t count;
  };
  // The filter of one direction, for an image of `from` pixels that is resized to `to` and cropped at `offset`.
  struct Filter {
    std::size_t from = 0, to = 0, offset = 0;
    std::size_t stride = 0;  // weights of one output pixel
    std::vector<Taps> taps;
    std::vector<std::int32_t> weights;
  };

  // Computes a filter, unless it is already the filter for these sizes.
  void make_filter(Filter& filter, std::size_t from, std::size_t to, std::size_t offset) const;

  std::size_t size_;
  Filter horizontal_, vertical_;
  std::vector<std::uint8_t> rows_;
};

}  // namespace rsicrc::impl
