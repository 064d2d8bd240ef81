// Pixels, and what becomes of them before the network.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "bundle.h"

namespace ghostzoo {

struct Image {
    int width = 0, height = 0;
    std::vector<uint8_t> rgb;  // rows from the top, three bytes a pixel
};

constexpr long kMaxImagePixels = 100'000'000;
constexpr int kMaxAspect = 256;  // of the longer side to the shorter

// Decodes JPEG, PNG or PPM, as far as this build has libraries for it. Throws Failure (GHOSTZOO_BAD_IMAGE,
// GHOSTZOO_UNSUPPORTED) where it cannot. JPEGs are turned as their EXIF orientation says.
Image decode(std::string_view file);

// The formats that `decode` reads in this build, such as "JPEG, PNG, PPM".
const char* decoded_formats();

// Resizes the shorter side as OpenCV does bilinearly or as Pillow does bicubically, cuts the centre and normalises: to
// [3][crop][crop] floats, bit for bit those of ghostzoo's Python package. Throws Failure (GHOSTZOO_BAD_IMAGE) where the image is too large or too long.
void preprocess(const uint8_t* rgb, int width, int height, const Preprocessing& config, float* out);

// The square of `crop` pixels a side at (left, top) of the picture that Pillow's antialiased bicubic resize would give.
std::vector<uint8_t> resize_bicubic(
    const uint8_t* rgb, int width, int height, int resized_width, int resized_height, int left, int top, int crop);

}  // namespace ghostzoo
