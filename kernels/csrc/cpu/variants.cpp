// Which variants there are, and which of them this processor runs. Built without a variant's flags: it runs everywhere.
#include "kernels.h"

namespace flux {

const Kernels* const variants[] = {
#if defined(FLUX_X86)
    &avx512_kernels, &avx2_kernels,
#endif
#if defined(FLUX_VECTORS)
    &vec128_kernels,
#endif
    &plain_kernels,
#if defined(FLUX_WIDE)
    &wide_kernels,
#endif
    nullptr,
};

bool runs_here(const Kernels& kernels) {
#if defined(FLUX_X86)
    if (&kernels == &avx2_kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (&kernels == &avx512_kernels) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    }
#endif
    (void)kernels;
    return true;
}

}  // namespace flux
