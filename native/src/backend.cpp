#include "backend.h"

#include "error.h"

namespace ghostzoo {
namespace {

struct Record {
    std::string_view name;
    std::unique_ptr<Backend> (*open)(std::string_view, const NetworkSizes&, int);
};

const Record kAll[] = {
#if defined(GHOSTZOO_ONNXRUNTIME)
    {"onnxruntime", open_onnxruntime},
#endif
#if defined(GHOSTZOO_OPENVINO)
    {"openvino", open_openvino},
#endif
    {"", nullptr},
};

const Record* find(std::string_view name) {
    for (const Record& record : kAll)
        if (record.open && record.name == name) return &record;
    return nullptr;
}

}  // namespace

bool has_backend(std::string_view name) { return find(name) != nullptr; }

std::unique_ptr<Backend> open_backend(std::string_view name, std::string_view onnx, const NetworkSizes& sizes, int threads) {
    const Record* record = find(name);
    if (!record) throw Failure(GHOSTZOO_UNSUPPORTED, "This build has no " + std::string(name) + ".");
    return record->open(onnx, sizes, threads);
}

}  // namespace ghostzoo
