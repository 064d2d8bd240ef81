#include <cstring>
#include <new>
#include <string>
#include <thread>
#if defined(__linux__)
#include <sched.h>
#endif

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

int thread_count(const ghostzoo_options* options) {
    const int threads = options ? options->threads : 0;
    if (threads < 0 || threads > 1024) throw Failure(GHOSTZOO_BAD_ARGUMENT, "threads must be 0 to 1024.");
    if (threads > 0) return threads;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const unsigned known = std::thread::hardware_concurrency();
    return known ? static_cast<int>(known) : 1;
}

void check_precision(const ghostzoo_options* options) {
    if (!options || !options->precision || !*options->precision || !std::strcmp(options->precision, "fp32")) return;
    throw Failure(GHOSTZOO_UNSUPPORTED, std::string("There is no precision ") + options->precision + "; use fp32.");
}

template <class T> void need(const T* pointer, const char* name) {
    if (!pointer) throw Failure(GHOSTZOO_BAD_ARGUMENT, std::string(name) + " must not be null.");
}

}  // namespace

const char* ghostzoo_version(void) { return GHOSTZOO_VERSION; }
const char* ghostzoo_last_error(void) { return last_error.c_str(); }

ghostzoo_status ghostzoo_network_open(const void* onnx, size_t size, const ghostzoo_options* options, ghostzoo_network** network) {
    return guarded([&] {
        need(onnx, "onnx");
        need(network, "network");
        check_precision(options);
        const std::string_view file(static_cast<const char*>(onnx), size);
        *network = new ghostzoo_network{{file, chosen(options), thread_count(options)}};
    });
}
void ghostzoo_network_close(ghostzoo_network* network) { delete network; }
int ghostzoo_network_image_size(const ghostzoo_network* network) { return network->network.image_size(); }
int ghostzoo_network_num_classes(const ghostzoo_network* network) { return network->network.num_classes(); }
int ghostzoo_network_embedding_size(const ghostzoo_network* network) { return network->network.embedding_size(); }
const char* ghostzoo_network_instructions(const ghostzoo_network* network) { return network->network.kernels().name; }
ghostzoo_status ghostzoo_network_run(ghostzoo_network* network, const float* pixels, size_t images, float* logits, float* embeddings) {
    return guarded([&] {
        need(network, "network");
        if (images == 0) return;
        need(pixels, "pixels");
        network->network.run(pixels, images, logits, embeddings);
    });
}
