// ghostzoo-classify BUNDLE IMAGE...: the best classes of each image.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ghostzoo/ghostzoo.hpp"

namespace {

const char kUsage[] =
    "Usage: ghostzoo-classify [--json] [--top-k N] [--threads N] [--precision P] BUNDLE IMAGE...\n\n"
    "  BUNDLE      folder of a model, such as 'ghostzoo convert' and 'ghostzoo pull --to' write\n"
    "  IMAGE       an image file, or - for the standard input\n"
    "  --json      one JSON object a line\n"
    "  --top-k N   how many classes (5)\n"
    "  --threads N CPU threads (one for each CPU)\n"
    "  --precision P  fp32, or bf16, which is faster and less exact, on CPUs with AVX512-BF16\n";

std::string json_string(const std::string& text) {
    std::string result = "\"";
    for (char c : text) {
        char code[8];
        if (c == '"' || c == '\\') result += '\\', result += c;
        else if (static_cast<unsigned char>(c) < 32) std::snprintf(code, sizeof code, "\\u%04x", c), result += code;
        else result += c;
    }
    return result + "\"";
}

bool read(const std::string& path, std::string& content) {
    if (path == "-") {
        char buffer[65536];
        size_t size;
        while ((size = std::fread(buffer, 1, sizeof buffer, stdin)) > 0) content.append(buffer, size);
        return !std::ferror(stdin);
    }
    std::ifstream stream(path, std::ios::binary);
    if (!stream) return false;
    content.assign(std::istreambuf_iterator<char>(stream), {});
    return !stream.bad();
}

}  // namespace

int main(int count, char** arguments) {
    bool json = false;
    ghostzoo::Options options;
    long top_k = 5, threads = 0;
    std::vector<std::string> names;
    for (int i = 1; i < count; i++) {
        const std::string word = arguments[i];
        if (word == "--help" || word == "-h") return std::fputs(kUsage, stdout), 0;
        if (word == "--json") { json = true; continue; }
        if (word == "--top-k" || word == "--threads") {
            char* end = nullptr;
            const long value = i + 1 < count ? std::strtol(arguments[++i], &end, 10) : 0;
            if (!end || *end || value < 1 || value > 100000) return std::fprintf(stderr, "%s takes a number of at least 1.\n", word.c_str()), 2;
            (word == "--top-k" ? top_k : threads) = value;
            continue;
        }
        if (word == "--precision" && i + 1 < count) { options.precision = arguments[++i]; continue; }
        if (word.size() > 1 && word[0] == '-') return std::fprintf(stderr, "There is no option %s.\n\n%s", word.c_str(), kUsage), 2;
        names.push_back(word);
    }
    if (names.size() < 2) return std::fputs(kUsage, stderr), 2;
    try {
        options.threads = static_cast<int>(threads);
        const auto classifier = ghostzoo::Classifier::open(names[0], options);
        int failed = 0;
        for (size_t i = 1; i < names.size(); i++) {
            std::string file, error;
            std::vector<ghostzoo::Class> classes;
            if (!read(names[i], file)) error = "The file cannot be read.";
            else try {
                classes = classifier.classify(file, static_cast<size_t>(top_k));
            } catch (const ghostzoo::Error& failure) {
                error = failure.what();
            }
            failed += !error.empty();
            if (json) {
                std::printf("{\"image\": %s, \"predictions\": [", json_string(names[i]).c_str());
                for (size_t k = 0; k < classes.size(); k++)
                    std::printf("%s{\"index\": %d, \"label\": %s, \"score\": %.9g}", k ? ", " : "", classes[k].index, json_string(classes[k].label).c_str(), classes[k].score);
                std::printf("], \"error\": %s}\n", error.empty() ? "null" : json_string(error).c_str());
            } else if (!error.empty()) {
                std::fprintf(stderr, "%s: %s\n", names[i].c_str(), error.c_str());
            } else {
                std::printf("%s", names[i].c_str());
                for (const auto& found : classes) std::printf("  %s %.1f %%", found.label.c_str(), 100 * found.score);
                std::printf("\n");
            }
        }
        return failed ? 1 : 0;
    } catch (const ghostzoo::Error& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
