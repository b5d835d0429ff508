// What happens to an image before the graphs see it: bicubic resize of the shortest side, centre crop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rsicrc/rsicrc.h"

namespace rsicrc::impl {

// Throws BAD_IMAGE or INVALID_ARGUMENT where a pair cannot be used; `index` is for messages.
void check_pair(const rsicrc_pair& pair, std::size_t index);

// Resizes and crops images, equal to the pixel with rsicrc/preprocessing.py. Keeps its buffers for the next image.
class Preprocessor {
 public:
  explicit Preprocessor(std::size_t size) : size_(size) {}

  // Writes a checked image as uint8 [size, size, 3].
  void prepare(const rsicrc_image& image, std::uint8_t* square);

 private:
  // How the pixels of one output row or column come from the input's: `count` weights from `first` on.
  struct Taps {
    std::size_t first;
    std::size_t count;
  };
  struct Axis {
    std::size_t from = 0, to = 0, offset = 0;  // what the table is for
    std::size_t stride = 0;                    // weights of one output pixel
    std::vector<Taps> taps;
    std::vector<std::int32_t> weights;
  };

  void plan(Axis& axis, std::size_t from, std::size_t to, std::size_t offset) const;

  std::size_t size_;
  Axis horizontal_, vertical_;
  std::vector<std::uint8_t> rows_;
};

}  // namespace rsicrc::impl
