// Damaged graphs, bundles and images give a result or a reason, and never more: for the sanitisers, which see what goes
// wrong inside. A graph that is whole but odd gives what a plain evaluation gives, or is refused.
//
// test_mutations BUNDLE ROUNDS [SEED [IMAGE...]]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "bundle.h"
#include "error.h"
#include "ghostzoo/ghostzoo.h"
#include "image.h"
#include "onnx_writer.h"
#include "reference.h"
#include "sha256.h"

namespace fs = std::filesystem;

namespace {

std::mt19937_64 source(1);
size_t random(size_t below) { return below ? source() % below : 0; }
template <class List> auto& any(List& list) { return list[random(std::size(list))]; }

std::string content(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

int opened = 0, refused = 0, failures = 0;

void fail(const char* what) {
    std::fprintf(stderr, "FAILED: %s\n", what);
    failures++;
}

// Changes a few bytes, three of four times near one of `places`.
void change_bytes(std::string& bytes, const std::vector<size_t>& places) {
    const unsigned char odd[] = {0, 1, 2, 127, 128, 255, 10, 18, 26, 34, 42, 58, 98};
    for (size_t i = 0; i < 1 + random(3) && !bytes.empty(); i++) {
        const size_t place = places.empty() || !random(4) ? random(bytes.size()) : places[random(places.size())] + random(9);
        const size_t near = std::min(place < 4 ? 0 : place - 4, bytes.size() - 1);
        switch (random(6)) {
            case 0: bytes[near] = static_cast<char>(source()); break;
            case 1: bytes[near] = static_cast<char>(any(odd)); break;
            case 2: bytes[near] = static_cast<char>(bytes[near] ^ (1 << random(8))); break;
            case 3: bytes.erase(near, 1 + random(3)); break;
            case 4: bytes.insert(near, bytes, random(bytes.size()), 1 + random(16)); break;
            default: if (!random(20)) bytes.resize(near); break;
        }
    }
}

// ---- graphs

// The network of a file, or null where it is refused with a reason.
ghostzoo_network* open_network(const std::string& file) {
    ghostzoo_options options{sizeof options, 1, "", nullptr};
    ghostzoo_network* network = nullptr;
    const std::vector<char> exact(file.begin(), file.end());  // in memory of just this size, so that a byte beyond is seen
    if (ghostzoo_network_open(exact.data(), exact.size(), &options, &network) == GHOSTZOO_OK) return opened++, network;
    if (!*ghostzoo_last_error()) fail("a graph is refused without a reason");
    refused++;
    return nullptr;
}

void try_bytes(const std::string& file, const std::vector<size_t>& places) {
    std::string mutant = file;
    change_bytes(mutant, places);
    ghostzoo_network* network = open_network(mutant);
    if (!network) return;
    const size_t size = static_cast<size_t>(ghostzoo_network_image_size(network));
    std::vector<float> pixels(3 * size * size, 0.5f), logits(ghostzoo_network_num_classes(network));
    if (ghostzoo_network_run(network, pixels.data(), 1, logits.data(), nullptr) != GHOSTZOO_OK) fail("a network that opened");
    ghostzoo_network_close(network);
}

// Another structure: names, operators, attributes, order.
void change_graph(Graph& graph) {
    const char* operators[] = {"Conv", "Relu", "Clip", "Add", "Mul", "Concat", "GlobalAveragePool", "Identity", "Flatten"};
    const size_t at = random(graph.nodes.size());
    Node& node = graph.nodes[at];
    Node& other = any(graph.nodes);
    if (node.inputs.empty() || other.inputs.empty() || node.outputs.empty() || other.outputs.empty()) return;
    auto add = [&](const char* op, std::vector<std::string> inputs) {  // between a node and one that reads it
        Node fresh;
        fresh.op = op;
        fresh.inputs = std::move(inputs);
        fresh.outputs = {"fresh" + std::to_string(source())};
        if (fresh.op == "Concat") fresh.ints["axis"] = {1};
        for (size_t i = at + 1; i < graph.nodes.size(); i++)
            for (std::string& input : graph.nodes[i].inputs)
                if (input == node.outputs[0] && random(2)) input = fresh.outputs[0];
        graph.nodes.insert(graph.nodes.begin() + static_cast<long>(at) + 1, fresh);
    };
    const std::string result = node.outputs[0], earlier = at ? graph.nodes[random(at)].outputs.at(0) : graph.input;
    switch (random(14)) {
        case 0: any(node.inputs) = other.outputs[0]; break;
        case 1: std::reverse(node.inputs.begin(), node.inputs.end()); break;
        case 2: node.op = any(operators); break;
        case 3: if (!node.ints.empty()) for (int64_t& n : std::next(node.ints.begin(), static_cast<long>(random(node.ints.size())))->second) n = static_cast<int64_t>(random(4)); break;
        case 4: std::swap(node.inputs[0], other.inputs[0]); break;
        case 5: if (node.inputs.size() > 1 && other.inputs.size() > 1) node.inputs[1] = other.inputs[1]; break;
        case 6: std::swap(node, other); break;
        case 7: add("Identity", {result}); break;
        case 8: add("Relu", {result}); break;
        case 9: add("Add", {result, earlier}); break;
        case 10: add("Add", {earlier, result}); break;
        case 11: add("Concat", {result, result}); break;
        case 12: any(graph.outputs) = result; break;
        default: {
            auto weight = std::next(graph.weights.begin(), static_cast<long>(random(graph.weights.size())));
            if (!weight->second.shape.empty()) std::swap(any(weight->second.shape), any(weight->second.shape));
        }
    }
}

void try_structure(const Graph& whole) {
    Graph graph = whole;
    for (size_t i = 0; i < 1 + random(3); i++) change_graph(graph);
    ghostzoo_network* network = open_network(write_graph(graph));
    if (!network) return;
    constexpr size_t kImages = 2;
    const int size = ghostzoo_network_image_size(network);
    const size_t floats = size_t(3) * size * size, classes = ghostzoo_network_num_classes(network);
    std::vector<float> pixels(kImages * floats), logits(kImages * classes);
    for (float& pixel : pixels) pixel = static_cast<float>(random(2000)) / 1000 - 1;
    if (ghostzoo_network_run(network, pixels.data(), kImages, logits.data(), nullptr) != GHOSTZOO_OK) fail("a network that opened");
    for (size_t i = 0; i < kImages; i++) {
        const auto values = evaluate(graph, {pixels.begin() + i * floats, pixels.begin() + (i + 1) * floats}, size);
        const auto& right = values.at("logits").values;
        const double apart = difference(&logits[i * classes], right);
        if (right.size() == classes && (apart < 1e-4 || std::isnan(apart))) continue;  // not a number: all logits are 0
        fail(("an odd graph gives other logits than it should, by " + std::to_string(apart)).c_str());
        std::ofstream("/tmp/odd.onnx", std::ios::binary) << write_graph(graph);
    }
    ghostzoo_network_close(network);
}

// ---- bundles

void try_bundle(const fs::path& folder, const std::vector<std::pair<std::string, std::string>>& files, const std::string& image) {
    const size_t changed = random(files.size() + 1);
    std::string manifest = "{\"format_version\": 3, \"name\": \"a\", \"multi_label\": false, \"calibration\": {\"temperature\": 0.5}, \"files\": {";
    for (size_t i = 0; i < files.size(); i++) {
        std::string bytes = files[i].second;
        if (i == changed) change_bytes(bytes, {});
        std::ofstream(folder / files[i].first, std::ios::binary) << bytes;
        manifest += (i ? ", \"" : "\"") + files[i].first + "\": {\"size\": " + std::to_string(bytes.size()) + ", \"sha256\": \"" + ghostzoo::sha256(bytes) + "\"}";
    }
    manifest += "}}";
    if (changed == files.size()) change_bytes(manifest, {});
    std::ofstream(folder / "ghostzoo.json", std::ios::binary) << manifest;
    try {
        const ghostzoo::Bundle bundle = ghostzoo::read_bundle(folder.string());
        const size_t side = static_cast<size_t>(bundle.preprocessing.crop_size);
        std::vector<float> pixels(3 * side * side);
        const std::vector<uint8_t> rgb(image.begin(), image.begin() + 30);
        ghostzoo::preprocess(rgb.data(), 5, 2, bundle.preprocessing, pixels.data());
        opened++;
    } catch (const ghostzoo::Failure&) {
        refused++;
    }
}

// ---- images

// The checksums of a PNG's chunks, made right again, so that what is in them is read.
void mend_png(std::string& png) {
    auto number = [&](size_t at) {
        size_t value = 0;
        for (size_t i = 0; i < 4; i++) value = value << 8 | static_cast<unsigned char>(png[at + i]);
        return value;
    };
    for (size_t at = 8; at + 12 <= png.size();) {
        const size_t size = number(at);
        if (size > png.size() - at - 12) return;
        uint32_t crc = 0xffffffff;
        for (size_t i = at + 4; i < at + 8 + size; i++) {
            crc ^= static_cast<unsigned char>(png[i]);
            for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
        }
        crc = ~crc;
        for (size_t i = 0; i < 4; i++) png[at + 8 + size + i] = static_cast<char>(crc >> (24 - 8 * i));
        at += 12 + size;
    }
}

void try_image(const std::string& file, const ghostzoo::Preprocessing& preprocessing, std::vector<float>& pixels) {
    std::string mutant = file;
    std::vector<size_t> header(64);
    for (size_t i = 0; i < header.size(); i++) header[i] = random(std::min<size_t>(file.size(), 700));
    change_bytes(mutant, header);
    if (mutant.substr(0, 4) == "\x89PNG" && random(8)) mend_png(mutant);
    const std::vector<char> exact(mutant.begin(), mutant.end());
    try {
        const ghostzoo::Image image = ghostzoo::decode({exact.data(), exact.size()});
        if (image.rgb.size() != size_t(3) * image.width * image.height) fail("an image's size");
        ghostzoo::preprocess(image.rgb.data(), image.width, image.height, preprocessing, pixels.data());
        opened++;
    } catch (const ghostzoo::Failure&) {
        refused++;
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) return 2;
    const fs::path bundle = arguments[1];
    const int rounds = std::atoi(arguments[2]);
    source.seed(count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 1);
    const std::string file = content(bundle / "onnx/model.onnx");
    const Graph graph = ghostzoo::read_graph(file);
    // Most of a graph is weights, which may be anything: changed is the structure, where names and sizes stand.
    std::vector<size_t> places;
    for (size_t i = 0; i + 1 < file.size(); i++) {
        const auto byte = static_cast<unsigned char>(file[i]), next = static_cast<unsigned char>(file[i + 1]);
        if ((byte >= 'a' && byte <= 'z' && next >= '.' && next <= 'z') || (byte == 8 && next < 128)) places.push_back(i);
    }
    std::string ppm = "P6\n# a comment\n12 10\n255\n";
    for (int i = 0; i < 360; i++) ppm += static_cast<char>(i * 7);
    std::vector<std::string> images = {ppm};
    for (int i = 4; i < count; i++) images.push_back(content(arguments[i]));
    const fs::path folder = fs::temp_directory_path() / ("ghostzoo-mutations-" + std::to_string(std::random_device{}()));
    fs::create_directories(folder / "onnx");
    const std::vector<std::pair<std::string, std::string>> files = {
        {"config.json", content(bundle / "config.json")},
        {"preprocessor_config.json", content(bundle / "preprocessor_config.json")},
        {"onnx/model.onnx", "any"}};
    const auto preprocessing = ghostzoo::read_bundle(bundle.string()).preprocessing;
    std::vector<float> pixels(size_t(3) * preprocessing.crop_size * preprocessing.crop_size);
    const std::pair<const char*, std::function<void()>> kinds[] = {
        {"graphs' bytes", [&] { try_bytes(file, places); }},
        {"graphs", [&] { try_structure(graph); }},
        {"bundles", [&] { try_bundle(folder, files, ppm); }},
        {"images", [&] { try_image(any(images), preprocessing, pixels); }}};
    for (const auto& [name, attempt] : kinds) {
        opened = refused = 0;
        for (int round = 0; round < rounds; round++) attempt();
        std::printf("%s: %d opened, %d refused\n", name, opened, refused);
        std::fflush(stdout);
        if (!opened || !refused) fail("all are opened, or all are refused");
    }
    fs::remove_all(folder);
    return failures ? 1 : 0;
}
