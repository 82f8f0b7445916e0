// Attention as XLA calls it.
#include <atomic>

#include "calls.h"
#include "threads.h"

namespace neox {
namespace {

using Buffers = std::vector<ffi::AnyBuffer>;

bool number_of(ffi::DataType type, Number& number) {
  if (type == ffi::F32) number = Number::kFloat32;
  else if (type == ffi::F16) number = Number::kFloat16;
  else if (type == ffi::BF16) number = Number::kBfloat16;
  else if (type == ffi::S8) number = Number::kInt8;
  else return false;
  return true;
}

// Takes a segment's buffers from `at` on: keys, values, the scales of int8, and what is seen of it
// unless it is the last.
ffi::Error add_segment(Attention& a, const Buffers& all, size_t& at) {
  Slots slots{};
  if (all.size() - at < 2) return wrong("a segment has keys and values");
  const auto &key = all[at++], &value = all[at++];
  const auto type = key.element_type();
  if (!number_of(type, slots.number)) return wrong("keys are float32, float16, bfloat16 or int8");
  if (key.dimensions().size() != 4) return wrong("keys have not four axes");
  slots.rows = key.dimensions()[0], slots.count = key.dimensions()[2];
  if (!slots.rows || a.B % slots.rows) return wrong("rows of keys do not divide the batch");
  for (const auto& each : {key, value})
    if (!is(each, type, {slots.rows, a.H, slots.count, a.K}))
      return wrong("keys and values are not of (rows, heads, slots, head size)");
  slots.key = key.untyped_data(), slots.value = value.untyped_data();
  if (type == ffi::S8) {
    if (all.size() - at < 2) return wrong("int8 has scales");
    const auto &of_key = all[at++], &of_value = all[at++];
    for (const auto& each : {of_key, of_value})
      if (!is(each, ffi::F32, {slots.rows, a.H, slots.count, 1}))
        return wrong("scales are not float32 of (rows, heads, slots, 1)");
    slots.key_scale = of_key.typed_data<float>(), slots.value_scale = of_value.typed_data<float>();
  }
  if (at < all.size()) {
    const auto& seen = all[at++];
    if (!is(seen, ffi::PRED, {a.B, slots.count})) return wrong("what is seen is not of (rows, slots)");
    slots.seen = seen.typed_data<bool>();
  } else if (slots.rows != a.B || slots.count != a.T) {
    return wrong("the last segment is not the new tokens'");
  }
  a.segments.push_back(slots);
  return ffi::Error();
}

ffi::Error described(Attention& a, const ffi::AnyBuffer& query, const ffi::AnyBuffer& ids,
                     ffi::RemainingArgs rest, const ffi::AnyBuffer& y) {
  auto dims = query.dimensions();
  if (dims.size() != 4) return wrong("queries have not four axes");
  a = {dims[0], dims[1], dims[2], dims[3]};
  for (const auto& each : {query, y})
    if (!is(each, ffi::F32, {a.B, a.H, a.T, a.K})) return wrong("queries and result are not float32 alike");
  if (!is(ids, ffi::S32, {a.B, a.T})) return wrong("ids are not int32 of (rows, tokens)");
  a.query = query.typed_data<float>();
  a.ids = ids.typed_data<int32_t>();
  a.output = y.typed_data<float>();
  Buffers all;
  for (size_t i = 0; i < rest.size(); i++) {
    auto each = rest.get<ffi::AnyBuffer>(i);
    if (each.has_error()) return each.error();
    all.push_back(*each);
  }
  for (size_t at = 0; at < all.size();)
    if (auto error = add_segment(a, all, at); error.failure()) return error;
  if (a.segments.empty() || a.segments.back().seen) return wrong("there are no new tokens");
  return ffi::Error();
}

ffi::Error attention(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer ids,
                     ffi::RemainingArgs rest, ffi::Result<ffi::AnyBuffer> y) {
  Attention a{};
  const Kernels* kernels = chosen_kernels();
  if (!kernels) return wrong("no instruction set was chosen");
  if (auto error = described(a, query, ids, rest, *y); error.failure()) return error;
  const int64_t blocks = (a.T + kQueries - 1) / kQueries;
  std::atomic<bool> has_room{true};
  parallel(pool, most_threads(), a.B * a.H * blocks, [&](int64_t c) {
    // Head after head, as its keys stay in the cache; its last tokens, which see most, come first.
    const int64_t head = c / blocks, start = (blocks - 1 - c % blocks) * kQueries;
    const Queries own = {head / a.H, head % a.H, start, std::min(kQueries, a.T - start)};
    if (!kernels->attend(a, own)) has_room = false;
  });
  if (has_room) return ffi::Error();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "neox_eqx: no memory for a block of attention");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER(attention_handler, attention,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<ffi::AnyBuffer>()
                           .Arg<ffi::AnyBuffer>()
                           .RemainingArgs()
                           .Ret<ffi::AnyBuffer>());

EXPORT XLA_FFI_Error* neox_eqx_attention(XLA_FFI_CallFrame* frame) {
  return (*attention_handler)(frame);
}

}  // namespace neox
