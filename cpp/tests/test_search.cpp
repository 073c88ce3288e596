#include <stdexcept>

#include "../improve.hpp"
#include "../search.hpp"
#include "check.hpp"

using namespace workbench;
using namespace workbench::tests;

namespace {

constexpr std::size_t kPlenty = std::size_t{1} << 30;
constexpr std::size_t kScarce = 8 << 10;  // no tree fits until most options are gone
constexpr std::size_t kLittle = 64 << 10;  // a tree fits when some are

void agrees_with_brute_force(const Model& model, std::size_t bytes) {
    const Solution solution = solve(model, {60, bytes, [] {}});
    const double best = brute_force(model);
    if (best == kInfinity) {
        CHECK(solution.best.empty());
        CHECK(solution.bound == kInfinity || bytes < kPlenty);
        return;
    }
    CHECK(solution.bound <= best + 1e-9);
    if (bytes < kPlenty && solution.best.empty()) return;  // the memory was up first
    CHECK(feasible(model, solution.best));
    CHECK(value(model.objective, model.sizes, solution.best) == solution.value);
    CHECK(solution.value >= best);
    if (bytes == kPlenty) CHECK(near(solution.value, best) && near(solution.bound, best));
}

void sweep_agrees_with_solving_one_by_one() {
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        Random random(seed);
        Model model = random_model(random, 5, 4, 2);
        std::vector<double> limits;
        for (int i = -10; i <= 20; i += 3) limits.push_back(model.constraints[0].limit + i);
        const std::vector<Solution> solutions = sweep(model, 0, limits, {60, kPlenty, [] {}});
        for (std::size_t i = 0; i < limits.size(); ++i) {
            model.constraints[0].limit = limits[i];
            CHECK(near(solutions[i].value, brute_force(model)));
        }
    }
}

void an_interrupt_gets_through() {
    Random random(1);
    const Model model = random_model(random, 6, 4, 3);
    bool stopped = false;
    try {
        solve(model, {60, kPlenty, [] { throw std::runtime_error("stop"); }});
    } catch (const std::runtime_error&) {
        stopped = true;
    }
    CHECK(stopped);
}

void no_time_leaves_a_bound() {
    Random random(2);
    const Model model = random_model(random, 6, 4, 2);
    const Solution solution = solve(model, {0, kPlenty, [] {}});
    CHECK(solution.bound <= brute_force(model) + 1e-9);
}

void improving_never_worsens() {
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
        Random random(seed);
        const Model model = random_model(random, 5, 4, 1);
        std::vector<int> position;
        for (std::size_t v = 0; v < model.sizes.size(); ++v) position.push_back(static_cast<int>(v));
        const FactorGraph graph = merge(model, position);
        Assignment plan;
        for (const int size : model.sizes) plan.push_back(random.below(size));
        Guard guard(60, [] {});
        const Assignment better = improve(graph, plan, 1'000'000, guard);
        if (!feasible(model, plan)) continue;
        CHECK(feasible(model, better));
        CHECK(value(model.objective, model.sizes, better) <= value(model.objective, model.sizes, plan) + 1e-9);
    }
}

}  // namespace

void test_search() {
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        Random random(seed);
        const Model model = random_model(random, 1 + random.below(6), 4, random.below(4));
        agrees_with_brute_force(model, kPlenty);
        agrees_with_brute_force(model, kScarce);
    }
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
        Random random(seed);
        const Model chain = random_model(random, 8, 4, 1 + random.below(2), Coupling::kChain);
        agrees_with_brute_force(chain, kPlenty);
        agrees_with_brute_force(chain, kScarce);
        const Model tangle = random_model(random, 8, 4, 1);
        agrees_with_brute_force(tangle, kPlenty);
        agrees_with_brute_force(tangle, kLittle);
    }
    sweep_agrees_with_solving_one_by_one();
    an_interrupt_gets_through();
    no_time_leaves_a_bound();
    improving_never_worsens();
}
