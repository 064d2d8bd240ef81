// The work on rows of pixels, compiled once for each instruction set.
//
// A plane holds the rows of one tensor, each pixel's channels side by side: [row][pixel][channel], with `halo` zero
// pixels at both ends of a row. Its rows may lie in a ring of a power of two of them, for images that stream through.
// Its cells are float32, or bfloat16 for kernels of that precision; bias, sums and vectors are float32 for both.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ghostzoo {

constexpr int kMaxInputs = 4;
constexpr int kMaxKernel = 5;

struct View {
    void* base = nullptr;  // the first pixel of row 0, after the halo
    long row = 0;          // cells from a row to the next
    long pixel = 0;        // cells from a pixel to the next
    int mask = -1;         // of the ring; -1 where all rows are there
    template <class Cell> Cell* at(int r) const { return static_cast<Cell*>(base) + (r & mask) * row; }
};

struct PointwiseCall {
    struct Input {
        View view;
        int channels;
        const float* gate;  // of each channel, where they are gated
    };
    Input inputs[kMaxInputs];
    int input_count;
    View out;
    int out_channels;
    View residual;  // added, where it has a base
    bool relu;
    const float* weights;  // of bfloat16, those of two input channels each
    const float* bias;
    float* gated;  // room for the weights of a block times the gates, where there are any
    int width;
    int from_row, to_row;
    int from_block, to_block;  // of two vectors of channels, the last one perhaps of two and a half
    const float *ahead, *ahead_end;  // weights of what comes later, some of which is fetched meanwhile: that moves `ahead` on
};

struct DepthwiseCall {
    View in, out;
    int kernel, stride;
    int channels;
    int in_height, width;
    const void* zeros;  // a row of them, for what lies above and below the image
    View residual;       // added to the output, where it has a base
    View copy, copy_residual;  // where copy has a base, it becomes the input plus copy_residual
    bool relu;
    const float* weights;
    const float* bias;
    float* sum_in;   // gains the sum of the input's pixels, where it is given
    float* sum_out;  // gains the sum of the output's
    int from_row, to_row;
    int from_vector, to_vector;
};

struct StemCall {
    const float* image;  // [3][height][width]
    int in_height, in_width;
    float* scratch;  // 12 rows of stem_row(in_width)
    View out;
    int channels, width;
    bool relu;
    const float* weights;
    const float* bias;
    int from_row, to_row;
};

struct AddCall {
    View a, b, out;
    int channels, width;
    bool relu;
    int from_row, to_row;
};

struct AttentionCall {
    View in, gates, out;  // out: in times the sigmoid of the nearest gate above and to the left
    int channels, width, height, gates_width, gates_height;
    int from_row, to_row;
};

struct PoolCall {
    View in;
    int channels, width;
    float* sum;  // gains the sum of the pixels
    int from_row, to_row;
};

enum class Activation { none, relu, clip };  // clip: to 0..1

struct LinearCall {
    const float* in;
    float* out;
    long in_stride, out_stride;  // from an image to the next
    int images, in_size, out_size;
    int from_vector, to_vector;  // of the output
    const void* weights;  // cells
    const float* bias;
    Activation activation;
    float scale;  // of the input
};

struct Kernels {
    const char* name;
    int lanes;
    int cell;  // bytes of a cell: 4 for float32, 2 for bfloat16
    void (*pointwise)(PointwiseCall&);
    void (*depthwise)(const DepthwiseCall&);
    void (*stem)(const StemCall&);
    void (*add)(const AddCall&);
    void (*attention)(const AttentionCall&);
    void (*pool)(const PoolCall&);
    void (*linear)(const LinearCall&);
};

inline long stem_row(int width) { return (width + 32 + 15) / 16 * 16; }

// How channels are cut into vectors: whole ones of `lanes`, and one of 8 for what is left where that is enough.
struct Vectors {
    int whole;
    bool half;
    Vectors(int channels, int lanes) {
        int left = channels % lanes;
        half = lanes == 16 && left > 0 && left <= 8;
        whole = channels / lanes + (left > 0 && !half);
    }
    int count() const { return whole + half; }
    int blocks() const { return whole < 2 ? whole || half : (whole + 1) / 2; }  // of two; a half is the last one's
    int floats(int lanes) const { return whole * lanes + half * 8; }
};

// The kernels of an instruction set by its name ("": the best one), or null where this CPU or this build lacks it.
const Kernels* find_kernels(const char* name, bool bfloat16);

}  // namespace ghostzoo
