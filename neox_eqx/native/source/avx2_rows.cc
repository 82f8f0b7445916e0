// Weights by rows with AVX2: 16 sums along K in two registers, added in the tree of AVX-512.
#include "avx2.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "targets.h"

BEGIN_TARGET("avx2,fma,f16c")
namespace neox {
namespace {

struct Sixteen {
  __m256 low, high;
};

struct Float16 {
  using Number = uint16_t;
  static Sixteen load(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
  }
};

struct Bfloat16 {
  using Number = uint16_t;
  static __m256 widen(const uint16_t* p) {
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
  }
  static Sixteen load(const uint16_t* p) { return {widen(p), widen(p + 8)}; }
};

struct Int8 {
  using Number = int8_t;
  static __m256 widen(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  }
  static Sixteen load(const int8_t* p) { return {widen(p), widen(p + 8)}; }
};

inline Sixteen zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

inline float sum(const Sixteen& v) {
  __m256 a = _mm256_add_ps(v.low, v.high);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

inline void add(Sixteen& acc, const Sixteen& w, const float* x) {
  acc.low = _mm256_fmadd_ps(w.low, _mm256_loadu_ps(x), acc.low);
  acc.high = _mm256_fmadd_ps(w.high, _mm256_loadu_ps(x + 8), acc.high);
}

constexpr int64_t kBytes = 384 * 1024;

#include "sixteen_rows.h"

}  // namespace

void avx2_by_rows(const Product& p, const Part& part) {
  if (p.format == Format::kFloat16) return all<Float16>(p, part);
  if (p.format == Format::kBfloat16) return all<Bfloat16>(p, part);
  all<Int8>(p, part);
}

}  // namespace neox
END_TARGET
#endif
