#include "plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "error.h"

namespace ghostzoo {
namespace {

using Kind = Operation::Kind;

constexpr int kMaxChannels = 8192;
constexpr int kMaxSize = 1024;
constexpr size_t kMaxParts = 64;                     // of a tensor
constexpr size_t kMaxWeights = size_t(1) << 27;      // floats, in all operations together
// Images from so many pixels wide stream; smaller ones fit in the cache whole.
constexpr int kStreamedWidth = 28;
constexpr int kStreamedRows = 64;  // of the largest image, at a time, where a cell were a byte
constexpr int kOwnedBlocks = 4;    // so many blocks of channels can be divided evenly enough

struct Part {
    int plane;
    int gate;
};

// A value of the graph: planes side by side, or a vector where it is one pixel.
struct Value {
    std::vector<Part> parts;
    int vector = -1;
    // Of gates for attention, whose sigmoid is still to be taken: how large they were spread.
    bool sigmoid = false;
    int spread = 0;
};

class Lowering {
public:
    Lowering(Graph& graph, Plan& plan) : graph_(graph), plan_(plan) {}

    void run() {
        const auto& shape = graph_.input_shape;
        if (shape.size() != 4 || shape[1] != 3 || shape[2] != shape[3] || shape[2] < 1 || shape[2] > kMaxSize)
            refuse("the input is not an image of three colours");
        plan_.image_size = static_cast<int>(shape[2]);
        for (const Node& node : graph_.nodes)
            for (const std::string& input : node.inputs) uses_[input]++;
        for (const std::string& output : graph_.outputs) uses_[output]++;
        left_ = uses_;
        plan_.image_plane = new_plane(3, plan_.image_size);
        values_[graph_.input] = {{{plan_.image_plane, -1}}, -1};
        for (const Node& node : graph_.nodes) lower(node);
        plan_.logits = output("logits");
        plan_.embedding = output("embedding");
    }

    const std::vector<int>& order() const { return order_; }

private:
    [[noreturn]] void refuse(const std::string& reason) const {
        std::string place = node_ ? "Node " + node_->name + " (" + node_->op + "): " : "The graph: ";
        throw Failure(GHOSTZOO_UNSUPPORTED, place + reason + "; the native engine does not run this model.");
    }

    void lower(const Node& node) {
        node_ = &node;
        if (node.outputs.size() != 1 || node.inputs.empty()) refuse("it has not one result");
        for (const std::string& input : node.inputs) left_[input]--;
        for (const std::string& input : node.inputs) {
            auto given = values_.find(input);
            if (given != values_.end() && given->second.sigmoid && node.op != "Resize" && node.op != "Mul") refuse("a sigmoid is no gate");
        }
        Value result;
        if (node.op == "Conv") result = conv(node);
        else if (node.op == "Relu") result = relu(node);
        else if (node.op == "Clip") result = clip(node);
        else if (node.op == "Add") result = add(node);
        else if (node.op == "Mul") result = mul(node);
        else if (node.op == "Concat") result = concat(node);
        else if (node.op == "GlobalAveragePool") result = pool(node);
        else if (node.op == "AveragePool") result = average(node);
        else if (node.op == "Sigmoid") result = sigmoid(node);
        else if (node.op == "Resize" && value(node.inputs[0]).vector < 0) result = spread(node);
        else if (node.op == "Resize" || node.op == "Flatten" || node.op == "Identity") result = unchanged(node);
        else refuse("this operator is not known");
        if (has(result, plan_.image_plane)) refuse("it takes the image, which only the first convolution can");
        if (!values_.emplace(node.outputs[0], std::move(result)).second) refuse("its result is there already");
        node_ = nullptr;
    }

    // ---- helpers

    const Value& value(const std::string& name) const {
        auto found = values_.find(name);
        if (found == values_.end()) refuse("it takes " + name + ", which nothing gives");
        return found->second;
    }
    Weight& weight(const std::string& name) const {
        auto found = graph_.weights.find(name);
        if (found == graph_.weights.end()) refuse("there are no weights " + name);
        return found->second;
    }
    static bool has(const Value& value, int plane) {
        return std::any_of(value.parts.begin(), value.parts.end(), [plane](const Part& part) { return part.plane == plane; });
    }
    // The tensors that nodes which are still to come ask for.
    template <class Test> bool any_wanted(Test test) const {
        return std::any_of(values_.begin(), values_.end(), [&](const auto& entry) {
            auto left = left_.find(entry.first);
            return left != left_.end() && left->second > 0 && test(entry.second);
        });
    }
    bool wanted(int plane) const {
        return any_wanted([plane](const Value& value) { return has(value, plane); });
    }
    // Whether an operation takes a plane already.
    bool taken(int plane) const {
        return std::any_of(order_.begin(), order_.end(), [&](int i) {
            const Operation& o = plan_.operations[i];
            return std::count(o.inputs.begin(), o.inputs.end(), plane) || o.residual == plane || o.copy_residual == plane;
        });
    }
    // Whether only the node at hand sees a tensor, also under other names, so that it may be made in another way.
    bool used_once(const std::string& name) const {
        if (uses_.at(name) != 1) return false;
        const Value& mine = value(name);
        for (const Part& part : mine.parts)
            if (wanted(part.plane) || taken(part.plane)) return false;
        if (mine.vector < 0) return true;
        auto gated = [&](const Part& part) { return part.gate == mine.vector; };
        auto takes = [&](const Operation& o) {
            return o.vector_in == mine.vector || std::count(o.gates.begin(), o.gates.end(), mine.vector);
        };
        return !any_wanted([&](const Value& value) {
            return value.vector == mine.vector || std::any_of(value.parts.begin(), value.parts.end(), gated);
        }) && std::none_of(plan_.operations.begin(), plan_.operations.end(), takes);
    }
    int integer(const Node& node, const char* name, int64_t otherwise) const {
        const auto list = ints(node, name, {otherwise});
        if (list.size() != 1 || list[0] < 0 || list[0] > 65536) refuse(std::string("it has no possible ") + name);
        return static_cast<int>(list[0]);
    }

    std::vector<int64_t> ints(const Node& node, const char* name, std::vector<int64_t> otherwise) const {
        auto found = node.ints.find(name);
        return found == node.ints.end() ? otherwise : found->second;
    }

    int new_plane(int channels, int size) {
        if (channels < 1 || channels > kMaxChannels) refuse("it has too many channels");
        PlaneInfo plane;
        plane.channels = channels;
        plane.height = plane.width = size;
        plan_.planes.push_back(plane);
        producers_.push_back(-1);
        return static_cast<int>(plan_.planes.size()) - 1;
    }
    int new_vector(int size) {
        if (size < 1 || size > 65536) refuse("it has too many channels");
        VectorInfo vector;
        vector.size = size;
        plan_.vectors.push_back(vector);
        return static_cast<int>(plan_.vectors.size()) - 1;
    }
    int append(Operation operation) {
        const int index = static_cast<int>(plan_.operations.size());
        if (operation.out >= 0) producers_[operation.out] = index;
        plan_.operations.push_back(std::move(operation));
        order_.push_back(index);
        return index;
    }
    Operation* producer(int plane) {
        return producers_[plane] < 0 ? nullptr : &plan_.operations[producers_[plane]];
    }
    // Do it last of what there is so far: what it now takes comes later than it did.
    void move_to_end(int index) {
        order_.erase(std::find(order_.begin(), order_.end(), index));
        order_.push_back(index);
    }
    // Where only `index`, the last operation, reads what a 1x1 convolution makes, do that just before it.
    void bring_source(int index) {
        const int plane = plan_.operations[index].inputs[0], source = producers_[plane];
        if (source < 0 || plan_.operations[source].kind != Kind::pointwise) return;
        for (int i : order_) {
            const Operation& other = plan_.operations[i];
            const bool reads = std::count(other.inputs.begin(), other.inputs.end(), plane) || other.residual == plane;
            if (i != index && reads) return;
        }
        move_to_end(source);
        move_to_end(index);
    }
    void remove(int index) {
        order_.erase(std::find(order_.begin(), order_.end(), index));
        plan_.operations[index].kind = Kind::removed;
    }

    int output(const std::string& name) {
        auto found = values_.find(name);
        if (found == values_.end() || found->second.vector < 0) refuse("it has no output " + name);
        return found->second.vector;
    }

    // ---- operators

    Value conv(const Node& node) {
        if (node.inputs.size() < 2) refuse("it has no weights");
        const Value in = value(node.inputs[0]);
        Weight& w = weight(node.inputs[1]);
        if (w.shape.size() != 4) refuse("its weights have not four dimensions");
        square(w, ints(node, "pads", {0, 0, 0, 0}));
        for (int64_t extent : w.shape)
            if (extent > 65536) refuse("its weights are too large");
        const int out = static_cast<int>(w.shape[0]), kernel = static_cast<int>(w.shape[2]);
        const int group = integer(node, "group", 1);
        const auto strides = ints(node, "strides", {1, 1});
        const auto dilations = ints(node, "dilations", {1, 1});
        if (strides.size() != 2 || strides[0] != strides[1] || strides[0] < 1 || strides[0] > 2) refuse("its strides are not 1 or 2");
        for (int64_t dilation : dilations)
            if (dilation != 1) refuse("it is dilated");
        if (kernel != 1 && kernel != 3 && kernel != 5) refuse("its kernel is not 1, 3 or 5 wide");
        Operation operation;
        operation.kernel = kernel;
        operation.stride = static_cast<int>(strides[0]);
        operation.bias.assign(out, 0);
        if (node.inputs.size() > 2 && !node.inputs[2].empty()) {
            const Weight& bias = weight(node.inputs[2]);
            if (bias.values.size() != static_cast<size_t>(out)) refuse("its bias does not fit");
            operation.bias = bias.values;
        }
        weights_ += w.values.size();
        if (weights_ > kMaxWeights) refuse("the graph has too many weights");
        if (uses_.at(node.inputs[1]) == 1) operation.weights = std::move(w.values);
        else operation.weights = w.values;
        if (in.vector >= 0) return linear(std::move(operation), in.vector, w, group);
        const PlaneInfo& first = plan_.planes[in.parts[0].plane];
        const int size = (first.width + operation.stride - 1) / operation.stride;
        int channels = 0;
        for (const Part& part : in.parts) channels += plan_.planes[part.plane].channels;
        if (has(in, plan_.image_plane)) {
            if (kernel != 3 || group != 1 || w.shape[1] != 3 || operation.stride != 2 || in.parts.size() != 1)
                refuse("the first layer is no 3x3 convolution with stride 2");
            operation.kind = Kind::stem;
        } else if (group == 1) {
            if (kernel != 1 || operation.stride != 1 || w.shape[1] != channels)
                refuse("a convolution over all channels is not 1x1 with stride 1, or its weights do not fit");
            operation.kind = Kind::pointwise;
        } else {
            return depthwise(operation, in, w, group, size);
        }
        if (in.parts.size() > kMaxInputs) refuse("it takes too many tensors");
        for (const Part& part : in.parts) {
            operation.inputs.push_back(part.plane);
            operation.gates.push_back(part.gate);
        }
        operation.out = new_plane(out, size);
        append(std::move(operation));
        return {{{plan_.operations.back().out, -1}}, -1};
    }

    // A kernel of one row or column is a square one with zeros.
    void square(Weight& w, const std::vector<int64_t>& pads) const {
        const int64_t height = w.shape[2], width = w.shape[3], size = std::max(height, width);
        if (pads != std::vector<int64_t>{height / 2, width / 2, height / 2, width / 2}) refuse("its padding is not half of its kernel");
        if (height == width) return;
        if (std::min(height, width) != 1 || size > kMaxKernel || w.values.size() > kMaxWeights / kMaxKernel) refuse("its kernel is neither square nor a line");
        std::vector<float> values(w.values.size() * static_cast<size_t>(size));
        for (size_t i = 0; i < w.values.size(); i++) {
            const size_t channel = i / size, tap = i % size, middle = size / 2;
            values[(channel * size + (height == 1 ? middle : tap)) * size + (height == 1 ? tap : middle)] = w.values[i];
        }
        w.values = std::move(values);
        w.shape[2] = w.shape[3] = size;
    }

    // The mean of two by two pixels, as a convolution whose first row and column count nothing.
    Value average(const Node& node) {
        const Value in = value(node.inputs[0]);
        const std::vector<int64_t> two = {2, 2};
        if (in.vector >= 0 || has(in, plan_.image_plane) || ints(node, "kernel_shape", {}) != two || ints(node, "strides", {1, 1}) != two ||
            integer(node, "ceil_mode", 0) || ints(node, "pads", {0, 0, 0, 0}) != std::vector<int64_t>(4, 0) || node.strings.count("auto_pad"))
            refuse("it does not average two by two pixels");
        int channels = 0;
        for (const Part& part : in.parts) channels += plan_.planes[part.plane].channels;
        const int size = plan_.planes[in.parts[0].plane].width / 2;
        if (size < 1) refuse("it averages less than two by two pixels");
        Operation operation;
        operation.kernel = 3;
        operation.stride = 2;
        operation.bias.assign(channels, 0);
        for (int i = 0; i < channels; i++)
            for (float tap : {0.f, 0.f, 0.f, 0.f, .25f, .25f, 0.f, .25f, .25f}) operation.weights.push_back(tap);
        return depthwise(operation, in, {{channels, 1, 3, 3}, {}}, channels, size);
    }

    Value sigmoid(const Node& node) {
        Value in = value(node.inputs[0]);
        if (in.vector >= 0 || has(in, plan_.image_plane)) refuse("it is not that of a layer");
        for (const Part& part : in.parts)
            if (part.gate >= 0) refuse("its input is gated");
        in.sigmoid = true;
        return in;
    }

    // Each pixel becomes several: the nearest one above and to the left.
    Value spread(const Node& node) {
        Value in = value(node.inputs[0]);
        auto text = [&](const char* name) { return node.strings.count(name) ? node.strings.at(name) : ""; };
        if (!in.sigmoid || in.spread || node.inputs.size() != 3 || text("mode") != "nearest" || text("nearest_mode") != "floor" ||
            text("coordinate_transformation_mode") != "asymmetric")
            refuse("it does not spread gates");
        const auto& scales = weight(node.inputs[2]).values;
        if (scales.size() != 4 || scales[0] != 1 || scales[1] != 1 || scales[2] != scales[3] || !(scales[2] >= 1 && scales[2] <= 64)) refuse("its scales are not those of gates");
        const int width = plan_.planes[in.parts[0].plane].width;
        in.spread = static_cast<int>(static_cast<float>(width) * scales[2]);
        for (int x = 0; x < in.spread; x++)
            if (static_cast<int>(static_cast<float>(x) / scales[2]) != x * width / in.spread) refuse("its scales are not those of gates");
        return in;
    }

    Value attention(const Value& rows, const Value& gates) {
        if (rows.parts.size() != gates.parts.size() || rows.sigmoid || rows.vector >= 0 || has(rows, plan_.image_plane)) refuse("its gates do not fit");
        Value result;
        for (size_t i = 0; i < rows.parts.size(); i++) {
            const PlaneInfo in = plan_.planes[rows.parts[i].plane], gate = plan_.planes[gates.parts[i].plane];
            const int spread = gates.spread ? gates.spread : gate.width;
            if (rows.parts[i].gate >= 0 || in.channels != gate.channels || in.width != spread) refuse("its gates do not fit");
            Operation operation;
            operation.kind = Kind::attention;
            operation.inputs = {rows.parts[i].plane, gates.parts[i].plane};
            operation.out = new_plane(in.channels, in.width);
            append(operation);
            result.parts.push_back({plan_.operations.back().out, -1});
        }
        return result;
    }

    Value depthwise(const Operation& whole, const Value& in, const Weight& w, int64_t group, int size) {
        int channels = 0;
        for (const Part& part : in.parts) channels += plan_.planes[part.plane].channels;
        if (w.shape[1] != 1 || w.shape[0] != group || group != channels || whole.kernel == 1)
            refuse("a convolution in groups is not depthwise, or its weights do not fit");
        Value result;
        size_t first = 0;
        const size_t taps = static_cast<size_t>(whole.kernel) * whole.kernel;
        for (const Part& part : in.parts) {
            if (part.gate >= 0) refuse("a gated tensor goes into a depthwise convolution");
            Operation operation = whole;
            const size_t count = plan_.planes[part.plane].channels;
            operation.kind = Kind::depthwise;
            operation.weights.assign(whole.weights.begin() + first * taps, whole.weights.begin() + (first + count) * taps);
            operation.bias.assign(whole.bias.begin() + first, whole.bias.begin() + first + count);
            first += count;
            operation.inputs = {part.plane};
            operation.out = new_plane(static_cast<int>(count), size);
            PlaneInfo& source = plan_.planes[part.plane];
            source.halo = std::max(source.halo, whole.kernel / 2);
            append(operation);
            result.parts.push_back({operation.out, -1});
        }
        return result;
    }

    Value linear(Operation operation, int in, const Weight& w, int64_t group) {
        const VectorInfo& vector = plan_.vectors[in];
        if (operation.kernel != 1 || group != 1 || w.shape[1] != vector.size) refuse("its weights do not fit");
        operation.kind = Kind::linear;
        operation.vector_in = in;
        operation.vector_out = new_vector(static_cast<int>(w.shape[0]));
        const int out = operation.vector_out;
        append(std::move(operation));
        linears_[out] = order_.back();
        return {{}, out};
    }

    Value relu(const Node& node) {
        const Value in = value(node.inputs[0]);
        if (!used_once(node.inputs[0])) refuse("its input is used elsewhere, too");
        if (in.vector >= 0) {
            activate(in.vector, Activation::relu);
            return in;
        }
        for (const Part& part : in.parts) {
            Operation* source = producer(part.plane);
            if (part.gate >= 0 || !source || source->kind == Kind::attention || source->relu || source->copy == part.plane) refuse("nothing before it takes it on");
            source->relu = true;
        }
        return in;
    }

    Value clip(const Node& node) {
        const Value in = value(node.inputs[0]);
        if (in.vector < 0 || node.inputs.size() != 3 || !used_once(node.inputs[0])) refuse("it is not the end of a gate");
        const Weight &low = weight(node.inputs[1]), &high = weight(node.inputs[2]);
        if (low.values != std::vector<float>{0} || high.values != std::vector<float>{1}) refuse("its limits are not 0 and 1");
        activate(in.vector, Activation::clip);
        return in;
    }

    void activate(int vector, Activation activation) {
        auto found = linears_.find(vector);
        if (found == linears_.end()) refuse("nothing before it takes it on");
        Operation& source = plan_.operations[found->second];
        if (source.activation != Activation::none) refuse("there are two activations");
        source.activation = activation;
    }

    Value add(const Node& node) {
        if (node.inputs.size() != 2) refuse("it does not add two tensors");
        Value a = value(node.inputs[0]), b = value(node.inputs[1]);
        if (a.vector >= 0 || b.vector >= 0) refuse("it adds vectors");
        const bool once_a = used_once(node.inputs[0]), once_b = used_once(node.inputs[1]);
        if (has(a, plan_.image_plane) || has(b, plan_.image_plane)) refuse("it adds to the image");
        if (a.parts.size() == 1 && b.parts.size() == 1 && once_a && once_b && merge(a.parts[0], b.parts[0]))
            return b;
        split(a, b, once_b);
        split(b, a, once_a);
        auto only_here = [&](const Value& mine, const Value& other, int plane) {
            auto same = [plane](const Part& part) { return part.plane == plane; };
            return std::count_if(mine.parts.begin(), mine.parts.end(), same) == 1 && !has(other, plane) && !wanted(plane);
        };
        if (a.parts.size() != b.parts.size()) refuse("its tensors are made of different parts");
        Value result;
        result.parts.assign(a.parts.size(), {-1, -1});
        for (size_t i = 0; i < a.parts.size(); i++) {
            check_pair(a.parts[i], b.parts[i]);
            for (auto [mine, other] : {std::pair{a.parts[i].plane, b.parts[i].plane}, std::pair{b.parts[i].plane, a.parts[i].plane}}) {
                const bool is_a = mine == a.parts[i].plane;
                if (result.parts[i].plane >= 0 || !only_here(is_a ? a : b, is_a ? b : a, mine) || !takes_residual(mine)) continue;
                producer(mine)->residual = other;
                move_to_end(producers_[mine]);
                bring_source(producers_[mine]);
                result.parts[i].plane = mine;
            }
        }
        for (size_t i = 0; i < a.parts.size(); i++) {
            if (result.parts[i].plane < 0) result.parts[i].plane = add_rows(a.parts[i].plane, b.parts[i].plane);
        }
        return result;
    }

    void check_pair(const Part& a, const Part& b) const {
        const PlaneInfo &x = plan_.planes[a.plane], &y = plan_.planes[b.plane];
        if (a.gate >= 0 || b.gate >= 0 || x.channels != y.channels || x.width != y.width)
            refuse("its tensors do not fit each other");
    }

    // Whether the operation that makes a plane can add another to it: nobody else wants the plane as it was.
    bool takes_residual(int plane) {
        Operation* source = producer(plane);
        if (!source || source->relu || source->residual >= 0 || source->sum_in >= 0 || source->sum_out >= 0 || source->out != plane)
            return false;
        if (source->copy >= 0 && taken(source->copy)) return false;
        if (source->kind != Kind::depthwise && source->kind != Kind::pointwise) return false;
        return !taken(plane);
    }

    // A sum of two 1x1 convolutions is one over both inputs.
    bool merge(const Part& a, const Part& b) {
        Operation *x = producer(a.plane), *y = producer(b.plane);
        if (!x || !y || x->kind != Kind::pointwise || y->kind != Kind::pointwise || x == y) return false;
        if (x->relu || y->relu || x->residual >= 0 || y->residual >= 0 || a.gate >= 0 || b.gate >= 0) return false;
        const PlaneInfo &p = plan_.planes[a.plane], &q = plan_.planes[b.plane];
        if (p.channels != q.channels || p.width != q.width) return false;
        if (x->inputs.size() + y->inputs.size() > kMaxInputs) return false;
        const size_t out = p.channels, mine = x->weights.size() / out, other = y->weights.size() / out;
        std::vector<float> weights;
        for (size_t row = 0; row < out; row++) {
            weights.insert(weights.end(), x->weights.begin() + row * mine, x->weights.begin() + (row + 1) * mine);
            weights.insert(weights.end(), y->weights.begin() + row * other, y->weights.begin() + (row + 1) * other);
            y->bias[row] += x->bias[row];
        }
        y->weights = std::move(weights);
        y->inputs.insert(y->inputs.begin(), x->inputs.begin(), x->inputs.end());
        y->gates.insert(y->gates.begin(), x->gates.begin(), x->gates.end());
        const int first = producers_[a.plane], second = producers_[b.plane];
        if (std::find(order_.begin(), order_.end(), first) > std::find(order_.begin(), order_.end(), second)) move_to_end(second);
        remove(first);
        return true;
    }

    // Cut the one plane of `whole` into planes like those of `like`.
    void split(const Value& like, Value& whole, bool once) {
        if (whole.parts.size() != 1 || like.parts.size() < 2) return;
        Operation* source = producer(whole.parts[0].plane);
        if (!once || !source || source->kind != Kind::pointwise || source->residual >= 0) refuse("its tensors are made of different parts");
        const Operation old = *source;
        const PlaneInfo plane = plan_.planes[old.out];
        const size_t depth = old.weights.size() / plane.channels;
        size_t first = 0;
        remove(producers_[old.out]);
        whole.parts.clear();
        for (const Part& part : like.parts) {
            const size_t count = plan_.planes[part.plane].channels;
            if (first + count > static_cast<size_t>(plane.channels)) refuse("its tensors do not fit each other");
            Operation piece = old;
            piece.weights.assign(old.weights.begin() + first * depth, old.weights.begin() + (first + count) * depth);
            piece.bias.assign(old.bias.begin() + first, old.bias.begin() + first + count);
            piece.out = new_plane(static_cast<int>(count), plane.width);
            first += count;
            whole.parts.push_back({piece.out, -1});
            append(std::move(piece));
        }
        if (first != static_cast<size_t>(plane.channels)) refuse("its tensors do not fit each other");
    }

    // The sum of two planes: where one of them goes through a depthwise convolution of this sum, on that way.
    int add_rows(int a, int b) {
        const int out = new_plane(plan_.planes[a].channels, plan_.planes[a].width);
        std::vector<int> made;  // planes
        // ReLU of the sum needs an operation that it can be part of.
        const bool has_relu = std::any_of(graph_.nodes.begin(), graph_.nodes.end(), [&](const Node& node) {
            return node.op == "Relu" && node.inputs == node_->outputs;
        });
        for (int index : order_) {
            if (has_relu) break;
            Operation& operation = plan_.operations[index];
            const bool copies = operation.kind == Kind::depthwise && operation.stride == 1 && operation.copy < 0;
            for (auto [through, other] : {std::pair{a, b}, std::pair{b, a}}) {
                if (!copies || operation.inputs[0] != through || !std::count(made.begin(), made.end(), other)) continue;
                operation.copy = out;
                operation.copy_residual = other;
                producers_[out] = index;
                return out;
            }
            made.insert(made.end(), {operation.out, operation.copy});
        }
        Operation operation;
        operation.kind = Kind::add;
        operation.inputs = {a, b};
        operation.out = out;
        append(operation);
        return out;
    }

    Value mul(const Node& node) {
        if (node.inputs.size() != 2) refuse("it does not multiply two tensors");
        Value rows = value(node.inputs[0]);
        const Value gate = value(node.inputs[1]);
        if (gate.sigmoid) return attention(rows, gate);
        if (rows.sigmoid) refuse("a sigmoid is no tensor");
        if (rows.parts.size() != 1 || rows.parts[0].gate >= 0 || !linears_.count(gate.vector)) refuse("it is not the gate of one tensor");
        if (plan_.vectors[gate.vector].size != plan_.planes[rows.parts[0].plane].channels) refuse("its gate does not fit");
        rows.parts[0].gate = gate.vector;
        return rows;
    }

    Value concat(const Node& node) {
        if (integer(node, "axis", 0) != 1) refuse("it does not join channels");
        Value result;
        std::vector<int> vectors;
        for (const std::string& name : node.inputs) {
            const Value& part = value(name);
            if (part.vector >= 0) vectors.push_back(part.vector);
            result.parts.insert(result.parts.end(), part.parts.begin(), part.parts.end());
            if (result.parts.size() > kMaxParts) refuse("it joins too many tensors");
        }
        if (vectors.empty()) {
            for (const Part& part : result.parts)
                if (plan_.planes[part.plane].width != plan_.planes[result.parts[0].plane].width) refuse("its tensors do not fit each other");
            return result;
        }
        if (!result.parts.empty()) refuse("it joins tensors of different sizes");
        result.vector = join(vectors);
        return result;
    }

    int join(const std::vector<int>& vectors) {
        if (vectors.size() == 1) return vectors[0];
        int size = 0;
        for (int vector : vectors) size += plan_.vectors[vector].size;
        const int whole = new_vector(size);
        int at = 0;
        plan_.vectors[whole].scale = plan_.vectors[vectors[0]].scale;
        for (int vector : vectors) {
            VectorInfo& part = plan_.vectors[vector];
            // Whole vectors are stored, so that a part begins where no other ends.
            if (linears_.count(vector) || vector == whole || part.whole >= 0 || part.scale != plan_.vectors[whole].scale || part.size % 8) refuse("it joins what cannot be joined");
            part.whole = whole;
            part.part_of_whole = at;
            at += part.size;
        }
        return whole;
    }

    Value pool(const Node& node) {
        const Value in = value(node.inputs[0]);
        if (in.vector >= 0 || has(in, plan_.image_plane)) refuse("it does not pool what a layer makes");
        std::vector<int> vectors;
        for (const Part& part : in.parts) {
            if (part.gate >= 0) refuse("it pools a gated tensor");
            const PlaneInfo& plane = plan_.planes[part.plane];
            const int vector = new_vector(plane.channels);
            plan_.vectors[vector].scale = 1.0f / (static_cast<float>(plane.width) * static_cast<float>(plane.height));
            sum(part.plane, vector);
            vectors.push_back(vector);
        }
        return {{}, join(vectors)};
    }

    void sum(int plane, int vector) {
        Operation* source = producer(plane);
        if (source && source->kind == Kind::depthwise && source->out == plane && source->sum_out < 0) {
            source->sum_out = vector;
            return;
        }
        for (int i : order_) {
            Operation& other = plan_.operations[i];
            if (other.kind == Kind::depthwise && other.stride == 1 && other.sum_in < 0 && other.inputs[0] == plane) {
                other.sum_in = vector;
                return;
            }
        }
        Operation operation;
        operation.kind = Kind::pool;
        operation.inputs = {plane};
        operation.sum_out = vector;
        append(operation);
    }

    Value unchanged(const Node& node) {
        const Value in = value(node.inputs[0]);
        if (in.vector < 0 && node.op != "Identity") refuse("it changes an image");
        return in;
    }

    Graph& graph_;  // of which weights that one node uses are taken
    Plan& plan_;
    const Node* node_ = nullptr;
    std::map<std::string, Value> values_;
    std::map<std::string, int> uses_, left_;  // of each tensor: by how many nodes, and by how many that are to come
    size_t weights_ = 0;
    std::map<int, int> linears_;      // vector -> the operation that makes it
    std::vector<int> producers_;      // plane -> the operation that makes it
    std::vector<int> order_;
};

class Schedule {
public:
    Schedule(Plan& plan, std::vector<int> order, int lanes, int cell) : plan_(plan), order_(std::move(order)), lanes_(lanes), cell_(cell) {}

    void run() {
        done_.assign(plan_.operations.size(), 0);
        int last = -1;
        for (int i : order_)
            if (operation(i).on_rows()) last = i;
        bool after = false;
        for (int i : order_) {
            if (operation(i).on_rows()) {
                if (!group_.empty() && streams(group_.back()) != streams(i)) flush();
                group_.push_back(i);
            } else {
                flush();
                if (after && plan_.head == 0) plan_.head = plan_.steps.size();
                emit(i, 0, 1, 0, 0, Split::blocks);
            }
            after = after || i == last;
        }
        flush();
        check_head();
        place();
    }

private:
    Operation& operation(int index) { return plan_.operations[index]; }
    int height(int index) {
        const Operation& o = operation(index);
        return plan_.planes[o.out >= 0 ? o.out : o.inputs[0]].height;
    }
    bool streams(int index) {
        const Operation& o = operation(index);
        int widest = plan_.planes[o.inputs[0]].width;
        if (o.kind == Kind::stem) widest /= 2;
        return widest >= kStreamedWidth;
    }

    void emit(int index, int from, int to, int from_block, int to_block, Split split, bool waits = true) {
        plan_.steps.push_back({index, static_cast<short>(from), static_cast<short>(to), static_cast<short>(from_block), static_cast<short>(to_block), split, waits});
    }
    // An operation's sums are of all rows, so threads divide its channels.
    Split split_of(int index) {
        const Operation& o = operation(index);
        if (o.kind == Kind::pool) return Split::first;
        return o.sum_in >= 0 || o.sum_out >= 0 ? Split::blocks : Split::rows;
    }
    int blocks(int index) {
        const Operation& o = operation(index);
        const int plane = o.out >= 0 ? o.out : o.inputs[0];
        return Vectors(plan_.planes[plane].channels, lanes_).blocks();
    }

    // The head gets one vector of each image, and makes both outputs.
    void check_head() {
        auto refuse = [] { throw Failure(GHOSTZOO_UNSUPPORTED, "The graph's last layers are none that the native engine runs."); };
        if (plan_.head == 0) refuse();
        std::vector<char> there(plan_.vectors.size(), 0), made(plan_.vectors.size(), 0);
        there[operation(plan_.steps[plan_.head].operation).vector_in] = 1;
        for (size_t s = plan_.head; s < plan_.steps.size(); s++) {
            const Operation& o = operation(plan_.steps[s].operation);
            if (!there[o.vector_in]) refuse();
            there[o.vector_out] = made[o.vector_out] = 1;
        }
        if (!made[plan_.logits] || !made[plan_.embedding]) refuse();
    }

    void flush() {
        if (group_.empty()) return;
        if (streams(group_[0])) stream();
        else in_stages();
        group_.clear();
    }

    // Operator after operator; what follows channel by channel does so while a block of channels is in the cache.
    void in_stages() {
        for (size_t i = 0; i < group_.size();) {
            const Operation& first = operation(group_[i]);
            size_t end = i + 1;
            std::vector<int> made = {first.out};
            if (first.kind == Kind::pointwise) {
                for (; end < group_.size(); end++) {
                    const Operation& next = operation(group_[end]);
                    if (next.kind != Kind::depthwise || !std::count(made.begin(), made.end(), next.inputs[0])) break;
                    made.push_back(next.out);
                }
            }
            if (end == i + 1 || blocks(group_[i]) < kOwnedBlocks) {
                for (; i < end; i++) emit(group_[i], 0, height(group_[i]), 0, blocks(group_[i]), split_of(group_[i]));
                continue;
            }
            for (int block = 0; block < blocks(group_[i]); block++)
                for (size_t j = i; j < end; j++)
                    emit(group_[j], 0, height(group_[j]), block, block + 1, Split::owner, block == 0 && j == i);
            i = end;
        }
    }

    // Some rows at a time: each operator as soon as the last one of the group needs what it makes.
    void stream() {
        int tallest = 0;
        for (int i : group_) tallest = std::max(tallest, height(i));
        std::vector<int> ends;
        std::copy_if(group_.begin(), group_.end(), std::back_inserter(ends), [&](int i) { return !has_reader(i); });
        const int step = kStreamedRows / cell_;
        for (int row = step; row < tallest + step; row += step) {
            for (int i : ends) reach(i, std::min(row, tallest) * height(i) / tallest);
        }
        for (int i : group_) reach(i, height(i));
        for (int i : group_) {
            for (int plane : {operation(i).out, operation(i).copy})
                if (plane >= 0 && read_only_here(plane)) {
                    int ring = 1;
                    while (ring < needed_[plane]) ring *= 2;
                    if (ring < plan_.planes[plane].height) plan_.planes[plane].ring = ring;
                }
        }
    }

    static bool reads(const Operation& o, int plane) {
        return std::count(o.inputs.begin(), o.inputs.end(), plane) || o.residual == plane || o.copy_residual == plane;
    }
    bool has_reader(int index) {
        const Operation& mine = operation(index);
        return std::any_of(group_.begin(), group_.end(), [&](int i) {
            return i != index && ((mine.out >= 0 && reads(operation(i), mine.out)) || (mine.copy >= 0 && reads(operation(i), mine.copy)));
        });
    }
    bool read_only_here(int plane) {
        return std::all_of(order_.begin(), order_.end(), [&](int i) {
            return !reads(operation(i), plane) || std::count(group_.begin(), group_.end(), i);
        });
    }
    int maker(int plane) {
        for (int i : group_)
            if (operation(i).out == plane || operation(i).copy == plane) return i;
        return -1;
    }

    void reach(int index, int rows) {
        const Operation& o = operation(index);
        const int from = done_[index];
        if (from >= rows) return;
        for (int plane : o.inputs) {
            const int source = maker(plane);
            if (source < 0) continue;
            int reach_to = o.kind == Kind::depthwise ? (rows - 1) * o.stride + o.kernel / 2 + 1 : rows;
            if (o.kind == Kind::attention) reach_to = (rows - 1) * plan_.planes[plane].height / height(index) + 1;
            reach(source, std::min(reach_to, height(source)));
        }
        for (int plane : {o.residual, o.copy_residual})
            if (plane >= 0 && maker(plane) >= 0) reach(maker(plane), rows);
        emit(index, from, rows, 0, blocks(index), split_of(index));
        done_[index] = rows;
        for (int plane : {o.out, o.copy})
            if (plane >= 0) note(plane, rows - 1);
    }

    // The rows of a plane up to `row` have just been made: how many rows of it are there whose turn is still to come?
    void note(int plane, int row) {
        if (needed_.size() < plan_.planes.size()) needed_.resize(plan_.planes.size(), 1);
        for (int i : group_) {
            const Operation& o = operation(i);
            if (!reads(o, plane) || done_[i] >= height(i)) continue;
            int low = done_[i];
            if (o.kind == Kind::attention) low = low * plan_.planes[plane].height / height(i);
            if (o.kind == Kind::depthwise && std::count(o.inputs.begin(), o.inputs.end(), plane)) {
                int first = done_[i] * o.stride - o.kernel / 2;
                low = o.residual == plane || o.copy_residual == plane ? std::min(first, low) : first;
            }
            needed_[plane] = std::max(needed_[plane], row - std::max(low, 0) + 1);
        }
    }

    // Planes share memory where their times do not meet.
    void place() {
        std::vector<Step> steps;
        std::vector<char> made(plan_.planes.size(), 0);
        size_t head = 0;
        for (size_t s = 0, unit = 0; s < plan_.steps.size(); unit++) {
            if (s == plan_.head) head = steps.size();
            size_t end = s + 1;
            while (end < plan_.steps.size() && !plan_.steps[end].waits) end++;
            bool clears = false;
            for (size_t i = s; i < end; i++) {
                const Operation& o = operation(plan_.steps[i].operation);
                if (!o.on_rows()) continue;
                for (int plane : {o.out, o.copy}) {
                    if (plane < 0 || made[plane]) continue;
                    made[plane] = 1;
                    plan_.planes[plane].first_unit = static_cast<int>(unit);
                    if (!plan_.planes[plane].halo) continue;
                    steps.push_back({plane, 0, 0, 0, 0, Split::first, !clears});
                    clears = true;
                }
                std::vector<int> used = o.inputs;
                used.insert(used.end(), {o.out, o.copy, o.residual, o.copy_residual});
                for (int plane : used)
                    if (plane >= 0) plan_.planes[plane].last_unit = static_cast<int>(unit);
            }
            // A lone step does not read the ends that are cleared beside it.
            if (clears && end == s + 1) plan_.steps[s].waits = false;
            steps.insert(steps.end(), plan_.steps.begin() + static_cast<long>(s), plan_.steps.begin() + static_cast<long>(end));
            s = end;
        }
        for (size_t s = 0; s < steps.size(); s++)
            if (steps[s].waits) plan_.units.push_back(s);
        plan_.units.push_back(steps.size());
        plan_.steps = std::move(steps);
        plan_.head = head;
    }

    Plan& plan_;
    std::vector<int> order_;
    const int lanes_, cell_;
    std::vector<int> group_;
    std::vector<int> done_;
    std::vector<int> needed_;
};

}  // namespace

Plan make_plan(Graph graph, int lanes, int cell) {
    Plan plan;
    Lowering lowering(graph, plan);
    lowering.run();
    Schedule(plan, lowering.order(), lanes, cell).run();
    return plan;
}

}  // namespace ghostzoo
