#include "onnx_file.h"

#include <cstring>

#include "error.h"

namespace ghostzoo {
namespace {

constexpr size_t kMaxNodes = 1024;
constexpr size_t kMaxTensors = 4096;
constexpr size_t kMaxListed = 64;  // names or attributes of a node
constexpr size_t kMaxNumbers = 8;  // in a list of them
constexpr size_t kMaxRank = 4;
constexpr int64_t kFloat = 1;

[[noreturn]] void refuse(const std::string& reason) {
    throw Failure(GHOSTZOO_BAD_MODEL, "The graph " + reason + ".");
}

// One message of protocol buffers: its fields, one after the other.
class Message {
public:
    explicit Message(std::string_view bytes) : rest_(bytes) {}

    bool next() {
        if (rest_.empty()) return false;
        uint64_t key = varint();
        field = key >> 3;
        wire_ = key & 7;
        number = 0;
        bytes = {};
        switch (wire_) {
            case 0: number = static_cast<int64_t>(varint()); break;
            case 1: bytes = take(8); break;
            case 2: bytes = take(varint()); break;
            case 5: bytes = take(4); break;
            default: refuse("is damaged");
        }
        return true;
    }

    std::string_view text() const {
        if (wire_ != 2) refuse("is damaged");
        return bytes;
    }
    std::string string() const { return std::string(text()); }

    // A repeated number: packed or one at a time.
    void append_to(std::vector<int64_t>& list) const {
        auto append = [&](int64_t value) {
            if (list.size() == kMaxNumbers) refuse("has a list of numbers that is too long");
            list.push_back(value);
        };
        if (wire_ == 0) return append(number);
        Message packed(text());
        while (!packed.rest_.empty()) append(static_cast<int64_t>(packed.varint()));
    }

    uint64_t field = 0;
    int64_t number = 0;
    std::string_view bytes;

private:
    uint64_t varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            if (rest_.empty()) refuse("ends in the middle");
            auto byte = static_cast<unsigned char>(rest_.front());
            rest_.remove_prefix(1);
            value |= static_cast<uint64_t>(byte & 127) << shift;
            if (byte < 128) return value;
        }
        refuse("is damaged");
    }
    std::string_view take(uint64_t size) {
        if (size > rest_.size()) refuse("ends in the middle");
        std::string_view taken = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return taken;
    }

    std::string_view rest_;
    unsigned wire_ = 0;
};

void read_weight(std::string_view bytes, Graph& graph) {
    Message message(bytes);
    Weight weight;
    std::string name;
    std::string_view raw;
    int64_t type = 0;
    while (message.next()) {
        switch (message.field) {
            case 1: message.append_to(weight.shape); break;
            case 2: type = message.number; break;
            case 8: name = message.string(); break;
            case 9: raw = message.text(); break;
            case 12: break;  // documentation
            default: refuse("has a tensor in a form that is not read");
        }
    }
    if (type != kFloat) refuse("has weights that are not float32; open the bundle's float32 graph");
    if (weight.shape.size() > kMaxRank) refuse("has a tensor of too many dimensions");
    uint64_t count = 1;
    for (int64_t extent : weight.shape) {
        if (extent <= 0 || static_cast<uint64_t>(extent) > raw.size() / count) refuse("has a tensor of a wrong size");
        count *= static_cast<uint64_t>(extent);
    }
    if (graph.weights.size() == kMaxTensors) refuse("has too many tensors");
    if (raw.size() % 4 || count != raw.size() / 4) refuse("has a tensor of a wrong size");
    weight.values.resize(count);
    std::memcpy(weight.values.data(), raw.data(), raw.size());
    if (!graph.weights.emplace(name, std::move(weight)).second) refuse("has two tensors of one name");
}

void read_attribute(std::string_view bytes, Node& node) {
    Message message(bytes);
    std::string name;
    std::vector<int64_t> ints;
    std::string text;
    bool has_text = false;
    while (message.next()) {
        switch (message.field) {
            case 1: name = message.string(); break;
            case 3: ints.assign(1, message.number); break;
            case 4: text = message.string(); has_text = true; break;
            case 8: message.append_to(ints); break;
            case 20: break;  // its type
            default: refuse("has an attribute in a form that is not read");
        }
    }
    if (has_text) {
        node.strings[name] = text;
    } else {
        node.ints[name] = ints;
    }
}

void read_node(std::string_view bytes, Graph& graph) {
    if (graph.nodes.size() == kMaxNodes) refuse("has too many nodes");
    Message message(bytes);
    Node node;
    while (message.next()) {
        switch (message.field) {
            case 1: node.inputs.push_back(message.string()); break;
            case 2: node.outputs.push_back(message.string()); break;
            case 3: node.name = message.string(); break;
            case 4: node.op = message.string(); break;
            case 5: read_attribute(message.text(), node); break;
            case 6: break;  // documentation
            case 7:
                if (!message.text().empty()) refuse("has operators of another domain");
                break;
            default: refuse("has a node in a form that is not read");
        }
        if (node.inputs.size() + node.outputs.size() + node.ints.size() + node.strings.size() > kMaxListed)
            refuse("has a node with too many inputs, outputs or attributes");
    }
    graph.nodes.push_back(std::move(node));
}

std::vector<int64_t> read_shape(std::string_view type) {
    std::vector<int64_t> shape;
    Message outer(type);
    while (outer.next()) {
        if (outer.field != 1) continue;
        Message tensor(outer.text());
        while (tensor.next()) {
            if (tensor.field == 1 && tensor.number != kFloat) refuse("has an input that is not float32");
            if (tensor.field != 2) continue;
            Message dimensions(tensor.text());
            while (dimensions.next()) {
                if (dimensions.field != 1 || shape.size() > kMaxRank) continue;
                Message dimension(dimensions.text());
                int64_t extent = -1;
                while (dimension.next()) {
                    if (dimension.field == 1) extent = dimension.number;
                }
                shape.push_back(extent);
            }
        }
    }
    return shape;
}

void read_value(std::string_view bytes, std::string& name, std::vector<int64_t>* shape) {
    Message message(bytes);
    while (message.next()) {
        if (message.field == 1) name = message.string();
        if (message.field == 2 && shape != nullptr) *shape = read_shape(message.text());
    }
}

}  // namespace

Graph read_graph(std::string_view file) {
    Graph graph;
    Message model(file);
    bool found = false;
    while (model.next()) {
        if (model.field != 7) continue;
        if (found) refuse("is there twice");
        found = true;
        Message body(model.text());
        while (body.next()) {
            switch (body.field) {
                case 1: read_node(body.text(), graph); break;
                case 5: read_weight(body.text(), graph); break;
                case 11:
                    if (!graph.input.empty()) refuse("has more than one input");
                    read_value(body.text(), graph.input, &graph.input_shape);
                    break;
                case 12:
                    if (graph.outputs.size() == kMaxListed) refuse("has too many outputs");
                    graph.outputs.emplace_back();
                    read_value(body.text(), graph.outputs.back(), nullptr);
                    break;
                default: break;
            }
        }
    }
    if (!found || graph.input.empty()) refuse("is not ONNX, or is empty");
    return graph;
}

}  // namespace ghostzoo
