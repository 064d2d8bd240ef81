// Damaged graphs give a network or a reason, and never more: for the sanitisers, which see what goes wrong inside.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "ghostzoo/ghostzoo.h"

int main(int count, char** arguments) {
    if (count < 3) return 2;
    std::ifstream stream(arguments[1], std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(stream), {}};
    const int rounds = std::atoi(arguments[2]);
    std::mt19937_64 random(count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 1);
    // Most of the file is weights, which may be anything: the structure is changed, where names and sizes stand.
    std::vector<size_t> places;
    for (size_t i = 0; i + 1 < file.size(); i++) {
        const auto byte = static_cast<unsigned char>(file[i]), next = static_cast<unsigned char>(file[i + 1]);
        if ((byte >= 'a' && byte <= 'z' && next >= '.' && next <= 'z') || (byte == 8 && next < 128)) places.push_back(i);
    }
    const unsigned char odd[] = {0, 1, 2, 127, 128, 255, 10, 18, 26, 34, 42, 58, 98};
    int opened = 0, refused = 0;
    for (int round = 0; round < rounds; round++) {
        std::string mutant = file;
        const int changes = 1 + static_cast<int>(random() % 3);
        for (int i = 0; i < changes; i++) {
            const size_t place = random() % 4 ? places[random() % places.size()] : random() % file.size();
            const long near = static_cast<long>(place) + static_cast<long>(random() % 9) - 4;
            if (near < 0 || near >= static_cast<long>(mutant.size())) continue;
            switch (random() % 5) {
                case 0: mutant[near] = static_cast<char>(random()); break;
                case 1: mutant[near] = static_cast<char>(odd[random() % sizeof odd]); break;
                case 2: mutant[near] = static_cast<char>(mutant[near] ^ (1 << random() % 8)); break;
                case 3: mutant.erase(near, 1 + random() % 3); break;
                default: mutant.resize(random() % 20 ? mutant.size() : near); break;
            }
        }
        ghostzoo_options options{sizeof options, 1, "", nullptr};
        ghostzoo_network* network = nullptr;
        // In memory of just this size, so that a byte beyond it is seen.
        std::vector<char> exact(mutant.begin(), mutant.end());
        if (ghostzoo_network_open(exact.data(), exact.size(), &options, &network) != GHOSTZOO_OK) {
            if (!*ghostzoo_last_error()) return 1;
            refused++;
            continue;
        }
        opened++;
        const size_t size = static_cast<size_t>(ghostzoo_network_image_size(network));
        std::vector<float> pixels(3 * size * size, 0.5f), logits(ghostzoo_network_num_classes(network));
        if (ghostzoo_network_run(network, pixels.data(), 1, logits.data(), nullptr) != GHOSTZOO_OK) return 1;
        ghostzoo_network_close(network);
    }
    std::printf("%d opened, %d refused\n", opened, refused);
    return 0;
}
