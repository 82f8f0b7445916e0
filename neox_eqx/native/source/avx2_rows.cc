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

// M rows of x with R rows of W, w; the R rows after these come into the second-level cache.
template <class F, int M, int R>
void block(const Product& p, const typename F::Number* w, int64_t m, int64_t n) {
  using Number = typename F::Number;
  const float* x = p.x + m * p.K;
  Sixteen acc[M][R];
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int r = 0; r < R; r++) acc[i][r] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  }
  int64_t k = 0;
  for (; k + 16 <= p.K; k += 16) {
    UNROLL for (int r = 0; r < R; r++) {
      _mm_prefetch((const char*)(w + (r + R) * p.K + k), _MM_HINT_T1);
      const Sixteen wide = F::load(w + r * p.K + k);
      UNROLL for (int i = 0; i < M; i++) add(acc[i][r], wide, x + i * p.K + k);
    }
  }
  if (k < p.K) {
    UNROLL for (int i = 0; i < M; i++) {
      float rest[16] = {};
      std::memcpy(rest, x + i * p.K + k, (p.K - k) * 4);
      UNROLL for (int r = 0; r < R; r++) {
        Number own[16] = {};
        std::memcpy(own, w + r * p.K + k, (p.K - k) * sizeof(Number));
        add(acc[i][r], F::load(own), rest);
      }
    }
  }
  const float* scale = p.format == Format::kInt8 ? (const float*)p.scale + n : nullptr;
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int r = 0; r < R; r++) {
      float y = sum(acc[i][r]);
      p.y[(m + i) * p.N + n + r] = scale ? y * scale[r] : y;
    }
  }
}

// M rows of x with the rows of W from n0 to n1, R at a time.
template <class F, int M, int R>
int64_t rows_of_x(const Product& p, int64_t m, int64_t n0, int64_t n1) {
  auto w = (const typename F::Number*)p.w;
  int64_t n = n0;
  for (; n + R <= n1; n += R) block<F, M, R>(p, w + n * p.K, m, n);
  for (; R > 1 && n < n1; n++) block<F, M, 1>(p, w + n * p.K, m, n);
  return m + M;
}

// A block of W stays in the second-level cache for all rows of x.
template <class F>
void all(const Product& p, const Part& part) {
  constexpr int64_t kBytes = 384 * 1024;
  const int64_t row = std::max<int64_t>(1, p.K * sizeof(typename F::Number));
  const int64_t most = std::max<int64_t>(4, std::min<int64_t>(48, kBytes / row / 4 * 4));
  for (int64_t n0 = part.n0; n0 < part.n1; n0 += most) {
    const int64_t n1 = std::min(part.n1, n0 + most);
    for (int64_t m = part.m0; m < part.m1;) {
      const int64_t left = part.m1 - m;
      if (left >= 4) m = rows_of_x<F, 4, 1>(p, m, n0, n1);
      else if (left >= 2) m = rows_of_x<F, 2, 2>(p, m, n0, n1);
      else m = rows_of_x<F, 1, 4>(p, m, n0, n1);
    }
  }
}

}  // namespace

void avx2_by_rows(const Product& p, const Part& part) {
  if (p.format == Format::kFloat16) return all<Float16>(p, part);
  if (p.format == Format::kBfloat16) return all<Bfloat16>(p, part);
  all<Int8>(p, part);
}

}  // namespace neox
END_TARGET
#endif
