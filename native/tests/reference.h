// A plain evaluation of a graph in double precision, which the engine is held against.
#pragma once
#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnx_file.h"

using ghostzoo::Graph;
using ghostzoo::Node;

struct Tensor {
    int channels = 0, size = 0;
    std::vector<double> values;
    double& at(int c, int y, int x) { return values[(static_cast<size_t>(c) * size + y) * size + x]; }
    double padded(int c, int y, int x) const {
        if (y < 0 || y >= size || x < 0 || x >= size) return 0;
        return values[(static_cast<size_t>(c) * size + y) * size + x];
    }
};

inline Tensor make(int channels, int size) {
    Tensor tensor{channels, size, {}};
    tensor.values.resize(static_cast<size_t>(channels) * size * size);
    return tensor;
}

inline int number(const Node& node, const char* attribute) {
    auto found = node.ints.find(attribute);
    return found == node.ints.end() ? 1 : static_cast<int>(found->second.at(0));
}

inline Tensor convolve(const Graph& graph, const Node& node, const Tensor& in) {
    const auto& weight = graph.weights.at(node.inputs[1]);
    const int out = static_cast<int>(weight.shape[0]), depth = static_cast<int>(weight.shape[1]);
    const int height = static_cast<int>(weight.shape[2]), width = static_cast<int>(weight.shape[3]), stride = number(node, "strides");
    const int group = number(node, "group");
    Tensor result = make(out, (in.size + stride - 1) / stride);
    for (int c = 0; c < out; c++) {
        const double bias = node.inputs.size() > 2 ? graph.weights.at(node.inputs[2]).values[c] : 0;
        const int first = group == 1 ? 0 : c;
        for (int y = 0; y < result.size; y++)
            for (int x = 0; x < result.size; x++) {
                double sum = bias;
                const float* w = &weight.values[static_cast<size_t>(c) * depth * height * width];
                for (int k = 0; k < depth; k++)
                    for (int dy = 0; dy < height; dy++)
                        for (int dx = 0; dx < width; dx++)
                            sum += *w++ * in.padded(first + k, y * stride + dy - height / 2, x * stride + dx - width / 2);
                result.at(c, y, x) = sum;
            }
    }
    return result;
}

inline std::map<std::string, Tensor> evaluate(const Graph& graph, const std::vector<float>& pixels, int size) {
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
            const size_t each = result.values.size() / gate.values.size() == pixels_each ? pixels_each : 1;  // a gate a channel or a pixel
            for (size_t i = 0; i < result.values.size(); i++) result.values[i] *= gate.values[i / each];
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
        } else if (node.op == "Sigmoid") {
            for (double& v : result.values) v = 1 / (1 + std::exp(-v));
        } else if (node.op == "AveragePool" || (node.op == "Resize" && in.size > 1)) {
            const bool pools = node.op == "AveragePool";
            result = make(in.channels, pools ? in.size / 2 : static_cast<int>(in.size * graph.weights.at(node.inputs[2]).values[2]));
            Tensor from = in;
            for (int c = 0; c < in.channels; c++)
                for (int y = 0; y < result.size; y++)
                    for (int x = 0; x < result.size; x++) {
                        double& v = result.at(c, y, x);
                        if (!pools) v = from.at(c, y * in.size / result.size, x * in.size / result.size);
                        else for (int i = 0; i < 4; i++) v += from.at(c, 2 * y + i / 2, 2 * x + i % 2) / 4;
                    }
        } else if (node.op != "Resize" && node.op != "Flatten" && node.op != "Identity") {
            throw std::invalid_argument("unknown operator " + node.op);
        }
        values[node.outputs[0]] = result;
    }
    return values;
}

inline double difference(const float* mine, const std::vector<double>& right) {
    double most = 0, scale = 0;
    for (size_t i = 0; i < right.size(); i++) {
        most = std::fmax(most, std::fabs(mine[i] - right[i]));
        scale = std::fmax(scale, std::fabs(right[i]));
        if (std::isnan(mine[i])) most = INFINITY;
    }
    return most / scale;
}
