// Tiles with AVX2: eight rows of W in a register, and pairs of products in 16 bits.
#include "avx2.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "numbers.h"
#include "targets.h"

BEGIN_TARGET("avx2,fma,f16c")
namespace neox {
namespace {

inline __m256i four_digits(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// Of 32 numbers of M rows of x with those of 8 rows of W; `w` goes on in steps of 64 bytes.
//
// With 4 bits, eight sums of two products are at most 8 * 2 * 15 * 127 = 30,480, which 16 bits hold.
// With 8 bits a sum of two is, once the code is a number with a sign: 2 * 128 * 127 = 32,512.
template <int BITS, int M>
inline void group(const Product& p, const int8_t* x, const uint8_t* w, const int32_t* digit_sum,
                  __m256i (&acc)[M]) {
  const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
  UNROLL for (int i = 0; i < M; i++) acc[i] = _mm256_setzero_si256();
  UNROLL for (int k = 0; k < kGroup; k += 32 / BITS, w += 64) {
    const __m256i v = _mm256_loadu_si256((const __m256i*)w);
    if (BITS == 4) {
      const __m256i first = _mm256_and_si256(v, low);
      const __m256i second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
      UNROLL for (int i = 0; i < M; i++) {
        const int8_t* own = x + i * p.K + k;
        acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(first, four_digits(own)));
        acc[i] = _mm256_add_epi16(acc[i], _mm256_maddubs_epi16(second, four_digits(own + 4)));
      }
    } else {
      const __m256i number = _mm256_xor_si256(v, _mm256_set1_epi8((char)0x80));
      const __m256i size = _mm256_abs_epi8(number);
      UNROLL for (int i = 0; i < M; i++) {
        const __m256i xs = _mm256_sign_epi8(four_digits(x + i * p.K + k), number);
        const __m256i pairs = _mm256_maddubs_epi16(size, xs);
        acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  if (BITS == 8) return;
  UNROLL for (int i = 0; i < M; i++) {
    const __m256i zero = _mm256_set1_epi32(8 * digit_sum[i * p.groups()]);
    acc[i] = _mm256_sub_epi32(_mm256_madd_epi16(acc[i], ones), zero);
  }
}

// M rows of x with one tile, whose halves are of eight rows.
template <int BITS, int M>
int64_t block(const Product& p, int64_t m, int64_t n) {
  const int64_t groups = p.groups(), tile = p.K * kTile * BITS / 8;
  auto w = (const uint8_t*)p.w + n / kTile * tile;
  auto scale = (const uint16_t*)p.scale + n * groups;
  __m256 sum[2][M];
  UNROLL for (int i = 0; i < M; i++) sum[0][i] = sum[1][i] = _mm256_setzero_ps();
  for (int64_t g = 0; g < groups; g++, w += kGroup * kTile * BITS / 8, scale += kTile) {
    UNROLL for (int line = 0; line < kGroup * kTile * BITS / 8; line += 64)
      _mm_prefetch((const char*)(w + tile + line), _MM_HINT_T1);
    const int64_t at = m * groups + g;
    UNROLL for (int half = 0; half < 2; half++) {
      __m256i acc[M];
      const int8_t* x = p.digits + m * p.K + g * kGroup;
      group<BITS, M>(p, x, w + 32 * half, p.digit_sum + at, acc);
      __m256 of_w = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(scale + 8 * half)));
      UNROLL for (int i = 0; i < M; i++) {
        __m256 both = _mm256_mul_ps(of_w, _mm256_set1_ps(p.digit_scale[at + i * groups]));
        sum[half][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[i]), both, sum[half][i]);
      }
    }
  }
  UNROLL for (int i = 0; i < M; i++) {
    _mm256_storeu_ps(p.y + (m + i) * p.N + n, sum[0][i]);
    _mm256_storeu_ps(p.y + (m + i) * p.N + n + 8, sum[1][i]);
  }
  return m + M;
}

template <int BITS>
void all(const Product& p, const Part& part) {
  for (int64_t n = part.n0; n < part.n1; n += kTile)
    for (int64_t m = part.m0; m < part.m1;) {
      // With more rows, the registers would not do.
      if (part.m1 - m >= 2) m = block<BITS, 2>(p, m, n);
      else m = block<BITS, 1>(p, m, n);
    }
}

inline __m256i as_integers(const float* x, float inverse) {
  const __m256 any = _mm256_castsi256_ps(_mm256_set1_epi32(inverse != 0 ? -1 : 0));
  return _mm256_cvtps_epi32(
      _mm256_and_ps(any, _mm256_mul_ps(_mm256_loadu_ps(x), _mm256_set1_ps(inverse))));
}

}  // namespace

void avx2_by_tiles(const Product& p, const Part& part) {
  if (p.format == Format::kTiles4) return all<4>(p, part);
  all<8>(p, part);
}

void avx2_round(const Product& p, int64_t m0, int64_t m1) {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  for (int64_t at = m0 * p.groups(); at < m1 * p.groups(); at++) {
    const float* x = p.x + at * kGroup;
    __m256i most = _mm256_setzero_si256();
    UNROLL for (int k = 0; k < kGroup; k += 8) {
      __m256i own = _mm256_loadu_si256((const __m256i*)(x + k));
      most = _mm256_max_epi32(most, _mm256_and_si256(own, no_sign));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    const Rounding rounding(_mm_cvtsi128_si32(four));
    int32_t digits[kGroup], sum = 0;
    UNROLL for (int k = 0; k < kGroup; k += 8)
      _mm256_storeu_si256((__m256i*)(digits + k), as_integers(x + k, rounding.inverse));
    for (int k = 0; k < kGroup; k++) {
      p.digits[at * kGroup + k] = int8_t(digits[k]);
      sum += digits[k];
    }
    p.digit_scale[at] = rounding.scale;
    p.digit_sum[at] = sum;
  }
}

}  // namespace neox
END_TARGET
#endif
