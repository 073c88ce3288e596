#include "rounding.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace workbench {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 53;  // exact in float64 too, which Python may have used

void need(bool holds, const std::string& otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

std::int64_t smallest(std::int64_t highest, std::int64_t multiple) { return std::min(highest, multiple); }

// The largest multiple, or `highest` itself, that is not above `wanted`; the smallest if all are.
std::int64_t at_most(std::int64_t wanted, std::int64_t highest, std::int64_t multiple) {
    return wanted >= highest ? highest : std::max(smallest(highest, multiple), wanted / multiple * multiple);
}

std::int64_t next(std::int64_t rank, std::int64_t highest, std::int64_t multiple) {
    return std::min(highest, (rank / multiple + 1) * multiple);
}

std::int64_t previous(std::int64_t rank, std::int64_t highest, std::int64_t multiple) {
    return std::max(smallest(highest, multiple), (rank - 1) / multiple * multiple);
}

// Of all layers that may take a step, the one with the largest key; -1 if none may.
template <typename May, typename Key>
std::ptrdiff_t largest(std::size_t layers, May may, Key key) {
    std::ptrdiff_t chosen = -1;
    for (std::size_t i = 0; i < layers; ++i)
        if (may(i) && (chosen < 0 || key(i) > key(static_cast<std::size_t>(chosen))))
            chosen = static_cast<std::ptrdiff_t>(i);
    return chosen;
}

void check_ranks(const std::vector<double>& ranks, const std::vector<std::int64_t>& costs, std::int64_t multiple,
                 const std::vector<std::int64_t>& highest) {
    need(ranks.size() == costs.size() && ranks.size() == highest.size(),
         "there are " + std::to_string(ranks.size()) + " ranks, " + std::to_string(costs.size()) + " costs and " +
             std::to_string(highest.size()) + " highest ranks; give as many of each");
    need(multiple >= 1, "the multiple is " + std::to_string(multiple) + "; it must be 1 or more");
    std::int64_t total = 0;
    for (std::size_t i = 0; i < ranks.size(); ++i) {
        const std::string layer = "layer " + std::to_string(i);
        need(std::isfinite(ranks[i]) && ranks[i] >= 0,
             layer + " has the rank " + std::to_string(ranks[i]) + "; it must be finite and >= 0");
        need(costs[i] >= 0, layer + " has the cost " + std::to_string(costs[i]) + "; it must be >= 0");
        need(highest[i] >= 1, layer + " has the highest rank " + std::to_string(highest[i]) + "; it must be >= 1");
        need(costs[i] <= (kMost - total) / highest[i], "the costs add up to 2**53 or more; use a larger unit");
        total += costs[i] * highest[i];
    }
}

}  // namespace

std::int64_t round_width(std::int64_t units, std::int64_t numerator, std::int64_t denominator, std::int64_t multiple,
                         Rounding mode) {
    need(units >= 1 && multiple >= 1, "units and multiple are " + std::to_string(units) + " and " +
                                          std::to_string(multiple) + "; both must be 1 or more");
    need(numerator >= 0 && denominator >= 1 && numerator <= denominator,
         "the ratio is " + std::to_string(numerator) + "/" + std::to_string(denominator) + "; it must lie in 0 .. 1");
    need(units <= kMost / denominator, "units times the ratio's denominator is 2**53 or more; give a simpler ratio");
    const std::int64_t wanted = units * numerator;  // in units of 1/denominator
    const std::int64_t floor = wanted / denominator;
    const std::int64_t below = at_most(floor, units, multiple);
    if (mode == Rounding::kDown || below * denominator >= wanted) return below;
    const std::int64_t above = next(below, units, multiple);
    if (mode == Rounding::kUp) return above;
    return wanted - below * denominator < above * denominator - wanted ? below : above;
}

std::vector<std::int64_t> round_ranks(const std::vector<double>& ranks, const std::vector<std::int64_t>& costs,
                                      std::int64_t budget, std::int64_t multiple,
                                      const std::vector<std::int64_t>& highest) {
    check_ranks(ranks, costs, multiple, highest);
    const std::size_t n = ranks.size();
    std::vector<std::int64_t> rounded(n);
    std::int64_t left = budget;
    for (std::size_t i = 0; i < n; ++i) {
        const auto whole = static_cast<std::int64_t>(std::min(ranks[i], static_cast<double>(highest[i])));
        rounded[i] = at_most(whole, highest[i], multiple);
        left -= costs[i] * rounded[i];
    }
    const auto short_by = [&](std::size_t i) { return ranks[i] - static_cast<double>(rounded[i]); };
    const auto step = [&](std::size_t i, std::int64_t to) {
        left -= costs[i] * (to - rounded[i]);
        rounded[i] = to;
    };
    while (left < 0) {
        const auto may = [&](std::size_t i) { return costs[i] > 0 && rounded[i] > smallest(highest[i], multiple); };
        const std::ptrdiff_t chosen = largest(n, may, [&](std::size_t i) { return -short_by(i); });
        if (chosen < 0) return {};
        const auto i = static_cast<std::size_t>(chosen);
        step(i, previous(rounded[i], highest[i], multiple));
    }
    for (;;) {
        const auto may = [&](std::size_t i) {
            return rounded[i] < highest[i] &&
                   costs[i] * (next(rounded[i], highest[i], multiple) - rounded[i]) <= left;
        };
        const std::ptrdiff_t chosen = largest(n, may, short_by);
        if (chosen < 0) return rounded;
        const auto i = static_cast<std::size_t>(chosen);
        step(i, next(rounded[i], highest[i], multiple));
    }
}

}  // namespace workbench
