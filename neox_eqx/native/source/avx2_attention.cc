// Attention with AVX2: eight queries in a register, and the bits of AVX-512.
#include "avx2.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "numbers.h"
#include "targets.h"

BEGIN_TARGET("avx2,fma,f16c")
namespace neox {
namespace {

using Lanes = __m256;
constexpr int64_t kLanes = 8, kRows = 4, kWide = 2;

inline Lanes all(float x) { return _mm256_set1_ps(x); }
inline Lanes load(const float* p) { return _mm256_load_ps(p); }
inline void store(float* p, Lanes x) { _mm256_store_ps(p, x); }
inline Lanes add(Lanes a, Lanes b) { return _mm256_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm256_sub_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm256_mul_ps(a, b); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
inline Lanes max(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
inline Lanes power_of_two(Lanes shifted) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)));
}
inline Lanes zero_if_less(Lanes x, float least, Lanes y) {
  return _mm256_and_ps(_mm256_cmp_ps(x, all(least), _CMP_NLT_UQ), y);
}

void widen(const uint16_t* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
  for (; i < count; i++) to[i] = from_float16(from[i]);
}

#include "lanes_attention.h"

}  // namespace

bool avx2_attend(const Attention& a, const Queries& own) { return attend(a, own); }

}  // namespace neox
END_TARGET
#endif
