// One idea: the file that keeps the sum of a shard's unit rows, byte for byte (FORMAT.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace learnalign {

// `index_digest`: of the index whose rows are summed.
std::string sum_bytes(const std::vector<double>& total, uint32_t index_digest);

// The sum that this file keeps for this index; nothing where it is another's, damaged or missing.
std::optional<std::vector<double>> read_sum(const std::string& path, uint64_t dimension,
                                            uint32_t index_digest);

}  // namespace learnalign
