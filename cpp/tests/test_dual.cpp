#include "../dual.hpp"
#include "../master.hpp"
#include "../tree.hpp"
#include "check.hpp"

using namespace workbench;
using namespace workbench::tests;

namespace {

// Two plans, one over and one under the only limit: the price at which both cost the same.
void master_prices_two_plans() {
    Master master(1);
    master.add(4.0, {-1.0});
    master.add(1.0, {2.0});
    master.solve();
    CHECK(near(master.multipliers()[0], 1.0));
    CHECK(near(master.value(), 3.0));
    const auto mixture = master.mixture();
    CHECK(mixture.size() == 2);
    for (const auto& [column, weight] : mixture) CHECK(near(weight, column == 0 ? 2.0 / 3 : 1.0 / 3));
}

// max over prices of min over plans, against a fine grid of prices.
void master_agrees_with_a_grid() {
    for (std::uint64_t seed = 0; seed < 100; ++seed) {
        Random random(seed);
        Master master(2);
        std::vector<std::vector<double>> plans;
        for (int p = 0; p < 12; ++p) {
            plans.push_back({random.unit(), random.unit() - 0.6, random.unit() - 0.6});
            master.add(plans.back()[0], {plans.back()[1], plans.back()[2]});
        }
        plans.push_back({2.0, -0.5, -0.5});
        master.add(2.0, {-0.5, -0.5});
        master.solve();
        const auto dual = [&](double a, double b) {
            double least = kInfinity;
            for (const auto& plan : plans) least = std::min(least, plan[0] + a * plan[1] + b * plan[2]);
            return least;
        };
        CHECK(near(master.value(), dual(master.multipliers()[0], master.multipliers()[1]), 1e-8));
        for (int a = 0; a < 100; ++a)
            for (int b = 0; b < 100; ++b) CHECK(dual(0.1 * a, 0.1 * b) <= master.value() + 1e-8);
    }
}

void bound_is_a_bound_and_prices_are_best() {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        Random random(seed);
        const Model model = random_model(random, 4, 4, 1 + random.below(2));
        const Elimination elimination = eliminate(model);
        Tree tree(merge(model, elimination.position), elimination);
        Guard guard(60, [] {});
        const Dual<Tree::Pass> dual = solve_dual(tree, {}, kInfinity, guard);
        const double best = brute_force(model) - model.objective.constant;
        if (!dual.reachable) {
            CHECK(best == kInfinity);
            continue;
        }
        if (best < kInfinity) CHECK(dual.bound <= best + 1e-9);
        for (int i = 0; i < 30; ++i) {  // no other prices give a better bound
            std::vector<double> weights{1.0};
            double offset = 0;
            for (const double limit : tree.graph().limits) {
                weights.push_back(random.unit() * (random.below(2) ? 0.3 : 3));
                offset += weights.back() * limit;
            }
            CHECK(tree.minimise(weights).minimum - offset <= dual.bound + 1e-7 * (1 + std::abs(dual.bound)));
        }
    }
}

}  // namespace

void test_dual() {
    master_prices_two_plans();
    master_agrees_with_a_grid();
    bound_is_a_bound_and_prices_are_best();
}
