// One idea: rows of several arrays, found by one running number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "score/score.hpp"

namespace learnalign {

// Finds a row by its global number, so that blocks run across shards. Quick where the next row asked for is
// near the last.
class RowCursor {
  public:
    explicit RowCursor(const RowSource& source)
        : source_(source), row_bytes_(static_cast<size_t>(source.dimension) * item_bytes(source.dtype)) {}

    const void* at(int64_t row) {
        while (row < first_) first_ -= source_.shards[--shard_].rows;
        while (row >= first_ + source_.shards[shard_].rows) first_ += source_.shards[shard_++].rows;
        const auto* base = static_cast<const uint8_t*>(source_.shards[shard_].data);
        return base + static_cast<size_t>(row - first_) * row_bytes_;
    }

  private:
    const RowSource& source_;
    size_t row_bytes_;
    size_t shard_ = 0;
    int64_t first_ = 0;
};

}  // namespace learnalign
