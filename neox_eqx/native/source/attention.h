// What attention is made of: softmax(q k^T / sqrt(K)) v for new tokens, over the slots that they see.
//
// The result of a token is a fixed sequence of operations on its own query and on the slots of its
// row: it has the same bits alone and in any batch, whatever the threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace neox {

enum class Number { kFloat32, kFloat16, kBfloat16, kInt8 };

// The keys and values of a segment.
struct Slots {
  Number number;
  int64_t rows;                         // each serves B / rows neighbouring rows of the batch
  int64_t count;                        // of slots
  const void *key, *value;              // (rows, H, count, K)
  const float *key_scale, *value_scale; // (rows, H, count), of int8 alone
  const bool* seen;                     // (B, count): by each row; null for the new tokens
};

struct Attention {
  int64_t B, H, T, K;
  const float* query;  // (B, H, T, K)
  // (B, T): a new token attends to the new tokens up to itself that have its id. 0 is padding, to
  // which nothing attends.
  const int32_t* ids;
  std::vector<Slots> segments;  // the new tokens are the last
  float* output;                // (B, H, T, K)
};

// So many queries are computed at once, each in a lane of its own, with so many slots at a time.
constexpr int64_t kQueries = 64, kSlots = 64;

// Of one row and one head, the tokens from `start` on: `count`, at most kQueries.
struct Queries {
  int64_t row, head, start, count;
};

// Slots of a segment that some of the queries see, at most kSlots.
struct SlotTile {
  const Slots* slots;
  int64_t start, count;
  bool all_see_all;
};

// Goes through the tiles that queries see, in the order of their slots.
class SlotTiles {
 public:
  SlotTiles(const Attention& a, const Queries& own);
  bool next(SlotTile& tile);

  // Where the keys and values of a tile lie, as a number of slots.
  int64_t place(const SlotTile& tile) const;
  // Makes minus infinity of the scores (slots, kQueries) of what is not seen.
  void hide(const SlotTile& tile, float* scores) const;

 private:
  int64_t end() const;
  bool look(SlotTile& tile) const;

  const Attention& a_;
  const Queries& own_;
  size_t segment_ = 0;
  int64_t at_ = 0, end_;
};

// The queries as (K, kQueries), times `scale`; lanes without a query are 0.
void take_queries(const Attention& a, const Queries& own, float scale, float* query);
// The sums (K, kQueries) over the weights' sums; 0 for a query that sees nothing.
void give_output(const Attention& a, const Queries& own, const float* sums, const float* weights);

}  // namespace neox
