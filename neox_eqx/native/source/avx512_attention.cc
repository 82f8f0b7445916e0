// Attention with AVX-512: 16 queries in a register.
#include "avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "numbers.h"
#include "targets.h"

BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c,avx2")
namespace neox {
namespace {

using Lanes = __m512;
constexpr int64_t kLanes = 16, kRows = 4, kWide = 4;

inline Lanes all(float x) { return _mm512_set1_ps(x); }
inline Lanes load(const float* p) { return _mm512_load_ps(p); }
inline void store(float* p, Lanes x) { _mm512_store_ps(p, x); }
inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes max(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes power_of_two(Lanes shifted) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(127 << 23)));
}
inline Lanes zero_if_less(Lanes x, float least, Lanes y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, all(least), _CMP_NLT_UQ), y);
}

void widen(const uint16_t* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(from + i))));
  for (; i < count; i++) to[i] = from_float16(from[i]);
}

#include "lanes_attention.h"

}  // namespace

bool avx512_attend(const Attention& a, const Queries& own) { return attend(a, own); }

}  // namespace neox
END_TARGET
#endif
