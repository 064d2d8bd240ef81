// Small graphs of odd structure: each gives what a plain evaluation gives, or is refused with a reason.
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "ghostzoo/ghostzoo.h"
#include "onnx_writer.h"
#include "reference.h"
#include "ways.h"

namespace {

constexpr int kClasses = 5;

class Builder {
public:
    explicit Builder(int size) {
        graph.input = "image";
        graph.input_shape = {1, 3, size, size};
        graph.outputs = {"logits", "embedding"};
    }

    std::string add(const char* op, std::vector<std::string> inputs, const std::string& result = "") {
        Node node;
        node.op = op;
        node.inputs = std::move(inputs);
        node.name = result.empty() ? "v" + std::to_string(graph.nodes.size()) : result;
        node.outputs = {node.name};
        if (node.op == "Concat") node.ints["axis"] = {1};
        graph.nodes.push_back(node);
        return node.name;
    }
    std::string conv(const std::string& in, int depth, int out, int kernel = 1, int stride = 1, int group = 1, const std::string& result = "") {
        const std::string weight = "w" + std::to_string(graph.nodes.size());
        ghostzoo::Weight values{{out, depth / group, kernel, kernel}, {}};
        values.values.resize(static_cast<size_t>(out) * (depth / group) * kernel * kernel);
        std::normal_distribution<float> normal(0, 0.5f);
        for (float& value : values.values) value = normal(random_);
        graph.weights[weight] = values;
        const std::string name = add("Conv", {in, weight}, result);
        graph.nodes.back().ints = {{"group", {group}}, {"strides", {stride, stride}}, {"pads", std::vector<int64_t>(4, kernel / 2)}};
        return name;
    }
    std::string stem(int out = 16) { return add("Relu", {conv("image", 3, out, 3, 2)}); }
    void head(const std::string& planes, int channels) {
        const std::string embedding = add("Relu", {conv(add("GlobalAveragePool", {planes}), channels, 16)}, "embedding");
        conv(embedding, 16, kClasses, 1, 1, 1, "logits");
    }

    Graph graph;

private:
    std::mt19937 random_{1};
};

int failures = 0;
void fail(const std::string& what) {
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    failures++;
}

enum class Expected { right, refused, either };

void check(const char* name, Expected expected, const std::function<void(Builder&)>& build, int size = 12) {
    Builder builder(size);
    build(builder);
    const std::string file = write_graph(builder.graph);
    for (const auto& [instructions, precision, tolerance] : kWays) {
        ghostzoo_options options{sizeof options, 1, instructions, precision};
        ghostzoo_network* network = nullptr;
        const std::string place = std::string(name) + ", " + instructions + " " + precision + ": ";
        if (ghostzoo_network_open(file.data(), file.size(), &options, &network) != GHOSTZOO_OK) {
            const std::string reason = ghostzoo_last_error();
            if (reason.find("This CPU or this build has no") == 0 || reason.find("Precision bf16 needs") == 0) continue;
            if (expected == Expected::right) fail(place + reason);
            if (reason.size() < 20 || reason.back() != '.') fail(place + "no reason but: " + reason);
            continue;
        }
        if (expected == Expected::refused) fail(place + "it is not refused");
        constexpr size_t kImages = 3;
        const size_t floats = size_t(3) * size * size;
        std::vector<float> pixels(kImages * floats), logits(kImages * kClasses), embeddings(kImages * 16);
        std::mt19937 random(2);
        std::normal_distribution<float> normal;
        for (float& pixel : pixels) pixel = normal(random);
        if (ghostzoo_network_num_classes(network) != kClasses || ghostzoo_network_embedding_size(network) != 16) fail(place + "its sizes");
        else if (ghostzoo_network_run(network, pixels.data(), kImages, logits.data(), embeddings.data()) != GHOSTZOO_OK) fail(place + "it does not run");
        else for (size_t i = 0; i < kImages; i++) {
            const auto right = evaluate(builder.graph, {pixels.begin() + i * floats, pixels.begin() + (i + 1) * floats}, size);
            const double a = difference(&logits[i * kClasses], right.at("logits").values);
            const double b = difference(&embeddings[i * 16], right.at("embedding").values);
            if (!(a < tolerance && b < tolerance)) fail(place + "image " + std::to_string(i) + " differs by " + std::to_string(a) + " and " + std::to_string(b));
        }
        ghostzoo_network_close(network);
    }
}

}  // namespace

int main() {
    using E = Expected;
    check("a plain network", E::right, [](Builder& b) { b.head(b.add("Relu", {b.conv(b.conv(b.stem(), 16, 24), 24, 24, 3, 1, 24)}), 24); });
    check("ReLU of a tensor with another name", E::either, [](Builder& b) {
        const auto v = b.conv(b.stem(), 16, 16);
        const auto kept = b.conv(v, 16, 16, 3, 1, 16);
        b.head(b.add("Add", {b.add("Relu", {b.add("Identity", {v})}), kept}), 16);
    });
    check("ReLU of joined tensors that are used apart", E::either, [](Builder& b) {
        const auto stem = b.stem(), v = b.conv(stem, 16, 16), w = b.conv(stem, 16, 16);
        const auto joined = b.add("Relu", {b.add("Concat", {v, w})});
        b.head(b.add("Concat", {joined, b.conv(v, 16, 16)}), 48);
    });
    check("a sum of which a part is used later", E::right, [](Builder& b) {
        const auto stem = b.stem(), v = b.conv(stem, 16, 16, 3, 1, 16), sum = b.add("Add", {stem, v});
        b.head(b.add("Add", {b.conv(sum, 16, 16), b.conv(v, 16, 16)}), 16);
    });
    check("ReLU of a sum with what a depthwise convolution takes, too", E::right, [](Builder& b) {
        const auto stem = b.stem(), v = b.conv(stem, 16, 16), w = b.conv(v, 16, 16, 3, 1, 16);
        b.head(b.add("Concat", {b.add("Relu", {b.add("Add", {v, stem})}), w}), 32);
    });
    check("a sum of a tensor with itself", E::either, [](Builder& b) {
        const auto v = b.conv(b.stem(), 16, 16);
        b.head(b.add("Add", {v, v}), 16);
    });
    check("a sum of gated tensors", E::either, [](Builder& b) {
        const auto stem = b.stem(), v = b.conv(stem, 16, 16);
        const auto gate = b.conv(b.add("GlobalAveragePool", {stem}), 16, 16);
        b.head(b.add("Add", {b.add("Mul", {v, gate}), b.conv(stem, 16, 16)}), 16);
    });
    check("the sum of a later and an earlier convolution", E::right, [](Builder& b) {
        const auto stem = b.stem(), early = b.conv(stem, 16, 16), late = b.conv(b.conv(stem, 16, 16, 3, 1, 16), 16, 16);
        b.head(b.add("Add", {late, early}), 16);
    });
    check("a pooled tensor as a gate", E::either, [](Builder& b) {
        const auto stem = b.stem();
        b.head(b.conv(b.add("Mul", {stem, b.add("GlobalAveragePool", {stem})}), 16, 16), 16);
    });
    auto halves = [](Builder& b) {
        const auto stem = b.stem(8), v = b.add("Relu", {b.conv(stem, 8, 8)}), w = b.conv(v, 8, 8, 3, 1, 8);
        const auto x = b.conv(b.add("Concat", {v, w}), 16, 24), y = b.add("Relu", {b.conv(x, 24, 24, 3, 1, 24)});
        const auto z = b.conv(y, 24, 24, 5, 2, 24), gate = b.conv(b.add("GlobalAveragePool", {z}), 24, 24);
        const auto p = b.conv(b.add("Mul", {z, gate}), 24, 40), q = b.conv(p, 40, 40, 3, 1, 40);
        const auto shortcut = b.conv(b.conv(x, 24, 24, 3, 2, 24), 24, 40);
        const auto first = b.add("Add", {p, shortcut}), second = b.add("Add", {q, shortcut});
        b.head(b.add("Concat", {first, second}), 80);
    };
    for (int size : {12, 56, 112}) check("halves of vectors", E::right, halves, size);
    auto attend = [](Builder& b, float scale) {
        auto line = [&](const std::string& in, int64_t height, int64_t width) {
            const auto name = b.conv(in, 24, 24, 5, 1, 24);
            auto& weight = b.graph.weights.at(b.graph.nodes.back().inputs[1]);
            weight.shape = {24, 1, height, width};
            weight.values.resize(24 * 5);
            b.graph.nodes.back().ints["pads"] = {height / 2, width / 2, height / 2, width / 2};
            return name;
        };
        const auto stem = b.stem(), rows = b.add("Relu", {b.conv(stem, 16, 24)}), pooled = b.add("AveragePool", {stem});
        b.graph.nodes.back().ints = {{"kernel_shape", {2, 2}}, {"strides", {2, 2}}};
        const auto gate = b.add("Sigmoid", {line(line(b.conv(pooled, 16, 24), 1, 5), 5, 1)});
        b.graph.weights["scales"] = {{4}, {1, 1, scale, scale}};
        const auto wide = b.add("Resize", {gate, "", "scales"});
        b.graph.nodes.back().strings = {{"mode", "nearest"}, {"nearest_mode", "floor"}, {"coordinate_transformation_mode", "asymmetric"}};
        b.head(b.conv(b.add("Mul", {rows, wide}), 24, 16), 16);
    };
    check("attention", E::right, [&](Builder& b) { attend(b, 2); });
    check("attention that is spread too far", E::refused, [&](Builder& b) { attend(b, 3); });
    check("a sigmoid that is no gate", E::refused, [](Builder& b) { b.head(b.conv(b.add("Sigmoid", {b.stem()}), 16, 16), 16); });
    check("ReLU after attention", E::either, [](Builder& b) {
        const auto stem = b.stem(), gate = b.add("Sigmoid", {b.conv(stem, 16, 16)});
        b.head(b.conv(b.add("Relu", {b.add("Mul", {stem, gate})}), 16, 16), 16);
    });
    check("the image in the middle", E::refused, [](Builder& b) { b.head(b.conv(b.add("Concat", {b.stem(), "image"}), 19, 16), 16); });
    check("the image pooled", E::refused, [](Builder& b) { b.head("image", 3); });
    check("the image added", E::refused, [](Builder& b) { b.head(b.add("Add", {"image", b.conv(b.stem(), 16, 3)}), 3); });
    check("an embedding that no layer makes", E::refused, [](Builder& b) {
        b.add("GlobalAveragePool", {b.stem()}, "embedding");
        b.conv("embedding", 16, kClasses, 1, 1, 1, "logits");
    });
    check("a head of two vectors", E::refused, [](Builder& b) {
        const auto stem = b.stem(), other = b.conv(b.add("GlobalAveragePool", {stem}), 16, 16);
        b.head(b.conv(stem, 16, 16), 16);
        b.graph.nodes.back().inputs[0] = other;
    });
    check("tensors joined with themselves, again and again", E::refused, [](Builder& b) {
        auto v = b.stem();
        for (int i = 0; i < 60; i++) v = b.add("Concat", {v, v});
        b.head(v, 16);
    });
    check("one large weight in many layers", E::refused, [](Builder& b) {
        auto v = b.conv(b.stem(), 16, 4096);
        b.conv(v, 4096, 4096);
        const auto weight = b.graph.nodes.back().inputs[1];
        b.graph.nodes.pop_back();
        for (int i = 0; i < 20; i++) {
            v = b.conv(v, 1, 1);
            b.graph.nodes.back().inputs[1] = weight;
        }
        b.head(v, 4096);
    });
    check("too many nodes", E::refused, [](Builder& b) {
        auto v = b.stem();
        for (int i = 0; i < 1100; i++) v = b.add("Identity", {v});
        b.head(v, 16);
    });
    for (const char* attribute : {"group", "strides", "pads", "axis"})
        check("an attribute without a value", E::either, [&](Builder& b) {
            b.head(b.add("Concat", {b.conv(b.stem(), 16, 16)}), 16);
            for (Node& node : b.graph.nodes)
                if (node.ints.count(attribute)) node.ints[attribute] = {0};
        });
    const ghostzoo_options old{4, 1, "", nullptr}, many{sizeof many, 1000000, "", nullptr};
    const ghostzoo_options narrow{sizeof narrow, 1, "generic", "bf16"}, unknown{sizeof unknown, 1, "", "bf17"};
    ghostzoo_network* network = nullptr;
    for (const ghostzoo_options* options : {&narrow, &unknown})
        if (ghostzoo_network_open("", 0, options, &network) != GHOSTZOO_UNSUPPORTED) fail("a precision that is not there is refused");
    for (const ghostzoo_options* options : {&old, &many})
        if (ghostzoo_network_open("", 0, options, &network) != GHOSTZOO_BAD_ARGUMENT) fail("options that are no such are refused");
    if (ghostzoo_network_open("", 0, nullptr, nullptr) != GHOSTZOO_BAD_ARGUMENT) fail("a null pointer is refused");
    if (ghostzoo_network_run(nullptr, nullptr, 1, nullptr, nullptr) != GHOSTZOO_BAD_ARGUMENT) fail("a null network is refused");
    if (ghostzoo_network_num_classes(nullptr) || ghostzoo_num_classes(nullptr) || *ghostzoo_name(nullptr) || ghostzoo_label(nullptr, 0))
        fail("a null handle has nothing");
    ghostzoo_close(nullptr);
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
