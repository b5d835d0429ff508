// caption MODEL BEFORE.png AFTER.png: prints a caption of the change between two images.
#include <png.h>

#include <cstring>
#include <iostream>
#include <rsicrc/rsicrc.hpp>

struct Picture {
  explicit Picture(const char* path) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&png, path) == 0)
      throw std::runtime_error(std::string(path) + ": " + png.message);
    // A conversion of 16 bits to 8 could scale the two images differently.
    if ((png.format & PNG_FORMAT_FLAG_LINEAR) != 0) {
      png_image_free(&png);
      throw std::runtime_error(std::string(path) +
                               ": more than 8 bits a channel: scale both images in the same way first");
    }
    // libpng blends transparent pixels when it converts to RGB, so read RGBA and drop the alpha channel.
    png.format = PNG_FORMAT_RGBA;
    width = png.width;
    height = png.height;
    std::vector<std::uint8_t> rgba(PNG_IMAGE_SIZE(png));
    if (png_image_finish_read(&png, nullptr, rgba.data(), 0, nullptr) == 0) {
      throw std::runtime_error(std::string(path) + ": " + png.message);
    }
    pixels.resize(3 * width * height);
    for (std::size_t i = 0; i < width * height; ++i) std::memcpy(&pixels[3 * i], &rgba[4 * i], 3);
  }

  rsicrc::Image image() const { return {pixels.data(), width, height}; }

  std::size_t width, height;
  std::vector<std::uint8_t> pixels;
};

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: caption MODEL BEFORE.png AFTER.png\n";
    return 2;
  }
  try {
    const rsicrc::Model model(argv[1]);
    rsicrc::Context context(model);
    const Picture before(argv[2]), after(argv[3]);
    std::cout << context.caption({{before.image(), after.image()}}).front().text() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "caption: " << error.what() << '\n';
    return 1;
  }
}
