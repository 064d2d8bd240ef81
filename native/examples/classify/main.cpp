// classify BUNDLE IMAGE: the five best classes of an image file.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include <ghostzoo/ghostzoo.hpp>

int main(int count, char** arguments) {
    if (count != 3) return std::fputs("Usage: classify BUNDLE IMAGE\n", stderr), 2;
    std::ifstream stream(arguments[2], std::ios::binary);
    const std::string image{std::istreambuf_iterator<char>(stream), {}};
    try {
        const auto classifier = ghostzoo::Classifier::open(arguments[1]);
        for (const auto& found : classifier.classify(image)) std::printf("%5.1f %%  %s\n", 100 * found.score, found.label.c_str());
        return 0;
    } catch (const ghostzoo::Error& error) {
        return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
}
