// What the files for NEON, on 64-bit ARM, offer: the bits of those for AVX-512.
#pragma once
#include "kernels.h"

namespace neox {
void neon_by_rows(const Product& p, const Part& part);
void neon_by_tiles(const Product& p, const Part& part);
void neon_round(const Product& p, int64_t m0, int64_t m1);
bool neon_attend(const Attention& a, const Queries& own);
}  // namespace neox
