// ghostzoo: classify images with the GhostNet family, from a bundle folder. C++ interface, over the one in C.
#ifndef GHOSTZOO_GHOSTZOO_HPP
#define GHOSTZOO_GHOSTZOO_HPP

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ghostzoo.h"

namespace ghostzoo {

class Error : public std::runtime_error {
public:
    Error(ghostzoo_status status, const std::string& reason) : std::runtime_error(reason), status(status) {}
    const ghostzoo_status status;
};

struct Options {
    int threads = 0;           // for one call; 0: one for each CPU that the process may use
    std::string instructions;  // "avx512", "avx2", ...; empty: the best that this CPU has
    std::string precision;     // "fp32" or "bf16"; empty: "fp32"
};

struct Class {
    int index;
    float score;  // 0 to 1
    std::string label;
};

// May be used from several threads at once.
class Classifier {
public:
    // Throws Error where `path` is no bundle, or cannot be run.
    static Classifier open(const std::string& path, const Options& options = {}) {
        const ghostzoo_options given{sizeof(ghostzoo_options), options.threads, options.instructions.c_str(), options.precision.c_str()};
        ghostzoo_classifier* handle = nullptr;
        check(ghostzoo_open(path.c_str(), &given, &handle));
        return Classifier(handle);
    }

    std::string name() const { return ghostzoo_name(handle_.get()); }
    int num_classes() const { return ghostzoo_num_classes(handle_.get()); }
    int image_size() const { return ghostzoo_network_image_size(network()); }
    std::string label(int index) const {
        const char* label = ghostzoo_label(handle_.get(), index);
        return label ? label : "";
    }

    // The best classes of an image file that is in memory, best first.
    std::vector<Class> classify(std::string_view file, size_t top_k = 5) const {
        return best(top_k, [&](ghostzoo_class* classes, size_t* count) {
            return ghostzoo_classify(handle_.get(), file.data(), file.size(), classes, count);
        });
    }
    // The same for pixels: rows from the top, three bytes (red, green, blue) a pixel.
    std::vector<Class> classify(const uint8_t* rgb, int width, int height, size_t top_k = 5) const {
        return best(top_k, [&](ghostzoo_class* classes, size_t* count) {
            return ghostzoo_classify_rgb(handle_.get(), rgb, width, height, classes, count);
        });
    }

    // What the network is given for an image file: [3][image_size][image_size].
    std::vector<float> preprocess(std::string_view file) const {
        std::vector<float> pixels(size_t(3) * image_size() * image_size());
        check(ghostzoo_preprocess(handle_.get(), file.data(), file.size(), pixels.data()));
        return pixels;
    }
    // `images` tensors as `preprocess` gives them -> [images][num_classes].
    std::vector<float> logits(const float* pixels, size_t images = 1) const {
        std::vector<float> result(images * num_classes());
        check(ghostzoo_network_run(network(), pixels, images, result.data(), nullptr));
        return result;
    }
    // -> [images][1280], what the last layer is given.
    std::vector<float> embedding(const float* pixels, size_t images = 1) const {
        std::vector<float> result(images * ghostzoo_network_embedding_size(network()));
        check(ghostzoo_network_run(network(), pixels, images, nullptr, result.data()));
        return result;
    }

    ghostzoo_network* network() const { return ghostzoo_classifier_network(handle_.get()); }

private:
    struct Close {
        void operator()(ghostzoo_classifier* handle) const { ghostzoo_close(handle); }
    };
    explicit Classifier(ghostzoo_classifier* handle) : handle_(handle) {}

    static void check(ghostzoo_status status) {
        if (status != GHOSTZOO_OK) throw Error(status, ghostzoo_last_error());
    }
    template <class Call> static std::vector<Class> best(size_t top_k, Call call) {
        std::vector<ghostzoo_class> classes(top_k);
        size_t count = top_k;
        check(call(classes.data(), &count));
        std::vector<Class> result;
        for (size_t i = 0; i < count; i++) result.push_back({classes[i].index, classes[i].score, classes[i].label});
        return result;
    }

    std::unique_ptr<ghostzoo_classifier, Close> handle_;
};

}  // namespace ghostzoo

#endif
