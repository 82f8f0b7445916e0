// Attention with NEON: four queries in a register, and the bits of AVX-512.
#include "neon.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "numbers.h"
#include "targets.h"

namespace neox {
namespace {

using Lanes = float32x4_t;
constexpr int64_t kLanes = 4, kRows = 4, kWide = 4;

inline Lanes all(float x) { return vdupq_n_f32(x); }
inline Lanes load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, Lanes x) { vst1q_f32(p, x); }
inline Lanes add(Lanes a, Lanes b) { return vaddq_f32(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return vsubq_f32(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return vmulq_f32(a, b); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return vfmaq_f32(c, a, b); }
inline Lanes max(Lanes a, Lanes b) { return vmaxq_f32(a, b); }
inline Lanes power_of_two(Lanes shifted) {
  const int32x4_t exponent = vshlq_n_s32(vreinterpretq_s32_f32(shifted), 23);
  return vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(127 << 23)));
}
inline Lanes zero_if_less(Lanes x, float least, Lanes y) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, all(least))));
}

void widen(const uint16_t* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))));
  for (; i < count; i++) to[i] = from_float16(from[i]);
}

#include "lanes_attention.h"

}  // namespace

bool neon_attend(const Attention& a, const Queries& own) { return attend(a, own); }

}  // namespace neox
#endif
