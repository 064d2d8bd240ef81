// A network that is ready to run: packed weights, and the memory of each thread that runs it.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"
#include "plan.h"
#include "pool.h"

namespace ghostzoo {

// Memory that begins on a cache line, in large pages where the system has them; zero at first.
class Block {
public:
    Block() = default;
    explicit Block(size_t floats);
    ~Block();
    Block(Block&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
    Block& operator=(Block&& other) noexcept;
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    float* data() const { return data_; }

private:
    float* data_ = nullptr;
    size_t size_ = 0;
};

class Network {
public:
    Network(std::string_view onnx, const Kernels& kernels, int threads);
    ~Network();

    int image_size() const { return plan_.image_size; }
    int num_classes() const { return plan_.vectors[plan_.logits].size; }
    int embedding_size() const { return plan_.vectors[plan_.embedding].size; }
    const Kernels& kernels() const { return kernels_; }

    // As ghostzoo_network_run; any number of threads may call it at a time.
    void run(const float* pixels, size_t images, float* logits, float* embeddings);

private:
    struct Workspace;
    // What threads change. A fork of the process has threads and locks of its own, so it gets one of its own.
    struct Shared {
        Mutex mutex;
        std::vector<std::unique_ptr<Workspace>> idle;
        std::unique_ptr<Pool> pool;
        long process = 0;
    };
    struct Packed {
        long weights = 0, bias = 0;  // where they begin
    };

    long pixel_stride(const PlaneInfo& plane) const;
    int products(int channels) const;
    void pack();
    void lay_out();
    void run_images(Workspace& space, const float* pixels, size_t images, float* logits, float* embeddings) const;
    void run_steps(Workspace& space, const float* image, int images, size_t from, size_t to) const;
    void run_step(Workspace& space, const float* image, int images, const Step& step, int thread, int threads) const;
    void clear_sums(Workspace& space) const;
    long scratch_floats() const { return 12 * stem_row(plan_.image_size); }
    void copy_results(const Workspace& space, size_t images, float* logits, float* embeddings) const;
    int head_input() const { return plan_.operations[plan_.steps[plan_.head].operation].vector_in; }
    Shared& shared();
    std::unique_ptr<Workspace> make_workspace() const;
    std::unique_ptr<Workspace> take_workspace(Shared& shared) const;

    Plan plan_;
    const Kernels& kernels_;
    const int threads_;
    std::vector<Packed> packed_;
    std::vector<long> vector_offsets_, vector_strides_;
    Block weights_;
    long weights_floats_ = 0, workspace_floats_ = 0, vectors_begin_ = 0, vectors_floats_ = 0, zeros_begin_ = 0, scratch_begin_ = 0, gated_begin_ = 0, gated_floats_ = 0;
    std::atomic<Shared*> shared_{nullptr};
};

}  // namespace ghostzoo
