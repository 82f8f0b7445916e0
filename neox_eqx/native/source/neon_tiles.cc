// Tiles with NEON: four rows of W in a register, and products in 16 bits.
#include "neon.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "numbers.h"
#include "targets.h"

namespace neox {
namespace {

inline int8x16_t four_digits(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

// The sums of four rows of W, each of which is in pairs that lie side by side.
inline int32x4_t by_row(int32x4_t low, int32x4_t high) { return vpaddq_s32(low, high); }

// Of 32 numbers of a row of x with those of four rows of W; `w` goes on in steps of 64 bytes.
//
// With 4 bits, eight products are at most 8 * 8 * 127, which 16 bits hold; with 8 bits, one is.
template <int BITS>
inline int32x4_t group(const int8_t* x, const uint8_t* w) {
  if (BITS == 4) {
    const int8x16_t zero = vdupq_n_s8(8);
    int16x8_t low = vdupq_n_s16(0), high = low;
    UNROLL for (int k = 0; k < kGroup; k += 8, w += 64) {
      const uint8x16_t v = vld1q_u8(w);
      const int8x16_t first = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))), zero);
      const int8x16_t second = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(v, 4)), zero);
      const int8x16_t a = four_digits(x + k), b = four_digits(x + k + 4);
      low = vmlal_s8(low, vget_low_s8(first), vget_low_s8(a));
      low = vmlal_s8(low, vget_low_s8(second), vget_low_s8(b));
      high = vmlal_s8(high, vget_high_s8(first), vget_high_s8(a));
      high = vmlal_s8(high, vget_high_s8(second), vget_high_s8(b));
    }
    return by_row(vpaddlq_s16(low), vpaddlq_s16(high));
  }
  int32x4_t low = vdupq_n_s32(0), high = low;
  UNROLL for (int k = 0; k < kGroup; k += 4, w += 64) {
    const int8x16_t number = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(0x80)));
    const int8x16_t a = four_digits(x + k);
    low = vpadalq_s16(low, vmull_s8(vget_low_s8(number), vget_low_s8(a)));
    high = vpadalq_s16(high, vmull_s8(vget_high_s8(number), vget_high_s8(a)));
  }
  return by_row(low, high);
}

// M rows of x with one tile, whose quarters are of four rows.
template <int BITS, int M>
int64_t block(const Product& p, int64_t m, int64_t n) {
  const int64_t groups = p.groups(), tile = p.K * kTile * BITS / 8;
  auto w = (const uint8_t*)p.w + n / kTile * tile;
  auto scale = (const uint16_t*)p.scale + n * groups;
  float32x4_t sum[4][M];
  UNROLL for (int q = 0; q < 4; q++) {
    UNROLL for (int i = 0; i < M; i++) sum[q][i] = vdupq_n_f32(0);
  }
  for (int64_t g = 0; g < groups; g++, w += kGroup * kTile * BITS / 8, scale += kTile) {
    UNROLL for (int line = 0; line < kGroup * kTile * BITS / 8; line += 64)
      __builtin_prefetch(w + tile + line, 0, 2);
    UNROLL for (int q = 0; q < 4; q++) {
      const float32x4_t of_w = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scale + 4 * q)));
      UNROLL for (int i = 0; i < M; i++) {
        const int32x4_t acc = group<BITS>(p.digits + (m + i) * p.K + g * kGroup, w + 16 * q);
        const float32x4_t both = vmulq_n_f32(of_w, p.digit_scale[(m + i) * groups + g]);
        sum[q][i] = vfmaq_f32(sum[q][i], vcvtq_f32_s32(acc), both);
      }
    }
  }
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int q = 0; q < 4; q++) vst1q_f32(p.y + (m + i) * p.N + n + 4 * q, sum[q][i]);
  }
  return m + M;
}

template <int BITS>
void all(const Product& p, const Part& part) {
  for (int64_t n = part.n0; n < part.n1; n += kTile)
    for (int64_t m = part.m0; m < part.m1;) {
      if (part.m1 - m >= 2) m = block<BITS, 2>(p, m, n);
      else m = block<BITS, 1>(p, m, n);
    }
}

}  // namespace

void neon_by_tiles(const Product& p, const Part& part) {
  if (p.format == Format::kTiles4) return all<4>(p, part);
  all<8>(p, part);
}

void neon_round(const Product& p, int64_t m0, int64_t m1) {
  for (int64_t at = m0 * p.groups(); at < m1 * p.groups(); at++) {
    const float* x = p.x + at * kGroup;
    uint32x4_t most = vdupq_n_u32(0);
    UNROLL for (int k = 0; k < kGroup; k += 4) {
      const uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + k));
      most = vmaxq_u32(most, vandq_u32(bits, vdupq_n_u32(0x7fffffff)));
    }
    const Rounding rounding(vmaxvq_u32(most));
    const uint32x4_t any = vdupq_n_u32(rounding.inverse != 0 ? ~0u : 0);
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL for (int k = 0; k < kGroup; k += 8) {
      int32x4_t v[2];
      UNROLL for (int h = 0; h < 2; h++) {
        const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + k + 4 * h), rounding.inverse);
        const uint32x4_t kept = vandq_u32(vreinterpretq_u32_f32(scaled), any);
        v[h] = vcvtnq_s32_f32(vreinterpretq_f32_u32(kept));
        sum = vaddq_s32(sum, v[h]);
      }
      vst1_s8(p.digits + at * kGroup + k, vmovn_s16(vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]))));
    }
    p.digit_scale[at] = rounding.scale;
    p.digit_sum[at] = vaddvq_s32(sum);
  }
}

}  // namespace neox
#endif
