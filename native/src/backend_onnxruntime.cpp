// ONNX Runtime, by its C interface: it is stable across versions, and the C++ wrapper is tied to its own.
#include <cstdint>
#include <onnxruntime_c_api.h>

#include "backend.h"
#include "error.h"

namespace ghostzoo {
namespace {

const OrtApi& api() {
    static const OrtApi* const table = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!table)
        throw Failure(GHOSTZOO_UNSUPPORTED, std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is older than what this library was built for.");
    return *table;
}

void check(OrtStatus* status) {
    if (!status) return;
    const std::string reason = api().GetErrorMessage(status);
    api().ReleaseStatus(status);
    throw Failure(GHOSTZOO_BAD_MODEL, "ONNX Runtime cannot run the network: " + reason);
}

struct Release {
    void operator()(OrtEnv* it) const { api().ReleaseEnv(it); }
    void operator()(OrtSession* it) const { api().ReleaseSession(it); }
    void operator()(OrtSessionOptions* it) const { api().ReleaseSessionOptions(it); }
    void operator()(OrtMemoryInfo* it) const { api().ReleaseMemoryInfo(it); }
    void operator()(OrtValue* it) const { api().ReleaseValue(it); }
};
template <class T> using Owned = std::unique_ptr<T, Release>;

class OnnxRuntime : public Backend {
public:
    OnnxRuntime(std::string_view onnx, const NetworkSizes& sizes, int threads) : sizes_(sizes) {
        OrtEnv* environment = nullptr;
        check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "ghostzoo", &environment));
        environment_.reset(environment);
        check(api().DisableTelemetryEvents(environment));
        OrtMemoryInfo* memory = nullptr;
        check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
        memory_.reset(memory);
        OrtSessionOptions* options = nullptr;
        check(api().CreateSessionOptions(&options));
        const Owned<OrtSessionOptions> owned(options);
        check(api().SetIntraOpNumThreads(options, threads));
        check(api().SetInterOpNumThreads(options, 1));
        OrtSession* session = nullptr;
        check(api().CreateSessionFromArray(environment, onnx.data(), onnx.size(), options, &session));
        session_.reset(session);
    }

    void run(const float* pixels, size_t images, float* logits, float* embeddings) override {
        const auto count = static_cast<int64_t>(images), side = static_cast<int64_t>(sizes_.image);
        const int64_t shape[] = {count, 3, side, side};
        const Owned<OrtValue> input = tensor(const_cast<float*>(pixels), shape, 4);
        const char* names[2];
        Owned<OrtValue> held[2];
        OrtValue* outputs[2];
        size_t wanted = 0;
        auto ask = [&](const char* name, float* out, size_t width) {
            if (!out) return;
            const int64_t size[] = {count, static_cast<int64_t>(width)};
            held[wanted] = tensor(out, size, 2);
            outputs[wanted] = held[wanted].get();
            names[wanted++] = name;
        };
        ask("logits", logits, sizes_.classes);
        ask("embedding", embeddings, sizes_.embedding);
        const char* const inputs[] = {"pixel_values"};
        const OrtValue* const values[] = {input.get()};
        if (wanted) check(api().Run(session_.get(), nullptr, inputs, values, 1, names, wanted, outputs));
    }

private:
    // Memory of the caller's, as a tensor.
    Owned<OrtValue> tensor(float* data, const int64_t* shape, size_t rank) const {
        size_t bytes = sizeof(float);
        for (size_t i = 0; i < rank; i++) bytes *= static_cast<size_t>(shape[i]);
        OrtValue* value = nullptr;
        check(api().CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape, rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
        return Owned<OrtValue>(value);
    }

    const NetworkSizes sizes_;
    Owned<OrtEnv> environment_;
    Owned<OrtMemoryInfo> memory_;
    Owned<OrtSession> session_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(std::string_view onnx, const NetworkSizes& sizes, int threads) {
    return std::make_unique<OnnxRuntime>(onnx, sizes, threads);
}

}  // namespace ghostzoo
