#include "network.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "error.h"

namespace ghostzoo {
namespace {

using Kind = Operation::Kind;

constexpr size_t kLargePage = size_t(2) << 20;
constexpr long kLine = 16;  // floats in a cache line
constexpr int64_t kMaxFloats = int64_t(1) << 28;  // of the weights, and of what one image needs
constexpr size_t kHeadImages = 12;  // that share one pass over the last layers' weights

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

long process_number() {
#if defined(_WIN32)
    return _getpid();
#elif defined(__wasm__)
    return 1;  // there is but one
#else
    return static_cast<long>(getpid());
#endif
}

// Round to the nearest number, to an even one between two.
uint16_t bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

Block::Block(size_t floats) : size_(floats * sizeof(float)) {
    const size_t alignment = size_ >= kLargePage ? kLargePage : 64;
    size_ = (size_ + alignment - 1) / alignment * alignment;
    if (size_ == 0) return;
#if defined(_WIN32)
    data_ = static_cast<float*>(_aligned_malloc(size_, alignment));
#else
    data_ = static_cast<float*>(std::aligned_alloc(alignment, size_));
#endif
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (size_ >= kLargePage) madvise(data_, size_, MADV_HUGEPAGE);
#endif
    std::memset(data_, 0, size_);
}

Block::~Block() {
#if defined(_WIN32)
    _aligned_free(data_);
#else
    std::free(data_);
#endif
}

Block& Block::operator=(Block&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

// What one run needs: a call of a kernel for each operation, with its places in this workspace filled in.
struct Network::Workspace {
    Block memory;
    struct Calls {
        PointwiseCall pointwise;
        DepthwiseCall depthwise;
        StemCall stem;
        AddCall add;
        AttentionCall attention;
        PoolCall pool;
    };
    std::vector<std::vector<Calls>> calls;  // of each thread
    Rounds rounds;
    std::vector<const float*> ahead;  // of each thread: the weights that it fetches next
};

Network::Network(std::string_view onnx, const Kernels& kernels, int threads)
    : plan_(make_plan(read_graph(onnx), kernels.lanes, kernels.cell)), kernels_(kernels), threads_(threads) {
    pack();
    lay_out();
    auto space = make_workspace();  // what there is no memory for is told now
    shared().idle.push_back(std::move(space));
}

Network::~Network() {
    Shared* shared = shared_.load();
    // In a fork, the threads of a pool that is not its own are not there to be ended, and its locks may be held.
    if (shared && shared->process == process_number()) delete shared;
}

Network::Shared& Network::shared() {
    const long process = process_number();
    Shared* current = shared_.load();
    while (!current || current->process != process) {
        auto fresh = std::make_unique<Shared>();
        fresh->process = process;
        fresh->pool = std::make_unique<Pool>(threads_);
        if (shared_.compare_exchange_strong(current, fresh.get())) return *fresh.release();
    }
    return *current;
}

// Cells from a pixel to the next. Not a multiple of many lines, or the pixels of a column would share a cache set. Long
// rows of few channels lie close together, so that more of them are in the first cache.
long Network::pixel_stride(const PlaneInfo& plane) const {
    const int whole = plane.channels <= 8 || (plane.channels <= 24 && plane.width >= 56) ? 8 : 16;
    const long stride = (plane.channels + whole - 1L) / whole * whole, line = 64 / kernels_.cell;
    return stride >= 4 * line && stride % (2 * line) == 0 ? stride + line : stride;
}

// How many products of the pointwise kernel, of one input channel or of two, so many channels are.
int Network::products(int channels) const { return (channels * kernels_.cell + 3) / 4; }

void Network::pack() {
    const int lanes = kernels_.lanes;
    auto packs = [](const Operation& o) { return !o.weights.empty() && o.kind != Kind::removed; };
    auto is_narrow = [&](const Operation& o) {
        return kernels_.cell == 2 && (o.kind == Kind::pointwise || o.kind == Kind::linear);
    };
    // How many weights of each input channel the kernels read, and of how many input channels or places in the kernel.
    auto width_of = [&](const Operation& o) {
        const int out = static_cast<int>(o.bias.size());
        return o.kind == Kind::linear ? (out + lanes - 1) / lanes * lanes : Vectors(out, lanes).floats(lanes);
    };
    auto parts_of = [&](const Operation& o) {
        std::vector<size_t> parts;
        for (int plane : o.inputs) parts.push_back(plan_.planes[plane].channels);
        return o.kind == Kind::pointwise ? parts : std::vector<size_t>{o.weights.size() / o.bias.size()};
    };
    int64_t top = 0;
    packed_.resize(plan_.operations.size());
    for (size_t i = 0; i < plan_.operations.size(); i++) {
        const Operation& o = plan_.operations[i];
        if (!packs(o)) continue;
        packed_[i].weights = static_cast<long>(top);
        int64_t depth = 0;
        for (size_t part : parts_of(o)) depth += o.kind == Kind::pointwise ? products(static_cast<int>(part)) : static_cast<int64_t>(part);
        top = round_up(top + depth * width_of(o) / (is_narrow(o) && o.kind == Kind::linear ? 2 : 1), kLine);
        packed_[i].bias = static_cast<long>(top);
        top = round_up(top + static_cast<int64_t>(o.bias.size()) + 2 * lanes, kLine);
        if (top > kMaxFloats) throw Failure(GHOSTZOO_BAD_MODEL, "The graph has more than a gigabyte of weights.");
    }
    weights_ = Block(static_cast<size_t>(top));
    weights_floats_ = static_cast<long>(top);
    for (size_t i = 0; i < plan_.operations.size(); i++) {
        Operation& o = plan_.operations[i];
        if (!packs(o)) continue;
        const int out = static_cast<int>(o.bias.size());
        const size_t each = o.weights.size() / out;
        float* wide_cells = weights_.data() + packed_[i].weights;
        uint16_t* narrow_cells = reinterpret_cast<uint16_t*>(wide_cells);
        const bool narrow = is_narrow(o);
        const std::vector<size_t> parts = parts_of(o);
        // Blocks of channels, of which each input (or place in the kernel) has its weights side by side; those of
        // inputs that one product takes together lie together.
        const size_t together = o.kind == Kind::pointwise ? sizeof(float) / kernels_.cell : 1;
        const int block = o.kind == Kind::linear ? 8 * lanes : o.kind == Kind::pointwise ? 2 * lanes : lanes;
        const int half = o.kind == Kind::pointwise && lanes == 16 ? 8 : 0;
        for (int first = 0, width = width_of(o), end; first < width; first = end) {
            end = first + block + half >= width ? width : first + block;
            size_t begin = 0;
            for (size_t part : parts) {
                for (size_t k = begin; k < begin + part; k += together)
                    for (int n = first; n < end; n++)
                        for (size_t j = k; j < k + together; j++) {
                            const float value = n < out && j < begin + part ? o.weights[n * each + j] : 0;
                            if (narrow) *narrow_cells++ = bfloat16(value);
                            else *wide_cells++ = value;
                        }
                begin += part;
            }
        }
        std::copy(o.bias.begin(), o.bias.end(), weights_.data() + packed_[i].bias);
        o.weights = {};
    }
}

void Network::lay_out() {
    // Planes: the first place where no other lies at the same time.
    struct Placed {
        int64_t begin, end;
        int first, last;
    };
    std::vector<Placed> placed;
    int64_t top = 0;
    int64_t longest_row = 0;
    auto check = [&](int64_t more) {
        if (top + more > kMaxFloats) throw Failure(GHOSTZOO_BAD_MODEL, "The graph would take more than a gigabyte for one image.");
    };
    for (size_t p = 0; p < plan_.planes.size(); p++) {
        PlaneInfo& plane = plan_.planes[p];
        if (plane.first_unit < 0) continue;
        const int64_t row = static_cast<int64_t>(plane.width + 2 * plane.halo) * pixel_stride(plane);
        longest_row = std::max(longest_row, row);
        const int64_t size = round_up((row * plane.rows() + 16) * kernels_.cell / 4, kLine) + kLine;
        check(size);
        std::vector<Placed> busy;
        for (const Placed& other : placed)
            if (other.first <= plane.last_unit && plane.first_unit <= other.last) busy.push_back(other);
        std::sort(busy.begin(), busy.end(), [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
        int64_t at = 0;
        for (const Placed& other : busy) {
            if (at + size <= other.begin) break;
            at = std::max(at, other.end);
        }
        plane.offset = static_cast<long>(at);
        placed.push_back({at, at + size, plane.first_unit, plane.last_unit});
        top = std::max(top, at + size);
    }
    zeros_begin_ = static_cast<long>(round_up(top, kLine));
    top = zeros_begin_ + longest_row + 64;
    scratch_begin_ = static_cast<long>(round_up(top, kLine));
    top = scratch_begin_ + threads_ * scratch_floats();
    // Vectors: those of the head for several images, the others for one.
    std::vector<char> in_head(plan_.vectors.size(), 0);
    for (size_t s = plan_.head; s < plan_.steps.size(); s++) {
        const Operation& o = plan_.operations[plan_.steps[s].operation];
        in_head[o.vector_in] = in_head[o.vector_out] = 1;
    }
    vectors_begin_ = static_cast<long>(top = round_up(top, kLine));
    vector_offsets_.assign(plan_.vectors.size(), -1);
    vector_strides_.assign(plan_.vectors.size(), 0);
    for (size_t v = 0; v < plan_.vectors.size(); v++) {
        if (plan_.vectors[v].whole >= 0) continue;
        vector_offsets_[v] = static_cast<long>(top);
        vector_strides_[v] = static_cast<long>(round_up(plan_.vectors[v].size, kLine)) + 2 * kLine;
        top += vector_strides_[v] * (in_head[v] ? static_cast<long>(kHeadImages) : 1);
        check(0);
    }
    for (size_t v = 0; v < plan_.vectors.size(); v++) {
        int whole = static_cast<int>(v);
        long at = 0;
        while (plan_.vectors[whole].whole >= 0) {
            at += plan_.vectors[whole].part_of_whole;
            whole = plan_.vectors[whole].whole;
        }
        vector_offsets_[v] = vector_offsets_[whole] + at;
        vector_strides_[v] = vector_strides_[whole];
    }
    vectors_floats_ = static_cast<long>(top) - vectors_begin_;
    long most = 0;
    for (const Operation& o : plan_.operations) {
        if (!o.is_gated()) continue;
        long depth = 0;
        for (int plane : o.inputs) depth += products(plan_.planes[plane].channels);
        most = std::max(most, depth * (2 * kernels_.lanes + 8));  // the largest block
    }
    gated_begin_ = static_cast<long>(top = round_up(top, kLine));
    gated_floats_ = static_cast<long>(round_up(most, kLine));
    workspace_floats_ = gated_begin_ + threads_ * gated_floats_ + kLine;
    check(threads_ * gated_floats_);
}

std::unique_ptr<Network::Workspace> Network::make_workspace() const {
    auto space = std::make_unique<Workspace>();
    space->memory = Block(workspace_floats_);
    float* memory = space->memory.data();
    auto view = [&](int index) {
        View v;
        if (index < 0) return v;
        const PlaneInfo& plane = plan_.planes[index];
        if (plane.offset < 0) return v;
        v.pixel = pixel_stride(plane);
        v.row = (plane.width + 2 * plane.halo) * v.pixel;
        v.base = reinterpret_cast<char*>(memory + plane.offset) + plane.halo * v.pixel * kernels_.cell;
        v.mask = plane.ring ? plane.ring - 1 : -1;
        return v;
    };
    auto vector = [&](int index) { return index < 0 ? nullptr : memory + vector_offsets_[index]; };
    std::vector<Workspace::Calls> calls(plan_.operations.size());
    for (size_t i = 0; i < plan_.operations.size(); i++) {
        const Operation& o = plan_.operations[i];
        auto& call = calls[i];
        const float* weights = weights_.data() + packed_[i].weights;
        const float* bias = weights_.data() + packed_[i].bias;
        if (o.kind == Kind::pointwise) {
            PointwiseCall& c = call.pointwise;
            c.input_count = static_cast<int>(o.inputs.size());
            for (size_t k = 0; k < o.inputs.size(); k++)
                c.inputs[k] = {view(o.inputs[k]), plan_.planes[o.inputs[k]].channels, vector(o.gates[k])};
            c.out = view(o.out);
            c.out_channels = plan_.planes[o.out].channels;
            c.residual = view(o.residual);
            c.relu = o.relu;
            c.weights = weights;
            c.gated = o.is_gated() ? memory + gated_begin_ : nullptr;
            c.bias = bias;
            c.width = plan_.planes[o.out].width;
        } else if (o.kind == Kind::depthwise) {
            const PlaneInfo& in = plan_.planes[o.inputs[0]];
            call.depthwise = {view(o.inputs[0]), view(o.out), o.kernel, o.stride, in.channels, in.height,
                plan_.planes[o.out].width, reinterpret_cast<char*>(memory + zeros_begin_) + in.halo * pixel_stride(in) * kernels_.cell, view(o.residual),
                view(o.copy), view(o.copy_residual), o.relu, weights, bias, vector(o.sum_in), vector(o.sum_out), 0, 0, 0, 0};
        } else if (o.kind == Kind::stem) {
            const PlaneInfo& out = plan_.planes[o.out];
            call.stem = {nullptr, plan_.image_size, plan_.image_size, memory + scratch_begin_, view(o.out), out.channels,
                out.width, o.relu, weights, bias, 0, 0};
        } else if (o.kind == Kind::add) {
            const PlaneInfo& out = plan_.planes[o.out];
            call.add = {view(o.inputs[0]), view(o.inputs[1]), view(o.out), out.channels, out.width, o.relu, 0, 0};
        } else if (o.kind == Kind::attention) {
            const PlaneInfo &out = plan_.planes[o.out], &gates = plan_.planes[o.inputs[1]];
            call.attention = {view(o.inputs[0]), view(o.inputs[1]), view(o.out), out.channels, out.width, out.height,
                gates.width, gates.height, 0, 0};
        } else if (o.kind == Kind::pool) {
            const PlaneInfo& in = plan_.planes[o.inputs[0]];
            call.pool = {view(o.inputs[0]), in.channels, in.width, vector(o.sum_out), 0, 0};
        }
    }
    space->calls.assign(static_cast<size_t>(threads_), calls);
    for (int thread = 0; thread < threads_; thread++)
        for (size_t i = 0; i < calls.size(); i++) {
            auto& call = space->calls[thread][i];
            if (plan_.operations[i].kind == Kind::stem) call.stem.scratch += thread * scratch_floats();
            if (plan_.operations[i].is_gated()) call.pointwise.gated += thread * gated_floats_;
        }
    return space;
}

void Network::run_step(
    Workspace& space, const float* image, int images, const Step& step, int thread, int threads
) const {
    float* memory = space.memory.data();
    if (step.to_row == 0) {
        if (thread) return;
        const PlaneInfo& plane = plan_.planes[step.operation];
        const long pixel = pixel_stride(plane) * kernels_.cell, row = (plane.width + 2 * plane.halo) * pixel;
        char* p = reinterpret_cast<char*>(memory + plane.offset);
        const size_t size = static_cast<size_t>(plane.halo * pixel);
        for (int r = 0; r < plane.rows(); r++, p += row) {
            std::memset(p, 0, size);
            std::memset(p + row - size, 0, size);
        }
        return;
    }
    const Operation& o = plan_.operations[step.operation];
    auto& calls = space.calls[static_cast<size_t>(thread)][static_cast<size_t>(step.operation)];
    // This thread's part of what there is to do.
    auto part = [&](int& from, int& to, int rounded = 1) {
        const int count = (to - from + rounded - 1) / rounded, begin = from, end = to;
        from = begin + count * thread / threads * rounded;
        to = std::min(end, begin + count * (thread + 1) / threads * rounded);
    };
    int from_row = step.from_row, to_row = step.to_row, from_block = step.from_block, to_block = step.to_block;
    if (threads > 1) {
        if (step.split == Split::first && thread) return;
        if (step.split == Split::rows) part(from_row, to_row, 1 + (plan_.planes[o.out].width < 14 && to_row - from_row > threads));
        if (step.split == Split::owner) {
            const int all = Vectors(plan_.planes[o.out].channels, kernels_.lanes).blocks();
            if (from_block * threads / all != thread) return;
        }
    }
    switch (o.kind) {
        case Kind::pointwise: {
            PointwiseCall& call = calls.pointwise;
            call.from_row = from_row;
            call.to_row = to_row;
            call.from_block = from_block;
            call.to_block = to_block;
            const float* weights = weights_.data() + packed_[step.operation].weights;
            call.ahead = std::max(space.ahead[static_cast<size_t>(thread)], weights);
            call.ahead_end = weights_.data() + weights_floats_;
            kernels_.pointwise(call);
            space.ahead[static_cast<size_t>(thread)] = call.ahead;
            return;
        }
        case Kind::depthwise: {
            DepthwiseCall& call = calls.depthwise;
            call.from_row = from_row;
            call.to_row = to_row;
            call.from_vector = 2 * from_block;
            const Vectors vectors(call.channels, kernels_.lanes);
            call.to_vector = to_block == vectors.blocks() ? vectors.count() : 2 * to_block;
            if (step.split == Split::blocks) part(call.from_vector, call.to_vector);
            return kernels_.depthwise(call);
        }
        case Kind::stem: {
            StemCall& call = calls.stem;
            call.image = image;
            call.from_row = from_row;
            call.to_row = to_row;
            return kernels_.stem(call);
        }
        case Kind::add:
            calls.add.from_row = from_row;
            calls.add.to_row = to_row;
            return kernels_.add(calls.add);
        case Kind::attention:
            calls.attention.from_row = from_row;
            calls.attention.to_row = to_row;
            return kernels_.attention(calls.attention);
        case Kind::pool:
            calls.pool.from_row = from_row;
            calls.pool.to_row = to_row;
            return kernels_.pool(calls.pool);
        case Kind::linear: {
            const auto &in = plan_.vectors[o.vector_in], &out = plan_.vectors[o.vector_out];
            LinearCall call{memory + vector_offsets_[o.vector_in], memory + vector_offsets_[o.vector_out],
                vector_strides_[o.vector_in], vector_strides_[o.vector_out], images, in.size, out.size, 0,
                (out.size + kernels_.lanes - 1) / kernels_.lanes, weights_.data() + packed_[step.operation].weights,
                weights_.data() + packed_[step.operation].bias, o.activation, in.scale};
            part(call.from_vector, call.to_vector);
            return kernels_.linear(call);
        }
        case Kind::removed: return;
    }
}

void Network::run_steps(Workspace& space, const float* image, int images, size_t from, size_t to) const {
    for (size_t s = from; s < to; s++) run_step(space, image, images, plan_.steps[s], 0, 1);
}

void Network::run_images(Workspace& space, const float* pixels, size_t images, float* logits, float* embeddings) const {
    float* memory = space.memory.data();
    const size_t image_floats = size_t(3) * plan_.image_size * plan_.image_size;
    float* pooled = memory + vector_offsets_[head_input()];
    const long stride = vector_strides_[head_input()];
    for (size_t first = 0; first < images; first += kHeadImages) {
        const size_t count = std::min(kHeadImages, images - first);
        // Backwards: the first image's place among the head's inputs is where each of them is pooled.
        for (size_t image = count; image-- > 0;) {
            clear_sums(space);
            run_steps(space, pixels + (first + image) * image_floats, 1, 0, plan_.head);
            if (image > 0) std::memcpy(pooled + static_cast<long>(image) * stride, pooled, sizeof(float) * stride);
        }
        run_steps(space, nullptr, static_cast<int>(count), plan_.head, plan_.steps.size());
        copy_results(
            space, count, logits ? logits + first * num_classes() : nullptr,
            embeddings ? embeddings + first * embedding_size() : nullptr
        );
    }
}

void Network::clear_sums(Workspace& space) const {
    float* memory = space.memory.data();
    space.ahead.assign(static_cast<size_t>(threads_), weights_.data());
    const int pooled = head_input();
    std::memset(memory + vectors_begin_, 0, sizeof(float) * (vector_offsets_[pooled] - vectors_begin_));
    std::memset(memory + vector_offsets_[pooled], 0, sizeof(float) * vector_strides_[pooled]);
}

void Network::copy_results(const Workspace& space, size_t images, float* logits, float* embeddings) const {
    auto copy = [&](int vector, float* out) {
        const size_t size = plan_.vectors[vector].size;
        const float* from = space.memory.data() + vector_offsets_[vector];
        for (size_t image = 0; out && image < images; image++)
            std::memcpy(out + image * size, from + static_cast<long>(image) * vector_strides_[vector], size * sizeof(float));
    };
    copy(plan_.logits, logits);
    copy(plan_.embedding, embeddings);
}

std::unique_ptr<Network::Workspace> Network::take_workspace(Shared& shared) const {
    std::lock_guard<Mutex> lock(shared.mutex);
    if (shared.idle.empty()) return make_workspace();
    auto space = std::move(shared.idle.back());
    shared.idle.pop_back();
    return space;
}

void Network::run(const float* pixels, size_t images, float* logits, float* embeddings) {
    Shared& mine = shared();
    auto give_back = [&](std::unique_ptr<Workspace> space) {
        std::lock_guard<Mutex> lock(mine.mutex);
        mine.idle.push_back(std::move(space));
    };
    if (images == 1 && threads_ > 1) {
        auto space = take_workspace(mine);
        clear_sums(*space);
        space->rounds.begin();
        const int team = std::min(threads_, Rounds::kMostParts);
        const bool shared = mine.pool->run_if_idle(static_cast<size_t>(team), [&](size_t thread) {
            space->rounds.take_part(static_cast<uint32_t>(plan_.units.size() - 1), team, static_cast<int>(thread), [&](uint32_t unit, int part) {
                for (size_t s = plan_.units[unit]; s < plan_.units[unit + 1]; s++)
                    run_step(*space, pixels, 1, plan_.steps[s], part, team);
            });
        });
        if (!shared) run_steps(*space, pixels, 1, 0, plan_.steps.size());
        copy_results(*space, 1, logits, embeddings);
        return give_back(std::move(space));
    }
    const size_t image_floats = size_t(3) * plan_.image_size * plan_.image_size;
    const size_t parts = std::min<size_t>(images, static_cast<size_t>(threads_));
    Mutex mutex;
    std::exception_ptr failure;
    mine.pool->run(parts, [&](size_t part) {
        const size_t from = images * part / parts, to = images * (part + 1) / parts;
        try {
            auto space = take_workspace(mine);
            run_images(
                *space, pixels + from * image_floats, to - from, logits ? logits + from * num_classes() : nullptr,
                embeddings ? embeddings + from * embedding_size() : nullptr
            );
            give_back(std::move(space));
        } catch (...) {
            std::lock_guard<Mutex> lock(mutex);
            failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

}  // namespace ghostzoo
