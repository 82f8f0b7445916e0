// What the files for AVX2 with FMA offer: the bits of those for AVX-512.
#pragma once
#include "kernels.h"

namespace neox {
void avx2_by_rows(const Product& p, const Part& part);
void avx2_by_tiles(const Product& p, const Part& part);
void avx2_round(const Product& p, int64_t m0, int64_t m1);
bool avx2_attend(const Attention& a, const Queries& own);
}  // namespace neox
