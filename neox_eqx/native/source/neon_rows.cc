// Weights by rows with NEON: 16 sums along K in four registers, added in the tree of AVX-512.
#include "neon.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "targets.h"

namespace neox {
namespace {

struct Sixteen {
  float32x4_t v[4];
};

struct Float16 {
  using Number = uint16_t;
  static Sixteen load(const uint16_t* p) {
    Sixteen out;
    UNROLL for (int q = 0; q < 4; q++)
      out.v[q] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * q)));
    return out;
  }
};

struct Bfloat16 {
  using Number = uint16_t;
  static Sixteen load(const uint16_t* p) {
    Sixteen out;
    UNROLL for (int q = 0; q < 4; q++)
      out.v[q] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * q), 16));
    return out;
  }
};

struct Int8 {
  using Number = int8_t;
  static Sixteen load(const int8_t* p) {
    const int8x16_t v = vld1q_s8(p);
    const int16x8_t low = vmovl_s8(vget_low_s8(v)), high = vmovl_s8(vget_high_s8(v));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
             vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
  }
};

inline Sixteen zero() {
  Sixteen out;
  UNROLL for (int q = 0; q < 4; q++) out.v[q] = vdupq_n_f32(0);
  return out;
}

inline float sum(const Sixteen& a) {
  const float32x4_t v = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(v), vget_high_f32(v));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

inline void add(Sixteen& acc, const Sixteen& w, const float* x) {
  UNROLL for (int q = 0; q < 4; q++) acc.v[q] = vfmaq_f32(acc.v[q], w.v[q], vld1q_f32(x + 4 * q));
}

constexpr int64_t kBytes = 128 * 1024;

#include "sixteen_rows.h"

}  // namespace

void neon_by_rows(const Product& p, const Part& part) {
  if (p.format == Format::kFloat16) return all<Float16>(p, part);
  if (p.format == Format::kBfloat16) return all<Bfloat16>(p, part);
  all<Int8>(p, part);
}

}  // namespace neox
#endif
