// Products in plain C++, in loops of 16 that compilers turn into whatever the machine has.
//
// Products are rounded before they are added: without an instruction for both, std::fma would be a
// call. So results are not those of the other files to the last bit.
#include "plain.h"

#include <algorithm>
#include <cmath>

#include "numbers.h"

namespace neox {
namespace {

struct Float16 {
  using Number = uint16_t;
  static float load(uint16_t v) { return from_float16(v); }
};

struct Bfloat16 {
  using Number = uint16_t;
  static float load(uint16_t v) { return from_bfloat16(v); }
};

struct Int8 {
  using Number = int8_t;
  static float load(int8_t v) { return float(v); }
};

constexpr int kRows = 4;  // of x, with which a number of W is made float32 once

float sum(const float* v) {
  float eight[8], four[4];
  for (int l = 0; l < 8; l++) eight[l] = v[l] + v[l + 8];
  for (int l = 0; l < 4; l++) four[l] = eight[l] + eight[l + 4];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// `rows` rows of x, at most four, with one of W.
template <class F>
void row(const Product& p, const typename F::Number* w, int64_t m, int64_t rows, int64_t n) {
  float acc[kRows][16] = {}, wide[16];
  for (int64_t k = 0; k < p.K; k += 16) {
    const int64_t size = std::min<int64_t>(16, p.K - k);
    for (int64_t l = 0; l < size; l++) wide[l] = F::load(w[k + l]);
    for (int64_t i = 0; i < rows; i++) {
      const float* x = p.x + (m + i) * p.K + k;
      if (size == 16)
        for (int l = 0; l < 16; l++) acc[i][l] += wide[l] * x[l];
      else
        for (int64_t l = 0; l < size; l++) acc[i][l] += wide[l] * x[l];
    }
  }
  const float* scale = p.format == Format::kInt8 ? (const float*)p.scale + n : nullptr;
  for (int64_t i = 0; i < rows; i++) {
    float y = sum(acc[i]);
    p.y[(m + i) * p.N + n] = scale ? y * *scale : y;
  }
}

template <class F>
void all_rows(const Product& p, const Part& part) {
  for (int64_t n = part.n0; n < part.n1; n++)
    for (int64_t m = part.m0; m < part.m1; m += kRows)
      row<F>(p, (const typename F::Number*)p.w + n * p.K, m, std::min<int64_t>(kRows, part.m1 - m), n);
}

// The codes of a group in a tile, less what stands for 0, as [row][k].
template <int BITS>
void codes_of(const uint8_t* w, int8_t (&codes)[kTile][kGroup]) {
  for (int k = 0; k < kGroup; k += 32 / BITS, w += 64)
    for (int l = 0; l < kTile; l++)
      for (int b = 0; b < 4; b++) {
        const uint8_t byte = w[4 * l + b];
        codes[l][k + b] = int8_t(BITS == 8 ? byte - 128 : (byte & 15) - 8);
        if (BITS == 4) codes[l][k + 4 + b] = int8_t((byte >> 4) - 8);
      }
}

// Four rows of x, at most, with one tile.
template <int BITS>
void tile(const Product& p, int64_t m, int64_t rows, int64_t n) {
  auto w = (const uint8_t*)p.w + n * p.K * BITS / 8;
  auto scale = (const uint16_t*)p.scale + n * p.groups();
  float sums[kRows][kTile] = {};
  int8_t codes[kTile][kGroup];
  for (int64_t g = 0; g < p.groups(); g++, w += kGroup * kTile * BITS / 8, scale += kTile) {
    codes_of<BITS>(w, codes);
    for (int64_t i = 0; i < rows; i++) {
      const int8_t* x = p.digits + (m + i) * p.K + g * kGroup;
      const float of_x = p.digit_scale[(m + i) * p.groups() + g];
      for (int l = 0; l < kTile; l++) {
        int32_t acc = 0;
        for (int k = 0; k < kGroup; k++) acc += int32_t(codes[l][k]) * x[k];
        sums[i][l] += float(acc) * (from_float16(scale[l]) * of_x);
      }
    }
  }
  for (int64_t i = 0; i < rows; i++)
    std::copy(sums[i], sums[i] + kTile, p.y + (m + i) * p.N + n);
}

template <int BITS>
void all_tiles(const Product& p, const Part& part) {
  for (int64_t n = part.n0; n < part.n1; n += kTile)
    for (int64_t m = part.m0; m < part.m1; m += kRows)
      tile<BITS>(p, m, std::min<int64_t>(kRows, part.m1 - m), n);
}

}  // namespace

void plain_by_rows(const Product& p, const Part& part) {
  if (p.format == Format::kFloat16) return all_rows<Float16>(p, part);
  if (p.format == Format::kBfloat16) return all_rows<Bfloat16>(p, part);
  all_rows<Int8>(p, part);
}

void plain_by_tiles(const Product& p, const Part& part) {
  if (p.format == Format::kTiles4) return all_tiles<4>(p, part);
  all_tiles<8>(p, part);
}

void plain_round(const Product& p, int64_t m0, int64_t m1) {
  for (int64_t at = m0 * p.groups(); at < m1 * p.groups(); at++) {
    const float* x = p.x + at * kGroup;
    uint32_t largest = 0;
    for (int k = 0; k < kGroup; k++) largest = std::max(largest, to_bits(x[k]) & 0x7fffffff);
    const Rounding rounding(largest);
    int32_t sum = 0;
    for (int k = 0; k < kGroup; k++) {
      // In the default mode halves go to the even number.
      const float scaled = rounding.inverse != 0 ? x[k] * rounding.inverse : 0.0f;
      const auto digit = int8_t(std::nearbyint(scaled));
      p.digits[at * kGroup + k] = digit;
      sum += digit;
    }
    p.digit_scale[at] = rounding.scale;
    p.digit_sum[at] = sum;
  }
}

}  // namespace neox
