// Other libraries that may run a network, where the build has them: for those who must use these.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace ghostzoo {

class Backend {
public:
    virtual ~Backend() = default;
    // As ghostzoo_network_run; any number of threads may call it at a time.
    virtual void run(const float* pixels, size_t images, float* logits, float* embeddings) = 0;
};

// What this library has found of the network when it planned it.
struct NetworkSizes {
    size_t image, classes, embedding;
};

bool has_backend(std::string_view name);
// Throws what the other library throws, or Failure.
std::unique_ptr<Backend> open_backend(std::string_view name, std::string_view onnx, const NetworkSizes& sizes, int threads);

#if defined(GHOSTZOO_ONNXRUNTIME)
std::unique_ptr<Backend> open_onnxruntime(std::string_view onnx, const NetworkSizes& sizes, int threads);
#endif
#if defined(GHOSTZOO_OPENVINO)
std::unique_ptr<Backend> open_openvino(std::string_view onnx, const NetworkSizes& sizes, int threads);
#endif

}  // namespace ghostzoo
