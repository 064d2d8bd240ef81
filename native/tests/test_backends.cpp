// Each back end of this build gives the logits and embeddings that the library's own kernels give.
//
// test_backends MODEL; ends with 77 where the build has none.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "backend.h"
#include "ghostzoo/ghostzoo.h"

namespace {

int failures = 0;

void fail(const char* name, const char* what) {
    std::fprintf(stderr, "FAILED: %s: %s (%s)\n", name, what, ghostzoo_last_error());
    failures++;
}

struct Outputs {
    std::vector<float> logits, embeddings;
};

Outputs run(const std::string& model, const char* name, const std::vector<float>& pixels, size_t images) {
    const ghostzoo_options options{sizeof options, 1, name, nullptr};
    ghostzoo_network* network = nullptr;
    if (ghostzoo_network_open(model.data(), model.size(), &options, &network) != GHOSTZOO_OK) return fail(name, "open"), Outputs{};
    if (*name && std::string(ghostzoo_network_instructions(network)) != name) fail(name, "another one runs");
    Outputs result{std::vector<float>(images * ghostzoo_network_num_classes(network)), std::vector<float>(images * ghostzoo_network_embedding_size(network))};
    if (ghostzoo_network_run(network, pixels.data(), images, result.logits.data(), result.embeddings.data()) != GHOSTZOO_OK) fail(name, "run");
    auto again = [&, alone = result.logits]() mutable {
        if (ghostzoo_network_run(network, pixels.data(), images, alone.data(), nullptr) != GHOSTZOO_OK || alone != result.logits) fail(name, "run at once");
    };
    std::thread first(again), second(again);
    first.join();
    second.join();
    ghostzoo_network_close(network);
    return result;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double most = 0, scale = 0;
    for (size_t i = 0; i < a.size() && i < b.size(); i++) {
        most = std::max(most, std::fabs(double(a[i]) - b[i]));
        scale = std::max(scale, std::fabs(double(a[i])));
    }
    return a.size() == b.size() && scale > 0 ? most / scale : 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) return 2;
    std::ifstream stream(arguments[1], std::ios::binary);
    const std::string model{std::istreambuf_iterator<char>(stream), {}};
    const size_t images = 3, size = 3 * 96 * 96;
    std::vector<float> pixels(images * size);
    for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<float>(std::sin(0.013 * static_cast<double>(i)));
    int found = 0;
    const Outputs expected = run(model, "", pixels, images);
    for (const char* name : {"onnxruntime", "openvino"}) {
        if (!ghostzoo::has_backend(name)) continue;
        found++;
        const Outputs actual = run(model, name, pixels, images);
        const double logits = difference(expected.logits, actual.logits), embeddings = difference(expected.embeddings, actual.embeddings);
        std::printf("%s: logits differ by %.1e of their scale, embeddings by %.1e\n", name, logits, embeddings);
        if (!(logits < 1e-5) || !(embeddings < 1e-5)) fail(name, "differs");
    }
    if (!found) return std::puts("Skipped: this build has no back ends; -DGHOSTZOO_WITH_ONNXRUNTIME=ON and -DGHOSTZOO_WITH_OPENVINO=ON add them."), 77;
    return failures ? 1 : 0;
}
