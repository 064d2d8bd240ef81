#include <cstring>

#include "kernels.h"

namespace ghostzoo {

namespace generic { extern const Kernels kernels; }
#if defined(GHOSTZOO_NEON)
namespace neon { extern const Kernels kernels; }
#endif
#if defined(GHOSTZOO_WASM)
namespace wasm { extern const Kernels kernels; }
#endif
#if defined(GHOSTZOO_AVX2)
namespace avx2 { extern const Kernels kernels; }
#endif
#if defined(GHOSTZOO_AVX512)
namespace avx512 { extern const Kernels kernels; }
#endif
#if defined(GHOSTZOO_AVX512BF16)
namespace avx512bf16 { extern const Kernels kernels; }
#endif

namespace {

bool usable([[maybe_unused]] const Kernels& kernels) {
#if defined(GHOSTZOO_AVX2) || defined(GHOSTZOO_AVX512)
    if (!std::strcmp(kernels.name, "avx512"))
        return (kernels.cell == 4 || __builtin_cpu_supports("avx512bf16")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
    if (!std::strcmp(kernels.name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
}

const Kernels* const kAll[] = {  // the best first
#if defined(GHOSTZOO_AVX512BF16)
    &avx512bf16::kernels,
#endif
#if defined(GHOSTZOO_AVX512)
    &avx512::kernels,
#endif
#if defined(GHOSTZOO_AVX2)
    &avx2::kernels,
#endif
#if defined(GHOSTZOO_NEON)
    &neon::kernels,
#endif
#if defined(GHOSTZOO_WASM)
    &wasm::kernels,
#endif
    &generic::kernels,
};

}  // namespace

const Kernels* find_kernels(const char* name, bool bfloat16) {
    for (const Kernels* kernels : kAll)
        if ((!*name || !std::strcmp(kernels->name, name)) && (kernels->cell == 2) == bfloat16 && usable(*kernels)) return kernels;
    return nullptr;
}

}  // namespace ghostzoo
