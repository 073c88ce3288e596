#include <stdexcept>

#include "../rounding.hpp"
#include "check.hpp"

using namespace workbench;
using namespace workbench::tests;

namespace {

// 24 channels, a ratio of three tenths, multiples of 8: 7.2 channels become 8, not the 7 that floats leave.
void three_tenths_of_24_are_8() {
    CHECK(round_width(24, 3, 10, 8, Rounding::kUp) == 8);
    CHECK(round_width(24, 3, 10, 8, Rounding::kDown) == 8);
    CHECK(round_width(24, 6, 10, 8, Rounding::kDown) == 8);
    CHECK(round_width(24, 6, 10, 8, Rounding::kNearest) == 16);
    CHECK(round_width(20, 9, 10, 8, Rounding::kUp) == 20);
}

void widths_are_next_to_what_was_asked() {
    for (std::int64_t units = 1; units <= 100; ++units)
        for (std::int64_t multiple = 1; multiple <= 20; ++multiple)
            for (std::int64_t tenths = 0; tenths <= 10; ++tenths) {
                const std::int64_t down = round_width(units, tenths, 10, multiple, Rounding::kDown);
                const std::int64_t up = round_width(units, tenths, 10, multiple, Rounding::kUp);
                const std::int64_t nearest = round_width(units, tenths, 10, multiple, Rounding::kNearest);
                const std::int64_t least = std::min(units, multiple);
                CHECK(down == units || down % multiple == 0);
                CHECK(up == units || up % multiple == 0);
                CHECK(10 * down <= units * tenths || down == least);
                CHECK(10 * up >= units * tenths);
                CHECK(up - down <= multiple && (nearest == down || nearest == up));
                CHECK(std::abs(10 * nearest - units * tenths) <= std::abs(10 * up - units * tenths));
                CHECK(std::abs(10 * nearest - units * tenths) <= std::abs(10 * down - units * tenths));
            }
}

void ranks_fill_the_budget() {
    CHECK(round_ranks({4}, {3}, 2, 4, {8}).empty());
    for (std::uint64_t seed = 0; seed < 500; ++seed) {
        Random random(seed);
        const int n = 1 + random.below(5), multiple = 1 + random.below(8);
        std::vector<double> ranks;
        std::vector<std::int64_t> costs, highest;
        std::int64_t least = 0;
        for (int i = 0; i < n; ++i) {
            highest.push_back(1 + random.below(40));
            costs.push_back(random.below(20));
            ranks.push_back(random.unit() * static_cast<double>(highest.back()));
            least += costs.back() * std::min<std::int64_t>(multiple, highest.back());
        }
        const std::int64_t budget = random.below(2000);
        const auto rounded = round_ranks(ranks, costs, budget, multiple, highest);
        CHECK(rounded.empty() == (budget < least));
        if (rounded.empty()) continue;
        std::int64_t left = budget;
        for (int i = 0; i < n; ++i) {
            CHECK(rounded[i] >= 1 && rounded[i] <= highest[i]);
            CHECK(rounded[i] % multiple == 0 || rounded[i] == highest[i]);
            left -= costs[i] * rounded[i];
        }
        CHECK(left >= 0);
        for (int i = 0; i < n; ++i) {
            if (rounded[i] == highest[i]) continue;
            const std::int64_t next = std::min(highest[i], (rounded[i] / multiple + 1) * multiple);
            CHECK(costs[i] * (next - rounded[i]) > left);
        }
    }
}

void refuses_what_overflows() {
    int refused = 0;
    const auto attempt = [&](const std::function<void()>& call) {
        try {
            call();
        } catch (const std::invalid_argument&) {
            ++refused;
        }
    };
    attempt([] { round_ranks({1e6}, {std::int64_t{1} << 62}, 1, 1, {std::int64_t{1} << 62}); });
    attempt([] { round_ranks({std::nan("")}, {1}, 1, 1, {1}); });
    attempt([] { round_ranks({1}, {1, 2}, 1, 1, {1}); });
    attempt([] { round_ranks({1}, {-1}, 1, 1, {1}); });
    attempt([] { round_ranks({1}, {1}, 1, 0, {1}); });
    attempt([] { round_ranks({1}, {1}, 1, 1, {0}); });
    attempt([] { round_width(0, 1, 2, 8, Rounding::kUp); });
    attempt([] { round_width(8, 3, 2, 8, Rounding::kUp); });
    attempt([] { round_width(std::int64_t{1} << 60, 1, std::int64_t{1} << 60, 8, Rounding::kUp); });
    CHECK(refused == 9);
}

}  // namespace

void test_rounding() {
    three_tenths_of_24_are_8();
    widths_are_next_to_what_was_asked();
    ranks_fill_the_budget();
    refuses_what_overflows();
}
