// ghostzoo-bench BUNDLE [INSTRUCTIONS [PRECISION]]: how long the network takes for one image and for batches.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "ghostzoo/ghostzoo.hpp"

int main(int count, char** arguments) {
    if (count < 2 || count > 4) return std::fputs("Usage: ghostzoo-bench BUNDLE [INSTRUCTIONS [PRECISION]]\n", stderr), 2;
    try {
        ghostzoo::Options options;
        options.threads = 1;
        if (count > 2) options.instructions = arguments[2];
        if (count > 3) options.precision = arguments[3];
        const auto classifier = ghostzoo::Classifier::open(arguments[1], options);
        std::printf(
            "%s, %s, %s, one thread\n", classifier.name().c_str(), ghostzoo_network_instructions(classifier.network()),
            ghostzoo_network_precision(classifier.network())
        );
        for (size_t images : {1, 8, 32}) {
            const std::vector<float> pixels(images * 3 * classifier.image_size() * classifier.image_size(), 0.5f);
            std::vector<double> times;
            const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
            while (times.size() < 5 || std::chrono::steady_clock::now() < end) {
                const auto start = std::chrono::steady_clock::now();
                classifier.logits(pixels.data(), images);
                times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(images));
            }
            std::sort(times.begin(), times.end());
            std::printf("batch %2zu: %.3f ms an image (median), %.3f ms (fastest)\n", images, times[times.size() / 2], times[0]);
        }
        return 0;
    } catch (const ghostzoo::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
