// One product without JAX, for instruction sets that this machine only emulates.
// Arguments: the instruction set, the format's number, M, N and K. Takes the bytes of x, W and the scale,
// and gives those of y.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels.h"

static void fill(std::vector<char>& bytes) {
  if (std::fread(bytes.data(), 1, bytes.size(), stdin) != bytes.size()) std::exit(3);
}

int main(int, char** given) {
  neox::Product p{};
  p.format = neox::Format(std::atoi(given[2]));
  p.M = std::atoi(given[3]), p.N = std::atoi(given[4]), p.K = std::atoi(given[5]);
  std::vector<char> x(p.M * p.K * 4), w(p.N * p.K * p.bits() / 8), scale(p.N * 4);
  if (p.tiled()) scale.resize(p.N * p.groups() * 2);
  for (auto each : {&x, &w, &scale}) fill(*each);
  std::vector<float> y(p.M * p.N), digit_scale(p.M * p.groups());
  std::vector<int8_t> digits(p.M * p.K);
  std::vector<int32_t> digit_sum(p.M * p.groups());
  p.x = (const float*)x.data(), p.w = w.data(), p.scale = scale.data(), p.y = y.data();
  p.digits = digits.data(), p.digit_scale = digit_scale.data(), p.digit_sum = digit_sum.data();
  for (auto each = neox::kKernels; *each; each++) {
    if (std::strcmp((*each)->name, given[1])) continue;
    if (p.tiled()) (*each)->round(p, 0, p.M);
    (p.tiled() ? (*each)->by_tiles : (*each)->by_rows)(p, {0, p.M, 0, p.N});
    return std::fwrite(y.data(), 4, y.size(), stdout) != y.size();
  }
  return 2;
}
