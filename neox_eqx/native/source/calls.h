// What the calls of XLA share: what computes, and what is said of wrong arguments.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <string>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace ffi = xla::ffi;

namespace neox {

// What `neox_eqx_use` chose; null before.
const Kernels* chosen_kernels();
int64_t most_threads();

inline ffi::Error wrong(const char* what) {
  return ffi::Error::InvalidArgument(std::string("neox_eqx: ") + what);
}

inline bool is(const ffi::AnyBuffer& buffer, ffi::DataType type, std::initializer_list<int64_t> shape) {
  auto dims = buffer.dimensions();
  return buffer.element_type() == type && dims.size() == shape.size() &&
         std::equal(shape.begin(), shape.end(), dims.begin());
}

}  // namespace neox
