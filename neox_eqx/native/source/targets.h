// One file holds what is compiled for a wider instruction set than the rest. Include all that is not
// meant for it before BEGIN_TARGET: an inline function compiled for it might else be used by others.
#pragma once

#define NEOX_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(names) \
  NEOX_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define END_TARGET NEOX_PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(names) NEOX_PRAGMA(GCC push_options) NEOX_PRAGMA(GCC target(names))
#define END_TARGET NEOX_PRAGMA(GCC pop_options)
#endif

// Small loops over registers must leave no loop.
#define UNROLL NEOX_PRAGMA(GCC unroll 16)
