// Rounding a weight to 4 bits.
#pragma once
#include <cstdint>

namespace neox {

// Rows 16 * tile to 16 * tile + 15 of w, (N, K) float32, as codes (N / 16, K / 8, 64) and float16
// scales (N / 16, K / 32, 16) of which those of the tile are written.
void encode4(const float* w, int64_t columns, int64_t tile, uint8_t* codes, uint16_t* scales);

}  // namespace neox
