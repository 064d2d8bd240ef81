// The engine against a plain evaluation of the same graph in double precision, for every instruction set of this CPU.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ghostzoo/ghostzoo.h"
#include "reference.h"
#include "ways.h"

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    failures++;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return 2;
    std::ifstream stream(arguments[1], std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(stream), {}};
    const Graph graph = ghostzoo::read_graph(file);
    const int size = static_cast<int>(graph.input_shape[2]);
    const size_t floats = size_t(3) * size * size;
    constexpr size_t kImages = 3, kRepeated = 27;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> pixels(kImages * floats);
    for (float& pixel : pixels) pixel = normal(random);
    std::vector<Tensor> logits, embeddings;
    for (size_t i = 0; i < kImages; i++) {
        auto values = evaluate(graph, {pixels.begin() + i * floats, pixels.begin() + (i + 1) * floats}, size);
        logits.push_back(values.at("logits"));
        embeddings.push_back(values.at("embedding"));
    }
    const size_t classes = logits[0].values.size(), width = embeddings[0].values.size();
    std::vector<float> batch;
    for (size_t i = 0; i < kRepeated; i++)
        batch.insert(batch.end(), pixels.begin() + (i % kImages) * floats, pixels.begin() + (i % kImages + 1) * floats);
    int ran = 0;
    for (const auto& [instructions, precision, tolerance] : kWays) {
        for (int threads : {1, 3}) {
            ghostzoo_options options{sizeof options, threads, instructions, precision};
            ghostzoo_network* network = nullptr;
            const ghostzoo_status status = ghostzoo_network_open(file.data(), file.size(), &options, &network);
            if (status == GHOSTZOO_UNSUPPORTED) continue;
            expect(status == GHOSTZOO_OK, std::string(instructions) + ": " + ghostzoo_last_error());
            if (status != GHOSTZOO_OK) continue;
            ran++;
            expect(ghostzoo_network_precision(network) == std::string(precision), "the precision");
            expect(ghostzoo_network_num_classes(network) == static_cast<int>(classes), "the number of classes");
            auto check = [&, instructions = instructions, tolerance = tolerance](size_t images) {
                std::vector<float> out(images * classes), embedding(images * width);
                expect(ghostzoo_network_run(network, batch.data(), images, out.data(), embedding.data()) == GHOSTZOO_OK, "run");
                for (size_t i = 0; i < images; i++) {
                    const double a = difference(&out[i * classes], logits[i % kImages].values);
                    const double b = difference(&embedding[i * width], embeddings[i % kImages].values);
                    expect(a < tolerance && b < tolerance, std::string(instructions) + ", image " + std::to_string(i) + " of " +
                           std::to_string(images) + ": logits differ by " + std::to_string(a) + ", embeddings by " + std::to_string(b));
                }
            };
            for (size_t images : {1, 2, 5, 12, 13, 27}) check(images);
            std::vector<std::thread> callers;
            for (int i = 0; i < 4; i++) callers.emplace_back([&] { check(1), check(5), check(1); });
            for (std::thread& caller : callers) caller.join();
            ghostzoo_network_close(network);
        }
    }
    expect(ran >= 2, "no instruction set ran");
    std::printf("%d ways to run, %d failures\n", ran, failures);
    return failures ? 1 : 0;
}
