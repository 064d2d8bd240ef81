// The subset of ONNX that ghostzoo's graphs are written in, read as data.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ghostzoo {

struct Weight {
    std::vector<int64_t> shape;
    std::vector<float> values;
};

struct Node {
    std::string op;
    std::string name;
    std::vector<std::string> inputs;
    std::vector<std::string> outputs;
    std::map<std::string, std::vector<int64_t>> ints;  // attributes; a lone number is a list of one
    std::map<std::string, std::string> strings;
};

struct Graph {
    std::vector<Node> nodes;
    std::map<std::string, Weight> weights;
    std::string input;
    std::vector<int64_t> input_shape;  // -1 where it is dynamic
    std::vector<std::string> outputs;
};

// Throws Failure (GHOSTZOO_BAD_MODEL) where `file` is no such graph. Allocates some
// megabytes more than the file is large, and no more.
Graph read_graph(std::string_view file);

}  // namespace ghostzoo
