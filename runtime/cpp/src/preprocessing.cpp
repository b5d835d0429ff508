#include "preprocessing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"

namespace rsicrc::impl {
namespace {

constexpr std::size_t kChannels = 3;
// The limits on images of the Python runtime.
constexpr std::size_t kMinSide = 16;
constexpr std::size_t kMaxPixels = std::size_t{1} << 26;
constexpr std::size_t kMaxAspect = 16;
// Pillow resizes 8-bit images in fixed point: 8 of 32 bits hold the pixel, and 2 protect the sum from overflow.
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
  if (shorter < kMinSide) {
    refuse(RSICRC_BAD_IMAGE, image.width, " x ", image.height, " pixels is too small. Each side needs at least ",
           kMinSide);
  }
  if (longer > kMaxPixels / shorter) {
    refuse(RSICRC_BAD_IMAGE, image.width, " x ", image.height, " pixels is more than ", kMaxPixels,
           ". Cut it into tiles");
  }
  if (longer > kMaxAspect * shorter) {
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

// Returns half the margin, rounded half to even as Python does.
std::size_t crop_offset(std::size_t length, std::size_t size) {
  const std::size_t margin = length - size, half = margin / 2;
  return margin % 2 == 0 || half % 2 == 0 ? half : half + 1;
}

// Returns the length of the longer side after the resize, truncated and divided as Python does.
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
         " after: both images must show the same place on the same grid. Resample one to the grid of the other");
  }
}

void Preprocessor::make_filter(Filter& filter, std::size_t from, std::size_t to, std::size_t offset) const {
  if (filter.from == from && filter.to == to && filter.offset == offset) return;
  filter.from = 0;  // marks the filter as invalid in case that an allocation below fails
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  // Antialiasing: if the image shrinks, the filter widens by the same factor.
  const double stretch = std::max(scale, 1.0), radius = kBicubicRadius * stretch;
  filter.stride = static_cast<std::size_t>(std::ceil(radius)) * 2 + 1;
  filter.taps.resize(size_);
  filter.weights.assign(size_ * filter.stride, 0);
  std::vector<double> exact(filter.stride);
  for (std::size_t i = 0; i < size_; ++i) {
    const double center = (static_cast<double>(i + offset) + 0.5) * scale;
    const auto first = static_cast<std::size_t>(std::max(center - radius + 0.5, 0.0));
    const std::size_t last = std::min(static_cast<std::size_t>(center + radius + 0.5), from);
    double sum = 0;
    for (std::size_t k = 0; k < last - first; ++k) {
      exact[k] = bicubic((static_cast<double>(k + first) - center + 0.5) * (1.0 / stretch));
      sum += exact[k];
    }
    for (std::size_t k = 0; k < last - first; ++k) {
      filter.weights[i * filter.stride + k] = fixed_point(sum == 0.0 ? exact[k] : exact[k] / sum);
    }
    filter.taps[i] = {first, last - first};
  }
  filter.from = from;
  filter.to = to;
  filter.offset = offset;
}

void Preprocessor::prepare(const rsicrc_image& image, Span<std::uint8_t> square) {
  std::uint8_t* output = square.data();
  const bool upright = image.width <= image.height;
  const std::size_t width = upright ? size_ : resized(image.width, image.height, size_);
  const std::size_t height = upright ? resized(image.height, image.width, size_) : size_;
  const std::size_t left = crop_offset(width, size_), top = crop_offset(height, size_);
  const std::size_t row = kChannels * size_, half = std::size_t{1} << (kFractionBits - 1);

  // As in Pillow, the horizontal pass comes first, each pass rounds to 8 bits, and a pass that would keep the size is
  // left out. Only the pixels of the crop are computed.
  const bool down = height != image.height;
  if (down) make_filter(vertical_, image.height, height, top);
  const std::size_t first = down ? vertical_.taps.front().first : top;
  const std::size_t last = down ? vertical_.taps.back().first + vertical_.taps.back().count : top + size_;
  const std::uint8_t* source = image.pixels + first * stride_of(image);
  const bool across = width != image.width;
  if (across) make_filter(horizontal_, image.width, width, left);
  if (down) rows_.resize((last - first) * row);
  std::uint8_t* const rows = down ? rows_.data() : output;
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
      target[0] = pixel(red);
      target[1] = pixel(green);
      target[2] = pixel(blue);
    }
  }
  if (!down) return;
  for (std::size_t y = 0; y < size_; ++y, output += row) {
    const Taps taps = vertical_.taps[y];
    const std::int32_t* weights = vertical_.weights.data() + y * vertical_.stride;
    const std::uint8_t* const from = rows_.data() + (taps.first - first) * row;
    for (std::size_t x = 0; x < row; ++x) {
      auto sum = static_cast<std::int32_t>(half);
      for (std::size_t k = 0; k < taps.count; ++k) sum += from[k * row + x] * weights[k];
      output[x] = pixel(sum);
    }
  }
}

}  // namespace rsicrc::impl
