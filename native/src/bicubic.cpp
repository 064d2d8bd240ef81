// Pillow's antialiased bicubic resize, bit for bit as ghostzoo's bicubic.py: across first, weights of 22 fractional bits.
#include <algorithm>
#include <cmath>

#include "image.h"

namespace ghostzoo {
namespace {

constexpr int kFractionBits = 22, kHalf = 1 << (kFractionBits - 1);
constexpr double kRadius = 2;

// Keys's kernel with a = -1/2, operation by operation as in Pillow.
double cubic(double distance) {
    constexpr double a = -0.5;
    const double x = std::fabs(distance);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

// Of each place of the window along one axis, the source's pixels from `first` to before `last`, and their weights.
struct Weights {
    std::vector<int> first, last;
    std::vector<std::vector<int>> values;
};

Weights make_weights(int source, int resized, int start, int count) {
    Weights weights;
    const double scale = static_cast<double>(source) / resized, widening = std::max(scale, 1.0), support = kRadius * widening;
    for (int i = 0; i < count; i++) {
        const double centre = (start + i + 0.5) * scale;
        const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
        const int last = std::min(static_cast<int>(centre + support + 0.5), source);
        std::vector<double> shares;
        double total = 0;
        for (int x = first; x < last; x++) {
            shares.push_back(cubic((x - centre + 0.5) * (1 / widening)));
            total += shares.back();
        }
        std::vector<int> values;
        for (const double share : shares)
            values.push_back(static_cast<int>(share / total * (1 << kFractionBits) + (share < 0 ? -0.5 : 0.5)));
        weights.first.push_back(first);
        weights.last.push_back(last);
        weights.values.push_back(std::move(values));
    }
    return weights;
}

uint8_t rounded(int sum) { return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

}  // namespace

std::vector<uint8_t> resize_bicubic(
    const uint8_t* rgb, int width, int height, int resized_width, int resized_height, int left, int top, int crop) {
    const Weights across = make_weights(width, resized_width, left, crop), down = make_weights(height, resized_height, top, crop);
    const int first_row = down.first.front(), length = 3 * crop;
    std::vector<uint8_t> narrow(static_cast<size_t>(down.last.back() - first_row) * length);
    uint8_t* target = narrow.data();
    for (int y = first_row; y < down.last.back(); y++)
        for (int x = 0; x < crop; x++) {
            const uint8_t* pixel = rgb + (static_cast<size_t>(y) * width + across.first[x]) * 3;
            int red = kHalf, green = kHalf, blue = kHalf;
            for (const int weight : across.values[x]) {
                red += weight * pixel[0];
                green += weight * pixel[1];
                blue += weight * pixel[2];
                pixel += 3;
            }
            *target++ = rounded(red);
            *target++ = rounded(green);
            *target++ = rounded(blue);
        }
    std::vector<uint8_t> out(static_cast<size_t>(crop) * length);
    std::vector<int> sums(length);
    for (int y = 0; y < crop; y++) {
        std::fill(sums.begin(), sums.end(), kHalf);
        const uint8_t* row = narrow.data() + static_cast<size_t>(down.first[y] - first_row) * length;
        for (const int weight : down.values[y]) {
            for (int x = 0; x < length; x++) sums[x] += weight * row[x];
            row += length;
        }
        std::transform(sums.begin(), sums.end(), out.begin() + static_cast<size_t>(y) * length, rounded);
    }
    return out;
}

}  // namespace ghostzoo
