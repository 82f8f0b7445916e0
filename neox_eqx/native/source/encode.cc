// Makes tiles of 4 bits from a float32 weight.
#include "encode.h"

#include <algorithm>
#include <cmath>

#include "numbers.h"
#include "product.h"

namespace neox {
namespace {

constexpr int kLanes = kTile;
using Lane = float[kLanes];
constexpr float kLargest = 65504;  // in float16

inline float code(float x, float scale) {
  const float q = to_whole(x / scale);
  return std::min(std::max(q, -8.0f), 7.0f);
}

// x / 0 would be no number; the code of 0 is 0 by any other scale.
inline float divisor(float scale) { return scale == 0 ? 1 : scale; }

// The scales of 16 groups side by side, of those tried: of each the codes have the least squared
// error that one scale can give them.
void best_scales(const Lane* x, uint16_t* best) {
  constexpr float kTries[] = {1.0f / -8, 0.95f / -8, 0.9f / -8, 0.85f / -8, 0.8f / -8};
  Lane largest = {}, least;
  std::fill(best, best + kLanes, uint16_t(0));
  for (int k = 0; k < kGroup; k++)
    for (int l = 0; l < kLanes; l++)
      largest[l] = std::fabs(x[k][l]) > std::fabs(largest[l]) ? x[k][l] : largest[l];
  for (int l = 0; l < kLanes; l++) least[l] = INFINITY;
  for (float factor : kTries) {
    Lane scale, top = {}, bottom = {}, error = {};
    for (int l = 0; l < kLanes; l++) scale[l] = divisor(largest[l] * factor);
    for (int k = 0; k < kGroup; k++)
      for (int l = 0; l < kLanes; l++) {
        const float q = code(x[k][l], scale[l]);
        top[l] += x[k][l] * q;
        bottom[l] += q * q;
      }
    uint16_t half[kLanes];
    for (int l = 0; l < kLanes; l++) {
      half[l] = to_float16(bottom[l] > 0 ? std::clamp(top[l] / bottom[l], -kLargest, kLargest) : 0);
      scale[l] = from_float16(half[l]);
    }
    for (int k = 0; k < kGroup; k++)
      for (int l = 0; l < kLanes; l++) {
        const float off = code(x[k][l], divisor(scale[l])) * scale[l] - x[k][l];
        error[l] += off * off;
      }
    for (int l = 0; l < kLanes; l++)
      if (error[l] < least[l]) least[l] = error[l], best[l] = half[l];
  }
}

}  // namespace

void encode4(const float* w, int64_t columns, int64_t tile, uint8_t* codes, uint16_t* scales) {
  const int64_t groups = columns / kGroup;
  w += tile * kTile * columns;
  codes += tile * groups * 4 * 64;
  scales += tile * groups * kTile;
  for (int64_t g = 0; g < groups; g++) {
    Lane x[kGroup];
    for (int l = 0; l < kLanes; l++)
      for (int k = 0; k < kGroup; k++) x[k][l] = w[l * columns + g * kGroup + k];
    best_scales(x, scales + g * kTile);
    uint8_t q[kGroup][kLanes];
    for (int l = 0; l < kLanes; l++) {
      const float scale = divisor(from_float16(scales[g * kTile + l]));
      for (int k = 0; k < kGroup; k++) q[k][l] = uint8_t(code(x[k][l], scale) + 8);
    }
    for (int j = 0; j < 4; j++)
      for (int l = 0; l < kLanes; l++)
        for (int b = 0; b < 4; b++)
          codes[(g * 4 + j) * 64 + 4 * l + b] = uint8_t(q[8 * j + b][l] | (q[8 * j + 4 + b][l] << 4));
  }
}

}  // namespace neox
