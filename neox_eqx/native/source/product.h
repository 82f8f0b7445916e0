// What a product y = x W^T is made of.
//
// Every number of y is a fixed sequence of operations on its own row of x and row of W: it has the
// same bits alone and in any batch, whatever the threads.
#pragma once
#include <cstdint>

namespace neox {

// How W, (N, K), lies in memory.
enum class Format {
  kFloat16,   // by rows
  kBfloat16,  // by rows
  kInt8,      // by rows, and a float32 scale for each
  kTiles4,    // 16 rows side by side, a float16 scale for each row and 32 numbers along K
  kTiles8,
};

constexpr int64_t kTile = 16;   // rows of W in a tile
constexpr int64_t kGroup = 32;  // numbers along K that share a scale

struct Product {
  Format format;
  int64_t M, N, K;
  const float* x;     // (M, K)
  const void* w;      // (N, K); of tiles (N / 16, K / 8 or K / 4, 64) bytes
  const void* scale;  // of kInt8 float (N); of tiles float16 (N / 16, K / 32, 16)
  float* y;           // (M, N)

  // x in int8, which tiles alone need: a scale and the sum of what was rounded for each group
  int8_t* digits;       // (M, K)
  float* digit_scale;   // (M, K / 32)
  int32_t* digit_sum;   // (M, K / 32)

  bool tiled() const { return format == Format::kTiles4 || format == Format::kTiles8; }
  int64_t groups() const { return K / kGroup; }
  int64_t bits() const {
    if (format == Format::kTiles4) return 4;
    return format == Format::kFloat16 || format == Format::kBfloat16 ? 16 : 8;
  }
};

// Rows m0 to m1 of x with rows n0 to n1 of W. Of tiles, n0 and n1 are multiples of 16.
struct Part {
  int64_t m0, m1, n0, n1;
};

// With how many rows of x a block of W is made float32 first, for all of them.
constexpr int64_t kManyRows = 16;

}  // namespace neox
