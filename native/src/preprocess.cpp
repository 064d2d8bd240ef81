#include <algorithm>
#include <cmath>
#include <string>

#include "error.h"
#include "image.h"

namespace ghostzoo {
namespace {

constexpr int kScale = 2048;  // OpenCV's fixed point has 11 bits

// Of each place of the window along one axis, two neighbours and their weights.
struct Taps {
    std::vector<int> first, second, a, b;
};

// At the borders both neighbours are the same pixel. OpenCV then gives the first one all the weight across, but keeps
// both weights down, which may round differently.
Taps make_taps(int source, int resized, int start, int count, bool whole_at_borders) {
    Taps taps;
    const double step = 1 / (static_cast<double>(resized) / source);
    const int last = source - 1;
    for (int i = 0; i < count; i++) {
        const float place = static_cast<float>((start + i + 0.5) * step - 0.5);
        const int index = static_cast<int>(std::floor(place));
        const bool outside = index < 0 || index >= last;
        const float fraction = whole_at_borders && outside ? 0 : place - static_cast<float>(index);
        taps.first.push_back(std::clamp(index, 0, last));
        taps.second.push_back(std::clamp(index + 1, 0, last));
        taps.a.push_back(static_cast<int>(std::nearbyint((1 - fraction) * kScale)));
        taps.b.push_back(static_cast<int>(std::nearbyint(fraction * kScale)));
    }
    return taps;
}

class Window {
public:
    Window(const uint8_t* rgb, int width, int height, int resized_width, int resized_height, int crop)
        : rgb_(rgb), width_(width), crop_(crop), left_((resized_width - crop) / 2), top_((resized_height - crop) / 2) {
        pixels.resize(static_cast<size_t>(crop) * crop * 3);
        if (width == 2 * resized_width && height == 2 * resized_height) halve();
        else resize(width, height, resized_width, resized_height);
    }

    std::vector<uint8_t> pixels;

private:
    // At exactly half the size OpenCV averages four pixels instead.
    void halve() {
        uint8_t* out = pixels.data();
        for (int y = 0; y < crop_; y++)
            for (int x = 0; x < crop_; x++) {
                const uint8_t* upper = rgb_ + (static_cast<size_t>(2) * (top_ + y) * width_ + 2 * (left_ + x)) * 3;
                const uint8_t* lower = upper + static_cast<size_t>(width_) * 3;
                for (int c = 0; c < 3; c++) *out++ = static_cast<uint8_t>((upper[c] + upper[c + 3] + lower[c] + lower[c + 3] + 2) >> 2);
            }
    }

    void resize(int width, int height, int resized_width, int resized_height) {
        const Taps across = make_taps(width, resized_width, left_, crop_, true);
        const Taps down = make_taps(height, resized_height, top_, crop_, false);
        std::vector<int> rows[2] = {std::vector<int>(crop_ * 3), std::vector<int>(crop_ * 3)};
        int held[2] = {-1, -1};
        for (int y = 0; y < crop_; y++) {
            const int wanted[2] = {down.first[y], down.second[y]};
            if (held[0] != wanted[0] && held[1] == wanted[0]) {
                std::swap(rows[0], rows[1]);
                std::swap(held[0], held[1]);
            }
            for (int i = 0; i < 2; i++) {
                if (held[i] == wanted[i]) continue;
                resize_row(wanted[i], across, rows[i]);
                held[i] = wanted[i];
            }
            uint8_t* out = pixels.data() + static_cast<size_t>(y) * crop_ * 3;
            for (int x = 0; x < crop_ * 3; x++)
                out[x] = static_cast<uint8_t>(((down.a[y] * (rows[0][x] >> 4) >> 16) + (down.b[y] * (rows[1][x] >> 4) >> 16) + 2) >> 2);
        }
    }

    void resize_row(int y, const Taps& across, std::vector<int>& out) const {
        const uint8_t* row = rgb_ + static_cast<size_t>(y) * width_ * 3;
        for (int x = 0; x < crop_; x++)
            for (int c = 0; c < 3; c++)
                out[3 * x + c] = row[across.first[x] * 3 + c] * across.a[x] + row[across.second[x] * 3 + c] * across.b[x];
    }

    const uint8_t* rgb_;
    const int width_, crop_, left_, top_;
};

std::vector<uint8_t> cut_bilinear(const uint8_t* rgb, int width, int height, int resize_short, int crop) {
    const double scale = static_cast<double>(resize_short) / std::min(width, height);
    const int resized_width = static_cast<int>(std::nearbyint(width * scale)), resized_height = static_cast<int>(std::nearbyint(height * scale));
    return Window(rgb, width, height, resized_width, resized_height, crop).pixels;
}

// The longer side is truncated, and the place of the crop rounded half to even.
std::vector<uint8_t> cut_bicubic(const uint8_t* rgb, int width, int height, int resize_short, int crop) {
    const double shorter = std::min(width, height);
    const int resized_width = static_cast<int>(static_cast<double>(resize_short) * width / shorter);
    const int resized_height = static_cast<int>(static_cast<double>(resize_short) * height / shorter);
    const int left = static_cast<int>(std::nearbyint((resized_width - crop) / 2.0)), top = static_cast<int>(std::nearbyint((resized_height - crop) / 2.0));
    return resize_bicubic(rgb, width, height, resized_width, resized_height, left, top, crop);
}

}  // namespace

void preprocess(const uint8_t* rgb, int width, int height, const Preprocessing& config, float* out) {
    if (width < 1 || height < 1) throw Failure(GHOSTZOO_BAD_IMAGE, "The image has no pixels.");
    if (static_cast<int64_t>(width) * height > kMaxImagePixels || std::max(width, height) / std::min(width, height) >= kMaxAspect)
        throw Failure(GHOSTZOO_BAD_IMAGE, "The image has " + std::to_string(width) + " x " + std::to_string(height) + " pixels, which is more than is read, or it is too long for its width.");
    const int crop = config.crop_size;
    const std::vector<uint8_t> pixels = (config.bicubic ? cut_bicubic : cut_bilinear)(rgb, width, height, config.resize_short, crop);
    const size_t plane = static_cast<size_t>(crop) * crop;
    for (int c = 0; c < 3; c++) {
        float table[256];
        for (int level = 0; level < 256; level++) {
            const volatile float scaled = config.bicubic ? static_cast<float>(level * config.rescale_factor)  // rounded, and not fused
                                                         : static_cast<float>(level) * static_cast<float>(config.rescale_factor);
            table[level] = (scaled - static_cast<float>(config.mean[c])) / static_cast<float>(config.std[c]);
        }
        for (size_t i = 0; i < plane; i++) out[c * plane + i] = table[pixels[3 * i + c]];
    }
}

}  // namespace ghostzoo
