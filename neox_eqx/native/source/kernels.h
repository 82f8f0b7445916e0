// What an instruction set offers.
#pragma once
#include "attention.h"
#include "product.h"

namespace neox {

struct Kernels {
  const char* name;
  bool (*runs_here)();
  void (*by_rows)(const Product&, const Part&);
  void (*by_tiles)(const Product&, const Part&);
  void (*round)(const Product&, int64_t m0, int64_t m1);  // makes the digits of rows of x
  bool (*attend)(const Attention&, const Queries&);       // false where there is no memory
};

// From the fastest to plain C++, and then null.
extern const Kernels* const kKernels[];

}  // namespace neox
