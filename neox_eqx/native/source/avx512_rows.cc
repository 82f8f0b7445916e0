// Weights by rows with AVX-512: 16 sums along K, added in one fixed tree.
#include "avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdlib>

#include "targets.h"

BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c,avx2")
namespace neox {
namespace {

struct Float32 {
  using Number = float;
  static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static __m512 load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
};

struct Float16 {
  using Number = uint16_t;
  static __m512 load(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
  }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
  }
};

struct Bfloat16 {
  using Number = uint16_t;
  static __m512 widen(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  }
  static __m512 load(const uint16_t* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
  static __m512 load(const uint16_t* p, __mmask16 mask) {
    return widen(_mm256_maskz_loadu_epi16(mask, p));
  }
};

struct Int8 {
  using Number = int8_t;
  static __m512 widen(__m128i v) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v)); }
  static __m512 load(const int8_t* p) { return widen(_mm_loadu_si128((const __m128i*)p)); }
  static __m512 load(const int8_t* p, __mmask16 mask) {
    return widen(_mm_maskz_loadu_epi8(mask, p));
  }
};

inline float sum(__m512 v) {
  __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

inline __mmask16 first(int64_t n) { return (__mmask16)((1u << n) - 1); }

// M rows of x with R rows of W, w, whose results go to columns n and on. The R rows after these come
// into the second-level cache meanwhile: the processor's own prefetching begins anew with each row,
// and the first level has too few buffers for what is under way.
template <class F, int M, int R>
void block(const Product& p, const typename F::Number* w, int64_t m, int64_t n) {
  const float* x = p.x + m * p.K;
  __m512 acc[M][R];
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int r = 0; r < R; r++) acc[i][r] = _mm512_setzero_ps();
  }
  int64_t k = 0;
  for (; k + 16 <= p.K; k += 16) {
    __m512 wide[R];
    UNROLL for (int r = 0; r < R; r++) {
      _mm_prefetch((const char*)(w + (r + R) * p.K + k), _MM_HINT_T1);
      wide[r] = F::load(w + r * p.K + k);
    }
    UNROLL for (int i = 0; i < M; i++) {
      __m512 xs = _mm512_loadu_ps(x + i * p.K + k);
      UNROLL for (int r = 0; r < R; r++) acc[i][r] = _mm512_fmadd_ps(wide[r], xs, acc[i][r]);
    }
  }
  if (k < p.K) {
    __mmask16 mask = first(p.K - k);
    UNROLL for (int r = 0; r < R; r++) {
      __m512 wide = F::load(w + r * p.K + k, mask);
      UNROLL for (int i = 0; i < M; i++)
        acc[i][r] = _mm512_fmadd_ps(wide, _mm512_maskz_loadu_ps(mask, x + i * p.K + k), acc[i][r]);
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

// Rows m0 to m1 of x, four at a time, with R rows of W.
template <class F, int R>
void rows_of_x(const Product& p, const typename F::Number* w, int64_t m0, int64_t m1, int64_t n) {
  int64_t m = m0;
  for (; m + 4 <= m1; m += 4) block<F, 4, R>(p, w, m, n);
  if (m1 - m == 3) block<F, 3, R>(p, w, m, n);
  if (m1 - m == 2) block<F, 2, R>(p, w, m, n);
  if (m1 - m == 1) block<F, 1, R>(p, w, m, n);
}

template <class F>
void one_by_one(const Product& p, const typename F::Number* w, const Part& part) {
  for (int64_t n = part.n0; n < part.n1; n++, w += p.K)
    for (int64_t m = part.m0; m < part.m1; m++) block<F, 1, 1>(p, w, m, n);
}

template <class F>
void few(const Product& p, const Part& part) {
  auto w = (const typename F::Number*)p.w + part.n0 * p.K;
  const int64_t rows = part.m1 - part.m0;
  int64_t n = part.n0;
  if (rows <= 2)
    for (; n + 8 <= part.n1; n += 8, w += 8 * p.K) {
      if (rows == 1) block<F, 1, 8>(p, w, part.m0, n);
      if (rows == 2) block<F, 2, 8>(p, w, part.m0, n);
    }
  for (; n + 6 <= part.n1; n += 6, w += 6 * p.K) rows_of_x<F, 6>(p, w, part.m0, part.m1, n);
  one_by_one<F>(p, w, {part.m0, part.m1, n, part.n1});
}

// A block of W becomes float32 in the second-level cache, and four rows of x at a time meet it.
template <class F>
void many(const Product& p, const Part& part) {
  constexpr int64_t kBytes = 384 * 1024;
  const int64_t most = std::max<int64_t>(6, std::min<int64_t>(48, kBytes / (4 * p.K + 1) / 6 * 6));
  auto wide = (float*)std::aligned_alloc(64, (most * p.K * 4 + 127) / 64 * 64);
  if (!wide) return few<F>(p, part);
  for (int64_t n0 = part.n0; n0 < part.n1; n0 += most) {
    const int64_t n1 = std::min(part.n1, n0 + most), all = (n1 - n0) * p.K;
    auto w = (const typename F::Number*)p.w + n0 * p.K;
    int64_t i = 0;
    for (; i + 16 <= all; i += 16) _mm512_store_ps(wide + i, F::load(w + i));
    if (i < all) _mm512_mask_storeu_ps(wide + i, first(all - i), F::load(w + i, first(all - i)));
    for (int64_t m = part.m0; m < part.m1; m += 4) {
      const int64_t m1 = std::min(part.m1, m + 4);
      int64_t n = n0;
      for (; n + 6 <= n1; n += 6) rows_of_x<Float32, 6>(p, wide + (n - n0) * p.K, m, m1, n);
      one_by_one<Float32>(p, wide + (n - n0) * p.K, {m, m1, n, n1});
    }
  }
  std::free(wide);
}

template <class F>
void all(const Product& p, const Part& part) {
  if (part.m1 - part.m0 > kManyRows) return many<F>(p, part);
  few<F>(p, part);
}

}  // namespace

void avx512_by_rows(const Product& p, const Part& part) {
  if (p.format == Format::kFloat16) return all<Float16>(p, part);
  if (p.format == Format::kBfloat16) return all<Bfloat16>(p, part);
  all<Int8>(p, part);
}

}  // namespace neox
END_TARGET
#endif
