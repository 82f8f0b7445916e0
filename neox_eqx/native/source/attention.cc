// What a block of queries sees, and how it is taken and given back.
#include "attention.h"

#include <algorithm>
#include <limits>

namespace neox {
namespace {

struct Range {
  int32_t least, most;
};

Range range(const int32_t* ids, int64_t count) {
  auto [least, most] = std::minmax_element(ids, ids + count);
  return {*least, *most};
}

}  // namespace

SlotTiles::SlotTiles(const Attention& a, const Queries& own) : a_(a), own_(own), end_(end()) {}

// Of the slots of a segment that the queries may see.
int64_t SlotTiles::end() const {
  const Slots& slots = a_.segments[segment_];
  return slots.seen ? slots.count : own_.start + own_.count;
}

bool SlotTiles::next(SlotTile& tile) {
  while (segment_ < a_.segments.size()) {
    while (at_ < end_) {
      tile = {&a_.segments[segment_], at_, std::min(kSlots, end_ - at_), false};
      at_ += tile.count;
      if (look(tile)) return true;
    }
    at_ = 0;
    if (++segment_ < a_.segments.size()) end_ = end();
  }
  return false;
}

// Whether any query may see any slot, and whether all see all.
bool SlotTiles::look(SlotTile& tile) const {
  if (tile.slots->seen) {
    const bool* seen = tile.slots->seen + own_.row * tile.slots->count + tile.start;
    const int64_t count = std::count(seen, seen + tile.count, true);
    tile.all_see_all = count == tile.count;
    return count;
  }
  const int32_t* ids = a_.ids + own_.row * a_.T;
  const Range slots = range(ids + tile.start, tile.count), queries = range(ids + own_.start, own_.count);
  const bool is_before = tile.start + tile.count <= own_.start + 1;
  const bool are_alike = slots.least == slots.most && queries.least == queries.most;
  tile.all_see_all = is_before && are_alike && slots.least == queries.least;
  return slots.most > 0 && slots.least <= queries.most && queries.least <= slots.most;
}

int64_t SlotTiles::place(const SlotTile& tile) const {
  const int64_t row = own_.row / (a_.B / tile.slots->rows);
  return (row * a_.H + own_.head) * tile.slots->count + tile.start;
}

void SlotTiles::hide(const SlotTile& tile, float* scores) const {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  if (tile.slots->seen) {
    const bool* seen = tile.slots->seen + own_.row * tile.slots->count + tile.start;
    for (int64_t s = 0; s < tile.count; s++)
      if (!seen[s]) std::fill_n(scores + s * kQueries, kQueries, kHidden);
    return;
  }
  const int32_t* ids = a_.ids + own_.row * a_.T;
  for (int64_t s = 0; s < tile.count; s++) {
    const int32_t id = ids[tile.start + s];
    for (int64_t q = 0; q < own_.count; q++) {
      const bool sees = id > 0 && ids[own_.start + q] == id && tile.start + s <= own_.start + q;
      float& score = scores[s * kQueries + q];
      score = sees ? score : kHidden;
    }
  }
}

void take_queries(const Attention& a, const Queries& own, float scale, float* query) {
  const float* from = a.query + ((own.row * a.H + own.head) * a.T + own.start) * a.K;
  for (int64_t d = 0; d < a.K; d++)
    for (int64_t q = 0; q < kQueries; q++)
      query[d * kQueries + q] = q < own.count ? from[q * a.K + d] * scale : 0;
}

void give_output(const Attention& a, const Queries& own, const float* sums, const float* weights) {
  float* to = a.output + ((own.row * a.H + own.head) * a.T + own.start) * a.K;
  for (int64_t q = 0; q < own.count; q++)
    for (int64_t d = 0; d < a.K; d++)
      to[q * a.K + d] = weights[q] == 0 ? 0 : sums[d * kQueries + q] / weights[q];
}

}  // namespace neox
