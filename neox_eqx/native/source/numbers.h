// Numbers of 16 bits, and rounding to int8, one at a time.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace neox {

static inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

static inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

static inline float from_bfloat16(uint16_t h) { return from_bits(uint32_t(h) << 16); }

static inline float from_float16(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | (fraction << 13));
  if (exponent) return from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
  return from_bits(sign | to_bits(float(fraction) * 0x1p-24f));
}

// To the nearest whole number, halves to even, for numbers below 2^22: in a form that compilers make
// vectors of.
static inline float to_whole(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

// The nearest, halves to even; infinity above the largest.
static inline uint16_t to_float16(float value) {
  uint32_t bits = to_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (bits >= 0x47800000) return uint16_t(sign | 0x7c00);
  if (bits < 0x38800000) return uint16_t(sign | uint32_t(to_whole(from_bits(bits) * 0x1p24f)));
  bits += 0xfff + ((bits >> 13) & 1);
  return uint16_t(sign | ((bits - 0x38000000) >> 13));
}

// How a group of x is rounded: its scale, and by what its numbers are multiplied. `largest` are the
// bits of its largest absolute value; as integers they are in the order of the numbers, and
// infinity and NaN come last.
struct Rounding {
  float scale, inverse;

  explicit Rounding(uint32_t largest) {
    constexpr uint32_t kInfinity = 0x7f800000, kTiny = 0x04000000;  // 2^-119
    if (largest >= kInfinity) {
      // What is no number makes all that depends on it NaN.
      scale = std::numeric_limits<float>::quiet_NaN();
      inverse = 0;
    } else if (largest < kTiny) {
      // 127 / largest would be infinite.
      scale = inverse = 0;
    } else {
      scale = from_bits(largest) / 127.0f;
      inverse = 127.0f / from_bits(largest);
    }
  }
};

}  // namespace neox
