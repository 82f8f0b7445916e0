// Attention where each query has a lane, so that nothing is added across lanes: scores lie as
// (slots, queries), and a softmax over the slots is one in each lane.
//
// It is included within the namespace and the target of a file that has before: Lanes, of kLanes
// floats, with load, store, all, add, sub, mul, fma, max, power_of_two and zero_if_less; widen of
// numbers in float16; and kRows and kWide, a block of sums that fits the registers.

constexpr int64_t kVectors = kQueries / kLanes;

// 2^x for x <= 0, within 1.4 * 2^-24 of it; 0 where it is less than 2^-126.
//
// The whole number nearest to x becomes the exponent. The rest, within half of 0, goes into a
// polynomial of degree 6 whose largest relative error was made least: 1.9e-9.
inline Lanes exp2(Lanes x) {
  constexpr float kTerms[] = {1.0f,          0.693147182f,   0.240226462f,   0.0555032864f,
                              0.0096184891f, 0.00133999309f, 0.000153458124f};
  const Lanes shift = all(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded
  const Lanes shifted = add(x, shift), rest = sub(x, sub(shifted, shift));
  Lanes y = all(kTerms[6]);
  UNROLL for (int i = 5; i >= 0; i--) y = fma(y, rest, all(kTerms[i]));
  return zero_if_less(x, -126.0f, mul(y, power_of_two(shifted)));
}

// M rows of sums c, (M, kQueries), of `count` products of numbers a with rows of b, (count, kQueries).
// For scores a is M keys of `count` numbers. For the output it is M numbers of `count` values, and
// the sums go on from what they were, times `shrink`.
template <bool SCORES, int M>
void sums(const float* a, int64_t K, int64_t count, const float* b, float* c, const float* shrink) {
  for (int64_t v = 0; v < kQueries; v += kWide * kLanes) {
    Lanes acc[M][kWide];
    UNROLL for (int i = 0; i < M; i++) {
      UNROLL for (int w = 0; w < kWide; w++) {
        const int64_t at = v + w * kLanes;
        acc[i][w] = SCORES ? all(0) : mul(load(c + i * kQueries + at), load(shrink + at));
      }
    }
    for (int64_t k = 0; k < count; k++) {
      Lanes own[kWide];
      UNROLL for (int w = 0; w < kWide; w++) own[w] = load(b + k * kQueries + v + w * kLanes);
      UNROLL for (int i = 0; i < M; i++) {
        const Lanes one = all(SCORES ? a[i * K + k] : a[k * K + i]);
        UNROLL for (int w = 0; w < kWide; w++) acc[i][w] = fma(one, own[w], acc[i][w]);
      }
    }
    UNROLL for (int i = 0; i < M; i++) {
      UNROLL for (int w = 0; w < kWide; w++) store(c + i * kQueries + v + w * kLanes, acc[i][w]);
    }
  }
}

// Room for what a block of queries needs.
struct Room {
  alignas(64) float largest[kQueries], weight[kQueries], shrink[kQueries];
  alignas(64) float scores[kSlots * kQueries];  // (slots, queries), and then the weights
  float *query, *output;                        // (K, queries)
  float *key, *value;                           // (slots, K), of what is not float32
};

void score(const Room& room, const float* key, int64_t K, int64_t count, float* scores) {
  int64_t s = 0;
  for (; s + kRows <= count; s += kRows)
    sums<true, kRows>(key + s * K, K, K, room.query, scores + s * kQueries, nullptr);
  for (; s < count; s++)
    sums<true, 1>(key + s * K, K, K, room.query, scores + s * kQueries, nullptr);
}

// The scores of `count` slots become weights relative to the largest score so far.
void weigh(Room& room, int64_t count) {
  for (int64_t v = 0; v < kQueries; v += kLanes) {
    const Lanes before = load(room.largest + v);
    Lanes largest = before;
    for (int64_t s = 0; s < count; s++) largest = max(largest, load(room.scores + s * kQueries + v));
    const Lanes shrink = exp2(sub(before, largest));
    Lanes weight = mul(load(room.weight + v), shrink);
    for (int64_t s = 0; s < count; s++) {
      float* at = room.scores + s * kQueries + v;
      const Lanes own = exp2(sub(load(at), largest));
      store(at, own);
      weight = add(weight, own);
    }
    store(room.largest + v, largest);
    store(room.shrink + v, shrink);
    store(room.weight + v, weight);
  }
}

void mix(const Room& room, const float* value, int64_t K, int64_t count) {
  int64_t d = 0;
  for (; d + kRows <= K; d += kRows)
    sums<false, kRows>(value + d, K, count, room.scores, room.output + d * kQueries, room.shrink);
  for (; d < K; d++)
    sums<false, 1>(value + d, K, count, room.scores, room.output + d * kQueries, room.shrink);
}

// The numbers of `count` slots from `at` on, as float32; `room` is for those that are not.
const float* wide(const Slots& slots, const void* numbers, const float* scale, int64_t K, int64_t at,
                  int64_t count, float* room) {
  switch (slots.number) {
    case Number::kFloat32:
      return (const float*)numbers + at * K;
    case Number::kInt8:
      for (int64_t s = 0; s < count; s++)
        for (int64_t d = 0; d < K; d++)
          room[s * K + d] = scale[at + s] * float(((const int8_t*)numbers)[(at + s) * K + d]);
      return room;
    case Number::kFloat16:
      widen((const uint16_t*)numbers + at * K, count * K, room);
      return room;
    case Number::kBfloat16:
      for (int64_t i = 0; i < count * K; i++) room[i] = from_bfloat16(((const uint16_t*)numbers)[at * K + i]);
      return room;
  }
  return nullptr;
}

// Returns false where there is no memory.
bool attend(const Attention& a, const Queries& own) {
  constexpr float kLowest = std::numeric_limits<float>::lowest(), kLog2e = 1.44269504f;
  const int64_t K = a.K;
  Room room;
  auto floats = (float*)std::aligned_alloc(64, 2 * K * (kQueries + kSlots) * 4);
  if (!floats) return false;
  room.query = floats, room.output = room.query + K * kQueries;
  room.key = room.output + K * kQueries, room.value = room.key + K * kSlots;
  std::fill_n(room.output, K * kQueries, 0.0f);
  std::fill_n(room.weight, kQueries, 0.0f);
  std::fill_n(room.largest, kQueries, kLowest);
  take_queries(a, own, kLog2e / std::sqrt(float(K)), room.query);
  SlotTile tile;
  for (SlotTiles tiles(a, own); tiles.next(tile);) {
    const Slots& slots = *tile.slots;
    const int64_t at = tiles.place(tile), count = tile.count;
    score(room, wide(slots, slots.key, slots.key_scale, K, at, count, room.key), K, count, room.scores);
    if (!tile.all_see_all) tiles.hide(tile, room.scores);
    weigh(room, count);
    mix(room, wide(slots, slots.value, slots.value_scale, K, at, count, room.value), K, count);
  }
  give_output(a, own, room.output, room.weight);
  std::free(floats);
  return true;
}
