// The instruction sets, from the fastest.
#include "avx2.h"
#include "avx512.h"
#include "neon.h"
#include "plain.h"

namespace neox {
namespace {

#if defined(__x86_64__)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}
const Kernels kAvx512 = {"avx512",         has_avx512,   avx512_by_rows,
                         avx512_by_tiles, avx512_round, avx512_attend};

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
const Kernels kAvx2 = {"avx2", has_avx2, avx2_by_rows, avx2_by_tiles, avx2_round, avx2_attend};
#endif

bool always() { return true; }
#if defined(__aarch64__)
const Kernels kNeon = {"neon", always, neon_by_rows, neon_by_tiles, neon_round, neon_attend};
#endif
const Kernels kPlain = {"plain", always, plain_by_rows, plain_by_tiles, plain_round, plain_attend};

}  // namespace

const Kernels* const kKernels[] = {
#if defined(__x86_64__)
    &kAvx512, &kAvx2,
#elif defined(__aarch64__)
    &kNeon,
#endif
    &kPlain, nullptr};

}  // namespace neox
