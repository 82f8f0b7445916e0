// What the files for AVX-512 with VNNI offer.
#pragma once
#include "kernels.h"

namespace neox {
void avx512_by_rows(const Product& p, const Part& part);
void avx512_by_tiles(const Product& p, const Part& part);
void avx512_round(const Product& p, int64_t m0, int64_t m1);
bool avx512_attend(const Attention& a, const Queries& own);
}  // namespace neox
