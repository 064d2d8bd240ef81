#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#endif

#include "backend.h"
#include "error.h"
#include "ghostzoo/ghostzoo.h"
#include "image.h"
#include "network.h"
#include "pool.h"

using namespace ghostzoo;

struct ghostzoo_network {
    Network network;
    std::string backend_name;
    std::unique_ptr<Backend> backend;  // runs the network, where another library was asked for

    void run(const float* pixels, size_t images, float* logits, float* embeddings) {
        if (backend) backend->run(pixels, images, logits, embeddings);
        else network.run(pixels, images, logits, embeddings);
    }
};

struct ghostzoo_classifier {
    Bundle bundle;
    ghostzoo_network network;
};

namespace {

thread_local std::string last_error;

template <class Work> ghostzoo_status guarded(Work work) {
    try {
        work();
        return GHOSTZOO_OK;
    } catch (const Failure& failure) {
        last_error = failure.what();
        return failure.status;
    } catch (const std::bad_alloc&) {
        last_error = "There is not enough memory.";
        return GHOSTZOO_NO_MEMORY;
    } catch (const std::exception& error) {
        last_error = error.what();
        return GHOSTZOO_UNSUPPORTED;
    }
}

const Kernels& chosen(const ghostzoo_options* options) {
    // How many bytes a caller's options have tells which version of the header it was compiled with.
    if (options && options->size < sizeof(ghostzoo_options))
        throw Failure(GHOSTZOO_BAD_ARGUMENT, "options.size must be sizeof(ghostzoo_options).");
    const std::string precision = options && options->precision ? options->precision : "";
    const std::string instructions = options && options->instructions ? options->instructions : "";
    const bool bfloat16 = precision == "bf16";
    if (!bfloat16 && !precision.empty() && precision != "fp32")
        throw Failure(GHOSTZOO_UNSUPPORTED, "There is no precision " + precision + "; use fp32 or bf16.");
    const Kernels* kernels = find_kernels(instructions.c_str(), bfloat16);
    if (kernels) return *kernels;
    if (bfloat16 && (instructions.empty() || find_kernels(instructions.c_str(), false)))
        throw Failure(GHOSTZOO_UNSUPPORTED, "Precision bf16 needs AVX512-BF16, which " + (instructions.empty() ? "this CPU or this build" : instructions) + " has not; use fp32.");
    throw Failure(GHOSTZOO_UNSUPPORTED, "This CPU or this build has no " + instructions + ".");
}

int thread_count(const ghostzoo_options* options) {
    const int threads = options ? options->threads : 0;
    if (threads < 0 || threads > 1024) throw Failure(GHOSTZOO_BAD_ARGUMENT, "threads must be 0 to 1024.");
#if defined(GHOSTZOO_NO_THREADS)
    if (threads > 1) throw Failure(GHOSTZOO_UNSUPPORTED, "This build has no threads of its own; use threads = 1.");
    return 1;
#else
    if (threads > 0) return threads;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const unsigned known = std::thread::hardware_concurrency();
    return known ? static_cast<int>(known) : 1;
#endif
}

template <class T> void need(const T* pointer, const char* name) {
    if (!pointer) throw Failure(GHOSTZOO_BAD_ARGUMENT, std::string(name) + " must not be null.");
}

// The options without a back end's name, which stands where one of an instruction set would.
class Asked {
public:
    explicit Asked(const ghostzoo_options* options) : options_(options) {
        if (!options || options->size < sizeof(ghostzoo_options) || !options->instructions || !has_backend(options->instructions)) return;
        if (options->precision && *options->precision && std::strcmp(options->precision, "fp32"))
            throw Failure(GHOSTZOO_UNSUPPORTED, std::string(options->instructions) + " runs in fp32 here; use that.");
        name_ = options->instructions;
        own_ = *options;
        own_.instructions = nullptr;
        options_ = &own_;
    }
    const ghostzoo_options* options() const { return options_; }
    // The network has been read and planned by then, so what the other library is given is sound.
    void attach(ghostzoo_network& opened, std::string_view file) const {
        if (name_.empty()) return;
        const Network& network = opened.network;
        const NetworkSizes sizes{size_t(network.image_size()), size_t(network.num_classes()), size_t(network.embedding_size())};
        opened.backend = open_backend(name_, file, sizes, thread_count(options_));
        opened.backend_name = name_;
    }

private:
    const ghostzoo_options* options_;
    ghostzoo_options own_{};
    std::string name_;
};

}  // namespace

const char* ghostzoo_version(void) { return GHOSTZOO_VERSION; }
const char* ghostzoo_last_error(void) { return last_error.c_str(); }

ghostzoo_status ghostzoo_check_options(const ghostzoo_options* options) {
    return guarded([&] {
        chosen(options);
        thread_count(options);
    });
}

ghostzoo_status ghostzoo_network_open(const void* onnx, size_t size, const ghostzoo_options* options, ghostzoo_network** network) {
    return guarded([&] {
        need(onnx, "onnx");
        need(network, "network");
        const std::string_view file(static_cast<const char*>(onnx), size);
        const Asked asked(options);
        auto opened = std::unique_ptr<ghostzoo_network>(
            new ghostzoo_network{{file, chosen(asked.options()), thread_count(asked.options())}, {}, {}}
        );
        asked.attach(*opened, file);
        *network = opened.release();
    });
}
void ghostzoo_network_close(ghostzoo_network* network) { delete network; }
int ghostzoo_network_image_size(const ghostzoo_network* network) { return !network ? 0 : network->network.image_size(); }
int ghostzoo_network_num_classes(const ghostzoo_network* network) { return !network ? 0 : network->network.num_classes(); }
int ghostzoo_network_embedding_size(const ghostzoo_network* network) { return !network ? 0 : network->network.embedding_size(); }
const char* ghostzoo_network_instructions(const ghostzoo_network* network) {
    return !network ? "" : network->backend ? network->backend_name.c_str() : network->network.kernels().name;
}
const char* ghostzoo_network_precision(const ghostzoo_network* network) {
    return !network ? "" : !network->backend && network->network.kernels().cell == 2 ? "bf16" : "fp32";
}
ghostzoo_status ghostzoo_network_run(ghostzoo_network* network, const float* pixels, size_t images, float* logits, float* embeddings) {
    return guarded([&] {
        need(network, "network");
        if (images == 0) return;
        need(pixels, "pixels");
        network->run(pixels, images, logits, embeddings);
    });
}

namespace {

constexpr float kThreshold = 0.5;  // as in ghostzoo's Python package, predictions.py

float sigmoid(float value) {
    const float smaller = std::exp(-std::abs(value));  // which never overflows
    return (value < 0 ? smaller : 1) / (1 + smaller);
}

void best(ghostzoo_classifier& classifier, const std::vector<float>& pixels, ghostzoo_class* classes, size_t* count) {
    const auto& labels = classifier.bundle.labels;
    std::vector<float> scores(labels.size());
    classifier.network.run(pixels.data(), 1, scores.data(), nullptr);
    const bool several = classifier.bundle.multi_label;
    for (float& score : scores) score = several ? sigmoid(score) : score / classifier.bundle.temperature;
    const float most = several ? 0 : *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (float& score : scores) sum += score = several ? score : std::exp(score - most);
    if (!std::isfinite(sum)) throw Failure(GHOSTZOO_BAD_MODEL, "Bundle " + classifier.bundle.name + ": its network gives no finite scores for this image.");
    std::vector<int> order;
    for (size_t i = 0; i < scores.size(); i++)
        if (!several || scores[i] >= kThreshold) order.push_back(static_cast<int>(i));
    if (several) sum = 1;
    *count = std::min(*count, order.size());
    std::partial_sort(order.begin(), order.begin() + *count, order.end(), [&](int a, int b) {
        return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    });
    for (size_t i = 0; i < *count; i++)
        classes[i] = {order[i], static_cast<float>(scores[order[i]] / sum), labels[order[i]].c_str()};
}

std::vector<float> room(const ghostzoo_classifier& classifier) {
    const size_t size = static_cast<size_t>(classifier.bundle.preprocessing.crop_size);
    return std::vector<float>(3 * size * size);
}

Image decoded(const void* file, size_t size) {
    need(file, "file");
    return decode({static_cast<const char*>(file), size});
}

}  // namespace

ghostzoo_status ghostzoo_open(const char* path, const ghostzoo_options* options, ghostzoo_classifier** classifier) {
    return guarded([&] {
        need(path, "path");
        need(classifier, "classifier");
        const Asked asked(options);
        Bundle bundle = read_bundle(path);
        const std::string model = std::move(bundle.model);
        auto opened = std::unique_ptr<ghostzoo_classifier>(
            new ghostzoo_classifier{std::move(bundle), {{model, chosen(asked.options()), thread_count(asked.options())}, {}, {}}}
        );
        asked.attach(opened->network, model);
        const Network& network = opened->network.network;
        if (network.num_classes() != static_cast<int>(opened->bundle.labels.size()) || network.image_size() != opened->bundle.preprocessing.crop_size)
            throw Failure(GHOSTZOO_BAD_BUNDLE, std::string("Bundle ") + path + ": its graph does not fit its labels or its image size.");
        *classifier = opened.release();
    });
}
void ghostzoo_close(ghostzoo_classifier* classifier) { delete classifier; }
const char* ghostzoo_name(const ghostzoo_classifier* classifier) { return !classifier ? "" : classifier->bundle.name.c_str(); }
int ghostzoo_num_classes(const ghostzoo_classifier* classifier) { return !classifier ? 0 : static_cast<int>(classifier->bundle.labels.size()); }
const char* ghostzoo_label(const ghostzoo_classifier* classifier, int index) {
    return index >= 0 && index < ghostzoo_num_classes(classifier) ? classifier->bundle.labels[index].c_str() : nullptr;
}
ghostzoo_network* ghostzoo_classifier_network(ghostzoo_classifier* classifier) { return !classifier ? nullptr : &classifier->network; }
const char* ghostzoo_formats(void) { return decoded_formats(); }

ghostzoo_status ghostzoo_classify_rgb(
    ghostzoo_classifier* classifier, const uint8_t* rgb, int width, int height, ghostzoo_class* classes, size_t* count
) {
    return guarded([&] {
        need(classifier, "classifier");
        need(rgb, "rgb");
        need(count, "count");
        if (*count) need(classes, "classes");
        std::vector<float> pixels = room(*classifier);
        preprocess(rgb, width, height, classifier->bundle.preprocessing, pixels.data());
        best(*classifier, pixels, classes, count);
    });
}
ghostzoo_status ghostzoo_classify(
    ghostzoo_classifier* classifier, const void* file, size_t size, ghostzoo_class* classes, size_t* count
) {
    Image image;
    const ghostzoo_status status = guarded([&] { image = decoded(file, size); });
    if (status != GHOSTZOO_OK) return status;
    return ghostzoo_classify_rgb(classifier, image.rgb.data(), image.width, image.height, classes, count);
}
ghostzoo_status ghostzoo_preprocess_rgb(const ghostzoo_classifier* classifier, const uint8_t* rgb, int width, int height, float* pixels) {
    return guarded([&] {
        need(classifier, "classifier");
        need(rgb, "rgb");
        need(pixels, "pixels");
        preprocess(rgb, width, height, classifier->bundle.preprocessing, pixels);
    });
}
ghostzoo_status ghostzoo_preprocess(const ghostzoo_classifier* classifier, const void* file, size_t size, float* pixels) {
    Image image;
    const ghostzoo_status status = guarded([&] { image = decoded(file, size); });
    if (status != GHOSTZOO_OK) return status;
    return ghostzoo_preprocess_rgb(classifier, image.rgb.data(), image.width, image.height, pixels);
}
