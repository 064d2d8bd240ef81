// A bundle: the folder of a model, whose files are those that its manifest lists, by size and SHA-256.
#pragma once
#include <string>
#include <vector>

namespace ghostzoo {

// What preprocessor_config.json says.
struct Preprocessing {
    int resize_short = 0, crop_size = 0;
    double rescale_factor = 0;
    double mean[3] = {}, std[3] = {};
    bool bicubic = false;  // as timm: Pillow's antialiased filter; else as PaddleClas: OpenCV's bilinear one
};

struct Bundle {
    std::string name;
    std::vector<std::string> labels;
    Preprocessing preprocessing;
    bool multi_label = false;  // scores are sigmoids, and a threshold decides
    float temperature = 1;     // what logits are divided by before the softmax
    std::string model;         // the ONNX file
};

// Throws Failure where the folder is no bundle or a file that is read is not the one in its manifest.
Bundle read_bundle(const std::string& path);

}  // namespace ghostzoo
