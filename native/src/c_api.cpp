#include <new>
#include <string>

#include "error.h"
#include "ghostzoo/ghostzoo.h"
#include "network.h"

using namespace ghostzoo;

struct ghostzoo_network {
    Network network;
};

namespace {

thread_local std::string last_error;

template <class Work> ghostzoo_status guarded(Work work) {
    try {
        work();
        return GHOSTZOO_OK;
    } catch (const Failure& failure) {
        last_error = failure.what();
        return failure.status;
    } catch (const std::bad_alloc&) {
        last_error = "There is not enough memory.";
        return GHOSTZOO_NO_MEMORY;
    } catch (const std::exception& error) {
        last_error = error.what();
        return GHOSTZOO_UNSUPPORTED;
    }
}

const Kernels& chosen(const ghostzoo_options* options) {
    if (!options || !options->instructions || !*options->instructions) return best_kernels();
    const Kernels* kernels = find_kernels(options->instructions);
    if (!kernels) throw Failure(GHOSTZOO_UNSUPPORTED, std::string("This CPU or this build has no ") + options->instructions + ".");
    return *kernels;
}

}  // namespace

const char* ghostzoo_last_error(void) { return last_error.c_str(); }

ghostzoo_status ghostzoo_network_open(const void* onnx, size_t size, const ghostzoo_options* options, ghostzoo_network** network) {
    return guarded([&] {
        *network = new ghostzoo_network{{std::string_view(static_cast<const char*>(onnx), size), chosen(options), options ? options->threads : 1}};
    });
}
void ghostzoo_network_close(ghostzoo_network* network) { delete network; }
int ghostzoo_network_image_size(const ghostzoo_network* network) { return network->network.image_size(); }
int ghostzoo_network_num_classes(const ghostzoo_network* network) { return network->network.num_classes(); }
int ghostzoo_network_embedding_size(const ghostzoo_network* network) { return network->network.embedding_size(); }
const char* ghostzoo_network_instructions(const ghostzoo_network* network) { return network->network.kernels().name; }
ghostzoo_status ghostzoo_network_run(ghostzoo_network* network, const float* pixels, size_t images, float* logits, float* embeddings) {
    return guarded([&] { network->network.run(pixels, images, logits, embeddings); });
}
