// Products as XLA calls them, and the choice of an instruction set.
#include <cstdlib>
#include <cstring>

#include "calls.h"
#include "encode.h"
#include "threads.h"

namespace neox {
namespace {

std::atomic<const Kernels*> chosen{nullptr};
std::atomic<int64_t> threads_at_most{1};

// What a weight of rows is; `scaled` tells whether a scale comes with it.
ffi::Error by_rows(Product& p, const ffi::AnyBuffer& w, bool scaled) {
  const auto type = w.element_type();
  if (scaled != (type == ffi::S8)) return wrong("int8 has a scale, and 16 bits have none");
  if (type == ffi::S8) p.format = Format::kInt8;
  else if (type == ffi::F16) p.format = Format::kFloat16;
  else if (type == ffi::BF16) p.format = Format::kBfloat16;
  else return wrong("a weight by rows is float16, bfloat16 or int8");
  return is(w, type, {p.N, p.K}) ? ffi::Error() : wrong("the weight's shape is not (out, in)");
}

ffi::Error by_tiles(Product& p, const ffi::AnyBuffer& w) {
  if (p.K % kGroup || p.N % kTile) return wrong("tiles are of 16 rows and groups of 32");
  const int64_t tiles = p.N / kTile;
  if (is(w, ffi::U8, {tiles, p.K / 8, 64})) p.format = Format::kTiles4;
  else if (is(w, ffi::U8, {tiles, p.K / 4, 64})) p.format = Format::kTiles8;
  else return wrong("tiles are uint8 of (out / 16, in / 8 or in / 4, 64)");
  return ffi::Error();
}

ffi::Error described(Product& p, const ffi::AnyBuffer& x, const ffi::AnyBuffer& w,
                     ffi::RemainingArgs rest, const ffi::AnyBuffer& y) {
  if (y.dimensions().size() != 2) return wrong("the result has not two axes");
  if (x.dimensions().size() != 2) return wrong("x has not two axes");
  p.M = x.dimensions()[0];
  p.K = x.dimensions()[1];
  p.N = y.dimensions()[1];
  if (!is(x, ffi::F32, {p.M, p.K})) return wrong("x is not float32");
  if (!is(y, ffi::F32, {p.M, p.N})) return wrong("the result is not float32 of (rows, out)");
  if (rest.size() > 1) return wrong("at most a weight and its scale are taken");
  const bool tiled = w.dimensions().size() == 3;
  if (auto error = tiled ? by_tiles(p, w) : by_rows(p, w, rest.size()); error.failure()) return error;
  if (p.tiled() && !rest.size()) return wrong("tiles have scales");
  if (rest.size()) {
    auto scale = rest.get<ffi::AnyBuffer>(0);
    if (scale.has_error()) return scale.error();
    if (tiled && !is(*scale, ffi::F16, {p.N / kTile, p.groups(), kTile}))
      return wrong("scales of tiles are float16 of (out / 16, in / 32, 16)");
    if (!tiled && !is(*scale, ffi::F32, {p.N})) return wrong("the scale is not float32 of (out)");
    p.scale = scale->untyped_data();
  }
  p.x = x.typed_data<float>();
  p.w = w.untyped_data();
  p.y = y.typed_data<float>();
  return ffi::Error();
}

// Chunks of at least 64 KB of W, or as much work, and some for each thread: a slow one does fewer.
void compute(const Product& p, const Kernels& kernels, ffi::ThreadPool& pool) {
  auto ceil = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t threads = most_threads();
  const double bytes = double(p.N) * double(p.K) * double(p.bits()) / 8;
  const auto wanted = int64_t(std::min(8.0 * double(threads), bytes * std::max(1.0, double(p.M) / 8) / 65536));
  const int64_t columns = ceil(ceil(p.N, std::max<int64_t>(1, wanted)), 48) * 48;
  const int64_t across = ceil(p.N, columns);
  const int64_t down = std::max<int64_t>(1, std::min(wanted / across, p.M / 48));
  const int64_t rows = ceil(ceil(p.M, down), 12) * 12;
  parallel(pool, threads, across * ceil(p.M, rows), [&](int64_t c) {
    const int64_t m = c / across * rows, n = c % across * columns;
    const Part part = {m, std::min(p.M, m + rows), n, std::min(p.N, n + columns)};
    (p.tiled() ? kernels.by_tiles : kernels.by_rows)(p, part);
  });
}

// Room for x in int8. The scales come first: they must lie on multiples of four bytes.
bool round_rows(Product& p, std::unique_ptr<char[]>& room, const Kernels& kernels, ffi::ThreadPool& pool) {
  const int64_t scales = p.M * p.groups();
  room.reset(new (std::nothrow) char[scales * 8 + p.M * p.K]);
  if (!room) return false;
  p.digit_scale = (float*)room.get();
  p.digit_sum = (int32_t*)(p.digit_scale + scales);
  p.digits = (int8_t*)(p.digit_sum + scales);
  constexpr int64_t kRows = 16;
  parallel(pool, most_threads(), (p.M + kRows - 1) / kRows, [&](int64_t c) {
    kernels.round(p, c * kRows, std::min(p.M, c * kRows + kRows));
  });
  return true;
}

ffi::Error product(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w, ffi::RemainingArgs rest,
                   ffi::Result<ffi::AnyBuffer> y) {
  Product p{};
  const Kernels* kernels = chosen_kernels();
  if (!kernels) return wrong("no instruction set was chosen");
  if (auto error = described(p, x, w, rest, *y); error.failure()) return error;
  if (p.M == 0 || p.N == 0) return ffi::Error();
  std::unique_ptr<char[]> room;
  if (p.tiled() && !round_rows(p, room, *kernels, pool))
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "neox_eqx: no memory for the rounded rows");
  compute(p, *kernels, pool);
  return ffi::Error();
}

ffi::Error encode(ffi::ThreadPool pool, ffi::AnyBuffer w, ffi::Result<ffi::AnyBuffer> codes,
                  ffi::Result<ffi::AnyBuffer> scales) {
  if (w.dimensions().size() != 2) return wrong("the weight has not two axes");
  const int64_t rows = w.dimensions()[0], columns = w.dimensions()[1], tiles = rows / kTile;
  if (rows % kTile || columns % kGroup) return wrong("tiles are of 16 rows and groups of 32");
  if (!is(w, ffi::F32, {rows, columns}) || !is(*codes, ffi::U8, {tiles, columns / 8, 64}) ||
      !is(*scales, ffi::F16, {tiles, columns / kGroup, kTile}))
    return wrong("a weight of other types or shapes");
  parallel(pool, most_threads(), tiles, [&](int64_t tile) {
    encode4(w.typed_data<float>(), columns, tile, codes->typed_data<uint8_t>(),
            static_cast<uint16_t*>(scales->untyped_data()));
  });
  return ffi::Error();
}

// The bitwise sum of `count` words, as eight streams: faster than one after the other.
uint32_t sum_of_words(const uint32_t* data, int64_t count) {
  constexpr int64_t kStreams = 8, kAhead = 1024;
  const int64_t each = count / kStreams / 16 * 16;
  uint32_t own[16] = {};
  for (int64_t i = 0; i < each; i += 16)
    for (int64_t s = 0; s < kStreams; s++) {
      const uint32_t* words = data + s * each + i;
      __builtin_prefetch(words + kAhead, 0, 2);
      for (int l = 0; l < 16; l++) own[l] ^= words[l];
    }
  for (int64_t i = kStreams * each; i < count; i++) own[0] ^= data[i];
  for (int l = 1; l < 16; l++) own[0] ^= own[l];
  return own[0];
}

// The bitwise sum of all words of x: what reading them takes.
ffi::Error read(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::ResultBuffer<ffi::U32> y) {
  constexpr int64_t kChunk = 1 << 18;
  if (y->element_count() != 1) return wrong("the result of reading is one number");
  const auto size = int64_t(x.size_bytes()) / 4;
  std::atomic<uint32_t> all{0};
  parallel(pool, most_threads(), (size + kChunk - 1) / kChunk, [&](int64_t c) {
    const auto data = static_cast<const uint32_t*>(x.untyped_data()) + c * kChunk;
    all.fetch_xor(sum_of_words(data, std::min(kChunk, size - c * kChunk)));
  });
  *y->typed_data() = all.load();
  return ffi::Error();
}

}  // namespace

const Kernels* chosen_kernels() { return chosen.load(); }
int64_t most_threads() { return threads_at_most.load(); }

// Named by the sources, so that a program that was compiled for others never calls these.
XLA_FFI_DEFINE_HANDLER(product_handler, product,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER(read_handler, read,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::Buffer<ffi::U32>>());

XLA_FFI_DEFINE_HANDLER(encode_handler, encode,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>());

EXPORT XLA_FFI_Error* neox_eqx_encode(XLA_FFI_CallFrame* frame) { return (*encode_handler)(frame); }
EXPORT XLA_FFI_Error* neox_eqx_product(XLA_FFI_CallFrame* frame) { return (*product_handler)(frame); }
EXPORT XLA_FFI_Error* neox_eqx_read(XLA_FFI_CallFrame* frame) { return (*read_handler)(frame); }

// Takes the fastest instruction set of this name, or of all if it is empty, and at most so many
// threads. Returns its name, or null where this machine has none of that name.
EXPORT const char* neox_eqx_use(const char* name, int64_t threads) {
  for (auto each = kKernels; *each; each++)
    if ((!*name || !std::strcmp(name, (*each)->name)) && (*each)->runs_here()) {
      chosen = *each;
      threads_at_most = std::max<int64_t>(1, threads);
      return (*each)->name;
    }
  return nullptr;
}

}  // namespace neox
