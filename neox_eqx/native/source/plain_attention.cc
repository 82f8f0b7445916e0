// Attention in plain C++: four queries side by side, which compilers have a register for where the
// machine has one.
//
// Products are rounded before they are added, so results are not those of the other files to the last
// bit.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "numbers.h"
#include "plain.h"
#include "targets.h"

namespace neox {
namespace {

typedef float Lanes __attribute__((vector_size(16)));
typedef int32_t Bits __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4, kRows = 4, kWide = 2;

inline Lanes all(float x) { return Lanes{x, x, x, x}; }
inline Lanes load(const float* p) { return *(const Lanes*)p; }
inline void store(float* p, Lanes x) { *(Lanes*)p = x; }
inline Lanes add(Lanes a, Lanes b) { return a + b; }
inline Lanes sub(Lanes a, Lanes b) { return a - b; }
inline Lanes mul(Lanes a, Lanes b) { return a * b; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return a * b + c; }
inline Lanes max(Lanes a, Lanes b) { return a > b ? a : b; }
inline Lanes power_of_two(Lanes shifted) { return (Lanes)(((Bits)shifted << 23) + (127 << 23)); }
inline Lanes zero_if_less(Lanes x, float least, Lanes y) { return x < all(least) ? all(0) : y; }

void widen(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i++) to[i] = from_float16(from[i]);
}

#include "lanes_attention.h"

}  // namespace

bool plain_attend(const Attention& a, const Queries& own) { return attend(a, own); }

}  // namespace neox
