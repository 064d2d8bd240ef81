// The ways to run a network, with how far their results may be from those in double precision, relative to the largest.
#pragma once

struct Way {
    const char *instructions, *precision;
    double tolerance;
};
constexpr Way kWays[] = {
    {"generic", "fp32", 1e-5}, {"avx2", "fp32", 1e-5}, {"avx512", "fp32", 1e-5},
    {"avx512", "bf16", 3e-2},  {"neon", "fp32", 1e-5}, {"wasm", "fp32", 1e-5},
};
