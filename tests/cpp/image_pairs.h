// Generated pairs of images that differ much from each other, for the test programs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <rsicrc/rsicrc.hpp>
#include <vector>

class ImagePairs {
 public:
  ImagePairs(std::size_t pairs, std::size_t width, std::size_t height) {
    std::mt19937 random(1);
    for (std::size_t i = 0; i < 2 * pairs; ++i) {
      std::vector<std::uint8_t>& pixels = pixels_.emplace_back(3 * width * height);
      // Cells of uniform color: a convolution gives nearly the same output for all images of pure noise.
      const std::size_t cell = 1 + random() % 40;
      const auto shift = static_cast<std::uint32_t>(random());
      for (std::size_t at = 0; at < pixels.size(); ++at) {
        const std::size_t column = at / 3 % width / cell, row = at / 3 / width / cell;
        pixels[at] = static_cast<std::uint8_t>((column * 37 + row * 91 + at % 3 * 50 + shift) * 2654435761U >> 13);
      }
    }
    for (std::size_t i = 0; i < pairs; ++i) {
      pairs_.emplace_back(rsicrc::Image(pixels_[2 * i].data(), width, height),
                          rsicrc::Image(pixels_[2 * i + 1].data(), width, height));
    }
  }

  const std::vector<rsicrc::Pair>& pairs() const { return pairs_; }

 private:
  std::vector<std::vector<std::uint8_t>> pixels_;
  std::vector<rsicrc::Pair> pairs_;
};
