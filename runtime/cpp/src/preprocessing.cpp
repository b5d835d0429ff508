#include "preprocessing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace rsicrc::impl {
namespace {

constexpr std::size_t kChannels = 3;
// The limits of rsicrc/images.py.
constexpr std::size_t kLeastSide = 16;
constexpr std::size_t kMostPixels = std::size_t{1} << 26;
constexpr std::size_t kMostAspect = 16;
// Pillow resizes 8-bit images in fixed point: 8 bits are the pixel's, 2 keep the sum from overflowing.
constexpr int kFractionBits = 32 - 8 - 2;
constexpr double kBicubicRadius = 2.0;

double bicubic(double x) {
  constexpr double kSharpness = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((kSharpness + 2.0) * x - (kSharpness + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kSharpness;
  return 0.0;
}

std::int32_t fixed_point(double weight) {
  return static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kFractionBits));
}

std::uint8_t pixel(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

std::size_t stride_of(const rsicrc_image& image) { return image.stride == 0 ? kChannels * image.width : image.stride; }

void check_image(const rsicrc_image& image, std::size_t index, const char* which) {
  const auto refuse = [&](rsicrc_status status, const auto&... why) {
    fail(status, "pair ", index, " (counted from 0), ", which, ": ", why...);
  };
  if (image.pixels == nullptr) refuse(RSICRC_INVALID_ARGUMENT, "no pixels (NULL)");
  const std::size_t shorter = std::min(image.width, image.height), longer = std::max(image.width, image.height);
  if (shorter < kLeastSide) {
    refuse(RSICRC_BAD_IMAGE, image.width, " x ", image.height, " pixels is too small. Each side needs at least ",
           kLeastSide);
  }
  if (longer > kMostPixels / shorter) {
    refuse(RSICRC_BAD_IMAGE, image.width, " x ", image.height, " pixels is more than ", kMostPixels,
           ". Cut it into tiles");
  }
  if (longer > kMostAspect * shorter) {
    refuse(RSICRC_BAD_IMAGE, image.width, " x ", image.height,
           " pixels is too long and narrow. Cut it into square tiles");
  }
  const std::size_t row = kChannels * image.width, stride = stride_of(image);
  if (stride < row) refuse(RSICRC_INVALID_ARGUMENT, "a stride of ", stride, " where a row has ", row, " bytes");
  if (image.bytes < row || (image.bytes - row) / stride < image.height - 1) {
    refuse(RSICRC_INVALID_ARGUMENT, "a buffer of ", image.bytes, " bytes is too short for ", image.width, " x ",
           image.height, " pixels of 3 bytes, ", stride, " from row to row");
  }
}

// Half to even, as Python rounds: which pixel an odd margin begins at depends on it.
std::size_t crop_offset(std::size_t length, std::size_t size) {
  const std::size_t margin = length - size, half = margin / 2;
  return margin % 2 == 0 || half % 2 == 0 ? half : half + 1;
}

// The long side is cut to a whole pixel; divided as Python does it.
std::size_t resized(std::size_t longer, std::size_t shorter, std::size_t size) {
  return static_cast<std::size_t>(static_cast<double>(size * longer) / static_cast<double>(shorter));
}

}  // namespace

void check_pair(const rsicrc_pair& pair, std::size_t index) {
  check_image(pair.before, index, "before");
  check_image(pair.after, index, "after");
  if (pair.before.width != pair.after.width || pair.before.height != pair.after.height) {
    fail(RSICRC_BAD_IMAGE, "pair ", index, " (counted from 0): ", pair.before.width, " x ", pair.before.height,
         " pixels before but ", pair.after.width, " x ", pair.after.height,
         " after: the two dates must show the same place on the same grid. Resample one to the other's grid");
  }
}

void Preprocessor::plan(Axis& axis, std::size_t from, std::size_t to, std::size_t offset) const {
  if (axis.from == from && axis.to == to && axis.offset == offset) return;
  axis.from = 0;  // until the table is whole: memory may run out on the way
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  // Antialias: where the image shrinks, the filter grows with it.
  const double stretch = std::max(scale, 1.0), radius = kBicubicRadius * stretch;
  axis.stride = static_cast<std::size_t>(std::ceil(radius)) * 2 + 1;
  axis.taps.resize(size_);
  axis.weights.assign(size_ * axis.stride, 0);
  std::vector<double> exact(axis.stride);
  for (std::size_t i = 0; i < size_; ++i) {
    const double centre = (static_cast<double>(i + offset) + 0.5) * scale;
    const auto first = static_cast<std::size_t>(std::max(centre - radius + 0.5, 0.0));
    const std::size_t last = std::min(static_cast<std::size_t>(centre + radius + 0.5), from);
    double sum = 0;
    for (std::size_t k = 0; k < last - first; ++k) {
      exact[k] = bicubic((static_cast<double>(k + first) - centre + 0.5) * (1.0 / stretch));
      sum += exact[k];
    }
    for (std::size_t k = 0; k < last - first; ++k) {
      axis.weights[i * axis.stride + k] = fixed_point(sum == 0.0 ? exact[k] : exact[k] / sum);
    }
    axis.taps[i] = {first, last - first};
  }
  axis.from = from, axis.to = to, axis.offset = offset;
}

void Preprocessor::prepare(const rsicrc_image& image, std::uint8_t* square) {
  const bool upright = image.width <= image.height;
  const std::size_t width = upright ? size_ : resized(image.width, image.height, size_);
  const std::size_t height = upright ? resized(image.height, image.width, size_) : size_;
  const std::size_t left = crop_offset(width, size_), top = crop_offset(height, size_);
  const std::size_t row = kChannels * size_, half = std::size_t{1} << (kFractionBits - 1);

  // Across first, then down, each rounded to 8 bits and left out where it changes nothing, as Pillow does; of both,
  // only what the crop shows.
  const bool down = height != image.height;
  if (down) plan(vertical_, image.height, height, top);
  const std::size_t first = down ? vertical_.taps.front().first : top;
  const std::size_t last = down ? vertical_.taps.back().first + vertical_.taps.back().count : top + size_;
  const std::uint8_t* source = image.pixels + first * stride_of(image);
  const bool across = width != image.width;
  if (across) plan(horizontal_, image.width, width, left);
  if (down) rows_.resize((last - first) * row);
  std::uint8_t* const rows = down ? rows_.data() : square;
  for (std::size_t y = 0; y < last - first; ++y, source += stride_of(image)) {
    std::uint8_t* target = rows + y * row;
    if (!across) {
      std::memcpy(target, source + left * kChannels, row);
      continue;
    }
    for (std::size_t x = 0; x < size_; ++x, target += kChannels) {
      const Taps taps = horizontal_.taps[x];
      const std::int32_t* weights = horizontal_.weights.data() + x * horizontal_.stride;
      const std::uint8_t* from = source + taps.first * kChannels;
      auto red = static_cast<std::int32_t>(half), green = red, blue = red;
      for (std::size_t k = 0; k < taps.count; ++k, from += kChannels) {
        red += from[0] * weights[k];
        green += from[1] * weights[k];
        blue += from[2] * weights[k];
      }
      target[0] = pixel(red), target[1] = pixel(green), target[2] = pixel(blue);
    }
  }
  if (!down) return;
  for (std::size_t y = 0; y < size_; ++y, square += row) {
    const Taps taps = vertical_.taps[y];
    const std::int32_t* weights = vertical_.weights.data() + y * vertical_.stride;
    const std::uint8_t* const from = rows_.data() + (taps.first - first) * row;
    for (std::size_t x = 0; x < row; ++x) {
      auto sum = static_cast<std::int32_t>(half);
      for (std::size_t k = 0; k < taps.count; ++k) sum += from[k * row + x] * weights[k];
      square[x] = pixel(sum);
    }
  }
}

}  // namespace rsicrc::impl
