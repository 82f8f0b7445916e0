// Tiles with AVX-512 and VNNI: a lane is a row of W, so that nothing is added across lanes.
#include "avx512.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "numbers.h"
#include "targets.h"

BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c,avx2")
namespace neox {
namespace {

inline __m512i four_digits(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// Adds to `acc` what a group of T tiles gives with M rows of x; `w` is the group in the first tile.
template <int BITS, int M, int T>
inline void add_group(const Product& p, const int8_t* x, const uint8_t* w, int64_t tile,
                      __m512i (&acc)[T][M]) {
  const __m512i low = _mm512_set1_epi8(15);
  // 64 bytes hold 4 numbers of each row, or 8, of which the second four are in the upper halves.
  UNROLL for (int k = 0; k < kGroup; k += 32 / BITS, w += 64) {
    __m512i first[T], second[T];
    UNROLL for (int t = 0; t < T; t++) {
      _mm_prefetch((const char*)(w + (t + T) * tile), _MM_HINT_T1);
      __m512i v = _mm512_loadu_si512(w + t * tile);
      first[t] = BITS == 8 ? v : _mm512_and_si512(v, low);
      second[t] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
    UNROLL for (int i = 0; i < M; i++) {
      __m512i xs = four_digits(x + i * p.K + k);
      UNROLL for (int t = 0; t < T; t++) acc[t][i] = _mm512_dpbusd_epi32(acc[t][i], first[t], xs);
      if (BITS == 8) continue;
      xs = four_digits(x + i * p.K + k + 4);
      UNROLL for (int t = 0; t < T; t++) acc[t][i] = _mm512_dpbusd_epi32(acc[t][i], second[t], xs);
    }
  }
}

// M rows of x with T tiles.
template <int BITS, int M, int T>
void block(const Product& p, int64_t m, int64_t n) {
  constexpr int32_t kZero = BITS == 8 ? 128 : 8;  // the code that stands for 0
  const int64_t groups = p.groups(), tile = p.K * kTile * BITS / 8;
  auto w = (const uint8_t*)p.w + n / kTile * tile;
  auto scale = (const uint16_t*)p.scale + n * groups;
  __m512 sum[T][M];
  UNROLL for (int t = 0; t < T; t++) {
    UNROLL for (int i = 0; i < M; i++) sum[t][i] = _mm512_setzero_ps();
  }
  for (int64_t g = 0; g < groups; g++, w += kGroup * kTile * BITS / 8) {
    __m512i acc[T][M];
    UNROLL for (int i = 0; i < M; i++) {
      __m512i start = _mm512_set1_epi32(-kZero * p.digit_sum[(m + i) * groups + g]);
      UNROLL for (int t = 0; t < T; t++) acc[t][i] = start;
    }
    add_group<BITS, M, T>(p, p.digits + m * p.K + g * kGroup, w, tile, acc);
    UNROLL for (int t = 0; t < T; t++) {
      auto at = (const __m256i*)(scale + (t * groups + g) * kTile);
      __m512 of_w = _mm512_cvtph_ps(_mm256_loadu_si256(at));
      UNROLL for (int i = 0; i < M; i++) {
        __m512 of_x = _mm512_set1_ps(p.digit_scale[(m + i) * groups + g]);
        __m512 both = _mm512_mul_ps(of_w, of_x);
        sum[t][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t][i]), both, sum[t][i]);
      }
    }
  }
  UNROLL for (int t = 0; t < T; t++) {
    UNROLL for (int i = 0; i < M; i++)
      _mm512_storeu_ps(p.y + (m + i) * p.N + n + t * kTile, sum[t][i]);
  }
}

// M rows of x with the tiles from n0 to n1, two at a time.
template <int BITS, int M>
int64_t rows_of_x(const Product& p, int64_t m, int64_t n0, int64_t n1) {
  int64_t n = n0;
  for (; n + 2 * kTile <= n1; n += 2 * kTile) block<BITS, M, 2>(p, m, n);
  if (n < n1) block<BITS, M, 1>(p, m, n);
  return m + M;
}

// Two tiles stay in the caches for all rows of x.
template <int BITS>
void all(const Product& p, const Part& part) {
  for (int64_t n0 = part.n0; n0 < part.n1; n0 += 2 * kTile) {
    const int64_t n1 = n0 + 2 * kTile < part.n1 ? n0 + 2 * kTile : part.n1;
    for (int64_t m = part.m0; m < part.m1;) {
      const int64_t left = part.m1 - m;
      if (left >= 6) m = rows_of_x<BITS, 6>(p, m, n0, n1);
      else if (left >= 4) m = rows_of_x<BITS, 4>(p, m, n0, n1);
      else if (left >= 2) m = rows_of_x<BITS, 2>(p, m, n0, n1);
      else m = rows_of_x<BITS, 1>(p, m, n0, n1);
    }
  }
}

}  // namespace

void avx512_by_tiles(const Product& p, const Part& part) {
  if (p.format == Format::kTiles4) return all<4>(p, part);
  all<8>(p, part);
}

void avx512_round(const Product& p, int64_t m0, int64_t m1) {
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  for (int64_t at = m0 * p.groups(); at < m1 * p.groups(); at++) {
    __m512 low = _mm512_loadu_ps(p.x + at * kGroup), high = _mm512_loadu_ps(p.x + at * kGroup + 16);
    __m512i largest = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), no_sign),
                                       _mm512_and_si512(_mm512_castps_si512(high), no_sign));
    const Rounding rounding(_mm512_reduce_max_epi32(largest));
    const __mmask16 any = rounding.inverse != 0 ? 0xffff : 0;
    __m512 inverse = _mm512_set1_ps(rounding.inverse);
    __m512i a = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(any, low, inverse));
    __m512i b = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(any, high, inverse));
    _mm_storeu_si128((__m128i*)(p.digits + at * kGroup), _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128((__m128i*)(p.digits + at * kGroup + 16), _mm512_cvtepi32_epi8(b));
    p.digit_scale[at] = rounding.scale;
    p.digit_sum[at] = _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
  }
}

}  // namespace neox
END_TARGET
#endif
