// Graphs as ONNX files: just what the reader takes.
#pragma once
#include <string>

#include "onnx_file.h"

inline std::string varint(uint64_t value) {
    std::string bytes;
    for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
    return bytes += static_cast<char>(value);
}
inline std::string number_field(int field, int64_t value) { return varint(field << 3) + varint(static_cast<uint64_t>(value)); }
inline std::string bytes_field(int field, const std::string& bytes) { return varint(field << 3 | 2) + varint(bytes.size()) + bytes; }

inline std::string write_graph(const ghostzoo::Graph& graph) {
    std::string body;
    for (const auto& node : graph.nodes) {
        std::string bytes;
        for (const auto& input : node.inputs) bytes += bytes_field(1, input);
        for (const auto& output : node.outputs) bytes += bytes_field(2, output);
        bytes += bytes_field(3, node.name) + bytes_field(4, node.op);
        for (const auto& [name, list] : node.ints) {
            std::string attribute = bytes_field(1, name);
            const int field = name == "group" || name == "axis" ? 3 : 8;
            for (int64_t value : list) attribute += number_field(field, value);
            bytes += bytes_field(5, attribute);
        }
        for (const auto& [name, text] : node.strings) bytes += bytes_field(5, bytes_field(1, name) + bytes_field(4, text));
        body += bytes_field(1, bytes);
    }
    for (const auto& [name, weight] : graph.weights) {
        std::string bytes;
        for (int64_t extent : weight.shape) bytes += number_field(1, extent);
        const auto* raw = reinterpret_cast<const char*>(weight.values.data());
        body += bytes_field(5, bytes + number_field(2, 1) + bytes_field(8, name) + bytes_field(9, {raw, weight.values.size() * 4}));
    }
    std::string shape;
    for (int64_t extent : graph.input_shape) shape += bytes_field(1, number_field(1, extent));
    body += bytes_field(11, bytes_field(1, graph.input) + bytes_field(2, bytes_field(1, number_field(1, 1) + bytes_field(2, shape))));
    for (const auto& output : graph.outputs) body += bytes_field(12, bytes_field(1, output));
    return bytes_field(7, body);
}
