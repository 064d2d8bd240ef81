// OpenVINO, in float32 on the CPU.
#include <algorithm>
#include <mutex>
#include <openvino/openvino.hpp>
#include <vector>

#include "backend.h"

namespace ghostzoo {
namespace {

class OpenVino : public Backend {
public:
    OpenVino(std::string_view onnx, const NetworkSizes& sizes, int threads) : sizes_(sizes) {
        const auto graph = core_.read_model(std::string(onnx), ov::Tensor());
        model_ = core_.compile_model(
            graph, "CPU", ov::inference_num_threads(threads), ov::num_streams(1), ov::hint::inference_precision(ov::element::f32)
        );
    }

    void run(const float* pixels, size_t images, float* logits, float* embeddings) override {
        ov::InferRequest request = take();
        const ov::Shape shape{images, 3, sizes_.image, sizes_.image};
        request.set_tensor("pixel_values", ov::Tensor(ov::element::f32, shape, const_cast<float*>(pixels)));
        request.infer();
        copy(request, "logits", logits, images * sizes_.classes);
        copy(request, "embedding", embeddings, images * sizes_.embedding);
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(std::move(request));
    }

private:
    // A request serves one call at a time.
    ov::InferRequest take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.empty()) return model_.create_infer_request();
        ov::InferRequest request = std::move(idle_.back());
        idle_.pop_back();
        return request;
    }

    static void copy(ov::InferRequest& request, const char* name, float* out, size_t size) {
        if (!out) return;
        const ov::Tensor result = request.get_tensor(name);
        OPENVINO_ASSERT(result.get_size() == size, "an output has another size");
        std::copy_n(result.data<const float>(), size, out);
    }

    const NetworkSizes sizes_;
    ov::Core core_;
    ov::CompiledModel model_;
    std::mutex mutex_;
    std::vector<ov::InferRequest> idle_;
};

}  // namespace

std::unique_ptr<Backend> open_openvino(std::string_view onnx, const NetworkSizes& sizes, int threads) {
    return std::make_unique<OpenVino>(onnx, sizes, threads);
}

}  // namespace ghostzoo
