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

inline float sum(const Sixteen& a) {
  const float32x4_t v = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(v), vget_high_f32(v));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

inline void add(Sixteen& acc, const Sixteen& w, const float* x) {
  UNROLL for (int q = 0; q < 4; q++) acc.v[q] = vfmaq_f32(acc.v[q], w.v[q], vld1q_f32(x + 4 * q));
}

// M rows of x with R rows of W, w; the R rows after these come into the second-level cache.
template <class F, int M, int R>
void block(const Product& p, const typename F::Number* w, int64_t m, int64_t n) {
  using Number = typename F::Number;
  const float* x = p.x + m * p.K;
  Sixteen acc[M][R];
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int r = 0; r < R; r++) {
      UNROLL for (int q = 0; q < 4; q++) acc[i][r].v[q] = vdupq_n_f32(0);
    }
  }
  int64_t k = 0;
  for (; k + 16 <= p.K; k += 16) {
    UNROLL for (int r = 0; r < R; r++) {
      __builtin_prefetch(w + (r + R) * p.K + k, 0, 2);
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
  constexpr int64_t kBytes = 128 * 1024;
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

void neon_by_rows(const Product& p, const Part& part) {
  if (p.format == Format::kFloat16) return all<Float16>(p, part);
  if (p.format == Format::kBfloat16) return all<Bfloat16>(p, part);
  all<Int8>(p, part);
}

}  // namespace neox
#endif
