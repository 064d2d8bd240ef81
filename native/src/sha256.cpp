#include "sha256.h"

#include <cmath>
#include <cstdint>
#include <vector>

namespace ghostzoo {
namespace {

// The first 32 bits of the fractions of roots of the first 64 primes: cube roots, and square roots of the first eight.
struct Constants {
    uint32_t k[64], start[8];
    Constants() {
        int count = 0;
        for (int n = 2; count < 64; n++) {
            bool prime = true;
            for (int d = 2; d * d <= n; d++) prime = prime && n % d;
            if (!prime) continue;
            k[count] = fraction(std::cbrt(static_cast<long double>(n)));
            if (count < 8) start[count] = fraction(std::sqrt(static_cast<long double>(n)));
            count++;
        }
    }
    static uint32_t fraction(long double root) {
        return static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L);
    }
};

inline uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

void mix(uint32_t* state, const unsigned char* block, const uint32_t* k) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = static_cast<uint32_t>(block[4 * i]) << 24 | static_cast<uint32_t>(block[4 * i + 1]) << 16 |
               static_cast<uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        const uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
        const uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    uint32_t s[8];
    for (int i = 0; i < 8; i++) s[i] = state[i];
    for (int i = 0; i < 64; i++) {
        const uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]), majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        const uint32_t one = s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) + choice + k[i] + w[i];
        const uint32_t two = (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) + majority;
        for (int j = 7; j > 0; j--) s[j] = s[j - 1];
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

}  // namespace

std::string sha256(std::string_view data) {
    static const Constants constants;
    uint32_t state[8];
    for (int i = 0; i < 8; i++) state[i] = constants.start[i];
    const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
    const size_t whole = data.size() / 64 * 64;
    for (size_t i = 0; i < whole; i += 64) mix(state, bytes + i, constants.k);
    std::vector<unsigned char> end(bytes + whole, bytes + data.size());
    end.push_back(0x80);
    while (end.size() % 64 != 56) end.push_back(0);
    for (int shift = 56; shift >= 0; shift -= 8) end.push_back(static_cast<unsigned char>(static_cast<uint64_t>(data.size()) * 8 >> shift));
    for (size_t i = 0; i < end.size(); i += 64) mix(state, end.data() + i, constants.k);
    std::string hex;
    for (uint32_t word : state)
        for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
    return hex;
}

}  // namespace ghostzoo
