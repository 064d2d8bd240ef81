// From a graph to what is done, and in which order: the operators of an ONNX file become steps on rows of pixels.
//
// Halves of ghost modules stay planes of their own: nothing is joined. ReLU, the additions of shortcuts and the sums for
// pooling are done where a row is computed anyway, and gates are multiplied into the weights that follow. Large images
// stream through the operators row by row, so that a plane is a ring of the few rows that are still needed.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "onnx_file.h"

namespace ghostzoo {

struct PlaneInfo {
    int channels = 0, height = 0, width = 0;
    int halo = 0;
    int ring = 0;  // rows that are kept; 0: all of them
    long offset = -1;  // in floats, in the workspace
    int first_unit = -1, last_unit = -1;  // of the steps that threads do without waiting for each other
    int rows() const { return ring ? ring : height; }
};

struct VectorInfo {
    int size = 0;
    int whole = -1, part_of_whole = 0;  // the vector that this one is a part of, and where
    float scale = 1;                    // what its values still have to be multiplied by
};

struct Operation {
    enum class Kind { stem, pointwise, depthwise, add, attention, pool, linear, removed };
    Kind kind = Kind::removed;
    std::vector<int> inputs;  // planes; of attention, the second one has the gates
    std::vector<int> gates;   // of a pointwise convolution: a vector for each input, or -1
    int out = -1;
    int residual = -1, copy = -1, copy_residual = -1;
    int kernel = 1, stride = 1;
    bool relu = false;
    int sum_in = -1, sum_out = -1;       // vectors
    int vector_in = -1, vector_out = -1;  // of a linear operation
    Activation activation = Activation::none;
    std::vector<float> weights;  // [out][in] or [channel][kernel][kernel]
    std::vector<float> bias;
    bool on_rows() const { return kind != Kind::linear; }
    bool is_gated() const { return std::any_of(gates.begin(), gates.end(), [](int gate) { return gate >= 0; }); }
};

// How the threads that share an image divide a step: each a part of its rows or of its blocks of channels, all blocks
// that a thread has a share of in the whole operation, or the first one does it.
enum class Split : char { rows, blocks, owner, first };

struct Step {
    int operation;  // or, where `to_row` is zero, the plane whose ends are cleared
    short from_row, to_row;
    short from_block, to_block;
    Split split = Split::first;
    bool waits = true;  // for all threads to have done what was before, and begins a unit
};

struct Plan {
    std::vector<PlaneInfo> planes;
    std::vector<VectorInfo> vectors;
    std::vector<Operation> operations;
    std::vector<Step> steps;
    std::vector<size_t> units;  // the first step of each unit, and after the last one the number of steps
    size_t head = 0;  // the first step of those that are done for several images at once
    int image_size = 0;
    int logits = -1, embedding = -1;  // vectors
    int image_plane = -1;
};

// For vectors of `lanes` floats and planes whose cells have `cell` bytes. Throws Failure where the graph has what no
// GhostNet has.
Plan make_plan(Graph graph, int lanes, int cell);

}  // namespace ghostzoo
