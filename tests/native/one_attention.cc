// One attention without JAX, for instruction sets that this machine only emulates.
// Arguments: the instruction set; the past's number, rows and slots; B, H, T and K. Takes the bytes of the
// queries, the ids, the past's keys, values, scales and what is seen, and the new keys and values; gives
// those of the output.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels.h"

static std::vector<std::vector<char>> kept;

template <class T>
static const T* take(int64_t count) {
  std::vector<char> bytes(count * sizeof(T));
  if (std::fread(bytes.data(), 1, bytes.size(), stdin) != bytes.size()) std::exit(3);
  kept.push_back(std::move(bytes));
  return (const T*)kept.back().data();
}

int main(int, char** given) {
  auto number = [&](int at) { return int64_t(std::atoi(given[at])); };
  neox::Slots past{neox::Number(number(2)), number(3), number(4)};
  neox::Attention a{number(5), number(6), number(7), number(8)};
  const int64_t all = a.B * a.H * a.T * a.K, of_past = past.rows * a.H * past.count;
  const int64_t sizes[] = {4, 2, 2, 1}, bytes = of_past * a.K * sizes[int(past.number)];
  a.query = take<float>(all), a.ids = take<int32_t>(a.B * a.T);
  past.key = take<char>(bytes), past.value = take<char>(bytes);
  past.key_scale = take<float>(of_past), past.value_scale = take<float>(of_past);
  past.seen = take<bool>(a.B * past.count);
  neox::Slots own{neox::Number::kFloat32, a.B, a.T};
  own.key = take<float>(all), own.value = take<float>(all);
  a.segments = {past, own};
  std::vector<float> output(all);
  a.output = output.data();
  for (auto each = neox::kKernels; *each; each++) {
    if (std::strcmp((*each)->name, given[1])) continue;
    for (int64_t head = 0; head < a.B * a.H; head++)
      for (int64_t t = 0; t < a.T; t += neox::kQueries) {
        const int64_t count = a.T - t < neox::kQueries ? a.T - t : neox::kQueries;
        if (!(*each)->attend(a, {head / a.H, head % a.H, t, count})) return 4;
      }
    return std::fwrite(output.data(), 4, output.size(), stdout) != output.size();
  }
  return 2;
}
