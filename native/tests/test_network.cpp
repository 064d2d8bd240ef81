// The engine against a plain evaluation of the same graph in double precision, for every instruction set of this CPU.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ghostzoo/ghostzoo.h"
#include "onnx_file.h"

using ghostzoo::Graph;
using ghostzoo::Node;

namespace {

struct Tensor {
    int channels = 0, size = 0;
    std::vector<double> values;
    double& at(int c, int y, int x) { return values[(static_cast<size_t>(c) * size + y) * size + x]; }
    double padded(int c, int y, int x) const {
        if (y < 0 || y >= size || x < 0 || x >= size) return 0;
        return values[(static_cast<size_t>(c) * size + y) * size + x];
    }
};

Tensor make(int channels, int size) {
    Tensor tensor{channels, size, {}};
    tensor.values.resize(static_cast<size_t>(channels) * size * size);
    return tensor;
}

Tensor convolve(const Graph& graph, const Node& node, const Tensor& in) {
    const auto& weight = graph.weights.at(node.inputs[1]);
    const int out = static_cast<int>(weight.shape[0]), depth = static_cast<int>(weight.shape[1]);
    const int kernel = static_cast<int>(weight.shape[2]), stride = static_cast<int>(node.ints.at("strides")[0]);
    const int group = static_cast<int>(node.ints.at("group")[0]);
    Tensor result = make(out, (in.size + stride - 1) / stride);
    for (int c = 0; c < out; c++) {
        const double bias = node.inputs.size() > 2 ? graph.weights.at(node.inputs[2]).values[c] : 0;
        const int first = group == 1 ? 0 : c;
        for (int y = 0; y < result.size; y++)
            for (int x = 0; x < result.size; x++) {
                double sum = bias;
                const float* w = &weight.values[static_cast<size_t>(c) * depth * kernel * kernel];
                for (int k = 0; k < depth; k++)
                    for (int dy = 0; dy < kernel; dy++)
                        for (int dx = 0; dx < kernel; dx++)
                            sum += *w++ * in.padded(first + k, y * stride + dy - kernel / 2, x * stride + dx - kernel / 2);
                result.at(c, y, x) = sum;
            }
    }
    return result;
}

std::map<std::string, Tensor> evaluate(const Graph& graph, const std::vector<float>& pixels, int size) {
    std::map<std::string, Tensor> values;
    values[graph.input] = {3, size, std::vector<double>(pixels.begin(), pixels.end())};
    for (const Node& node : graph.nodes) {
        const Tensor& in = values.at(node.inputs[0]);
        Tensor result = in;
        if (node.op == "Conv") {
            result = convolve(graph, node, in);
        } else if (node.op == "Relu") {
            for (double& v : result.values) v = v > 0 ? v : 0;
        } else if (node.op == "Clip") {
            for (double& v : result.values) v = v < 0 ? 0 : v > 1 ? 1 : v;
        } else if (node.op == "Add") {
            for (size_t i = 0; i < result.values.size(); i++) result.values[i] += values.at(node.inputs[1]).values[i];
        } else if (node.op == "Mul") {
            const Tensor& gate = values.at(node.inputs[1]);
            const size_t pixels_each = result.values.size() / result.channels;
            for (size_t i = 0; i < result.values.size(); i++) result.values[i] *= gate.values[i / pixels_each];
        } else if (node.op == "Concat") {
            for (size_t i = 1; i < node.inputs.size(); i++) {
                const Tensor& more = values.at(node.inputs[i]);
                result.values.insert(result.values.end(), more.values.begin(), more.values.end());
                result.channels += more.channels;
            }
        } else if (node.op == "GlobalAveragePool") {
            result = make(in.channels, 1);
            const size_t pixels_each = in.values.size() / in.channels;
            for (size_t i = 0; i < in.values.size(); i++) result.values[i / pixels_each] += in.values[i] / pixels_each;
        } else if (node.op != "Resize" && node.op != "Flatten") {
            std::fprintf(stderr, "unknown operator %s\n", node.op.c_str());
            std::exit(1);
        }
        values[node.outputs[0]] = result;
    }
    return values;
}

int failures = 0;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    failures++;
}

double difference(const float* mine, const std::vector<double>& right) {
    double most = 0, scale = 0;
    for (size_t i = 0; i < right.size(); i++) {
        most = std::fmax(most, std::fabs(mine[i] - right[i]));
        scale = std::fmax(scale, std::fabs(right[i]));
        if (std::isnan(mine[i])) most = INFINITY;
    }
    return most / scale;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return 2;
    std::ifstream stream(arguments[1], std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(stream), {}};
    const Graph graph = ghostzoo::read_graph(file);
    const int size = static_cast<int>(graph.input_shape[2]);
    const size_t floats = size_t(3) * size * size;
    constexpr size_t kImages = 3, kRepeated = 27;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> pixels(kImages * floats);
    for (float& pixel : pixels) pixel = normal(random);
    std::vector<Tensor> logits, embeddings;
    for (size_t i = 0; i < kImages; i++) {
        auto values = evaluate(graph, {pixels.begin() + i * floats, pixels.begin() + (i + 1) * floats}, size);
        logits.push_back(values.at("logits"));
        embeddings.push_back(values.at("embedding"));
    }
    const size_t classes = logits[0].values.size(), width = embeddings[0].values.size();
    std::vector<float> batch;
    for (size_t i = 0; i < kRepeated; i++)
        batch.insert(batch.end(), pixels.begin() + (i % kImages) * floats, pixels.begin() + (i % kImages + 1) * floats);
    int ran = 0;
    for (const char* instructions : {"generic", "avx2", "avx512", "neon"}) {
        for (int threads : {1, 3}) {
            ghostzoo_options options{sizeof options, threads, instructions, nullptr};
            ghostzoo_network* network = nullptr;
            const ghostzoo_status status = ghostzoo_network_open(file.data(), file.size(), &options, &network);
            if (status == GHOSTZOO_UNSUPPORTED) continue;
            expect(status == GHOSTZOO_OK, std::string(instructions) + ": " + ghostzoo_last_error());
            if (status != GHOSTZOO_OK) continue;
            ran++;
            expect(ghostzoo_network_num_classes(network) == static_cast<int>(classes), "the number of classes");
            auto check = [&](size_t images) {
                std::vector<float> out(images * classes), embedding(images * width);
                expect(ghostzoo_network_run(network, batch.data(), images, out.data(), embedding.data()) == GHOSTZOO_OK, "run");
                for (size_t i = 0; i < images; i++) {
                    const double a = difference(&out[i * classes], logits[i % kImages].values);
                    const double b = difference(&embedding[i * width], embeddings[i % kImages].values);
                    expect(a < 1e-5 && b < 1e-5, std::string(instructions) + ", image " + std::to_string(i) + " of " +
                           std::to_string(images) + ": logits differ by " + std::to_string(a) + ", embeddings by " + std::to_string(b));
                }
            };
            for (size_t images : {1, 2, 5, 12, 13, 27}) check(images);
            std::vector<std::thread> callers;
            for (int i = 0; i < 4; i++) callers.emplace_back([&] { check(5); });
            for (std::thread& caller : callers) caller.join();
            ghostzoo_network_close(network);
        }
    }
    expect(ran >= 2, "no instruction set ran");
    std::printf("%d ways to run, %d failures\n", ran, failures);
    return failures ? 1 : 0;
}
