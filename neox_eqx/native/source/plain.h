// What runs on every machine.
#pragma once
#include "kernels.h"

namespace neox {
void plain_by_rows(const Product& p, const Part& part);
void plain_by_tiles(const Product& p, const Part& part);
void plain_round(const Product& p, int64_t m0, int64_t m1);
bool plain_attend(const Attention& a, const Queries& own);
}  // namespace neox
