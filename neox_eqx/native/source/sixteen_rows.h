// Weights by rows where 16 sums along K take several registers. It is included within the namespace and
// the target of a file that has before: Sixteen with zero, add and sum; a type for each form of
// weights, with load; and kBytes, the part of the second-level cache that a block of W may take.

// M rows of x with R rows of W, w; the R rows after these come into the second-level cache.
template <class F, int M, int R>
void block(const Product& p, const typename F::Number* w, int64_t m, int64_t n) {
  using Number = typename F::Number;
  const float* x = p.x + m * p.K;
  Sixteen acc[M][R];
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int r = 0; r < R; r++) acc[i][r] = zero();
  }
  int64_t k = 0;
  for (; k + 16 <= p.K; k += 16) {
    UNROLL for (int r = 0; r < R; r++) {
      __builtin_prefetch(w + (r + R) * p.K + k, 0, 2);
      const Sixteen wide = F::load(w + r * p.K + k);
      UNROLL for (int i = 0; i < M; i++) add(acc[i][r], wide, x + i * p.K + k);
    }
  }
  if (k < p.K) {
    UNROLL for (int i = 0; i < M; i++) {
      float rest[16] = {};
      std::memcpy(rest, x + i * p.K + k, (p.K - k) * 4);
      UNROLL for (int r = 0; r < R; r++) {
        Number own[16] = {};
        std::memcpy(own, w + r * p.K + k, (p.K - k) * sizeof(Number));
        add(acc[i][r], F::load(own), rest);
      }
    }
  }
  const float* scale = p.format == Format::kInt8 ? (const float*)p.scale + n : nullptr;
  UNROLL for (int i = 0; i < M; i++) {
    UNROLL for (int r = 0; r < R; r++) {
      float y = sum(acc[i][r]);
      p.y[(m + i) * p.N + n + r] = scale ? y * scale[r] : y;
    }
  }
}

// M rows of x with the rows of W from n0 to n1, R at a time.
template <class F, int M, int R>
int64_t rows_of_x(const Product& p, int64_t m, int64_t n0, int64_t n1) {
  auto w = (const typename F::Number*)p.w;
  int64_t n = n0;
  for (; n + R <= n1; n += R) block<F, M, R>(p, w + n * p.K, m, n);
  for (; R > 1 && n < n1; n++) block<F, M, 1>(p, w + n * p.K, m, n);
  return m + M;
}

// A block of W stays in the second-level cache for all rows of x.
template <class F>
void all(const Product& p, const Part& part) {
  const int64_t row = std::max<int64_t>(1, p.K * sizeof(typename F::Number));
  const int64_t most = std::max<int64_t>(4, std::min<int64_t>(48, kBytes / row / 4 * 4));
  for (int64_t n0 = part.n0; n0 < part.n1; n0 += most) {
    const int64_t n1 = std::min(part.n1, n0 + most);
    for (int64_t m = part.m0; m < part.m1;) {
      const int64_t left = part.m1 - m;
      if (left >= 4) m = rows_of_x<F, 4, 1>(p, m, n0, n1);
      else if (left >= 2) m = rows_of_x<F, 2, 2>(p, m, n0, n1);
      else m = rows_of_x<F, 1, 4>(p, m, n0, n1);
    }
  }
}
