// Widths and ranks in the hardware's multiple, in integers throughout.
#pragma once

#include <cstdint>
#include <vector>

namespace workbench {

enum class Rounding { kDown, kNearest, kUp };

// The multiple of `multiple`, or `units` itself, next to units * numerator / denominator; at least the smallest of
// them. A tie goes to the larger.
std::int64_t round_width(std::int64_t units, std::int64_t numerator, std::int64_t denominator, std::int64_t multiple,
                         Rounding mode);

// Real-valued ranks made multiples of `multiple` (or their layer's `highest`), with sum of cost * rank <= budget and no
// rank that could be the next larger one. Ranks furthest below their real value rise first; where the multiples
// themselves are over the budget, ranks furthest above it fall first. Empty: the smallest ranks are over the budget.
std::vector<std::int64_t> round_ranks(const std::vector<double>& ranks, const std::vector<std::int64_t>& costs,
                                      std::int64_t budget, std::int64_t multiple,
                                      const std::vector<std::int64_t>& highest);

}  // namespace workbench
