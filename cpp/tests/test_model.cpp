#include <limits>
#include <stdexcept>

#include "../elimination.hpp"
#include "../factors.hpp"
#include "check.hpp"

using namespace workbench;
using namespace workbench::tests;

namespace {

bool refused(const Model& model) {
    try {
        check(model);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

void refuses_what_does_not_fit() {
    const Model good{{2, 3}, {{{{0, 1}, {1, 2, 3, 4, 5, 6}}}, 0, kInfinity}, {}};
    CHECK(!refused(good));
    const auto spoilt = [&](const std::function<void(Model&)>& spoil) {
        Model model = good;
        spoil(model);
        return refused(model);
    };
    CHECK(spoilt([](Model& m) { m.sizes.clear(); }));
    CHECK(spoilt([](Model& m) { m.sizes[0] = 0; }));
    CHECK(spoilt([](Model& m) { m.sizes[0] = 1 << 20; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].scope = {0, 0}; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].scope = {0, 2}; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].scope = {0, -1}; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].scope = {}; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].table.pop_back(); }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].table[3] = -1; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].table[3] = kInfinity; }));
    CHECK(spoilt([](Model& m) { m.objective.terms[0].table[3] = std::numeric_limits<double>::quiet_NaN(); }));
    CHECK(spoilt([](Model& m) { m.objective.constant = -1; }));
    CHECK(spoilt([](Model& m) { m.constraints.push_back({{}, 0, std::numeric_limits<double>::quiet_NaN()}); }));
}

// Merging terms and taking options away changes no plan's value.
void merging_and_restricting_keep_values() {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        Random random(seed);
        const Model model = random_model(random, 4, 4, 2);
        const FactorGraph graph = merge(model, eliminate(model).position);
        Domains domains;
        for (const int size : model.sizes) {
            domains.emplace_back();
            for (int o = 0; o < size; ++o)
                if (random.below(2) || (o + 1 == size && domains.back().empty())) domains.back().push_back(o);
        }
        const FactorGraph small = restrict(graph, domains);
        for_each_plan(small.sizes, [&](const Assignment& plan) {
            Assignment full;
            for (std::size_t v = 0; v < plan.size(); ++v) full.push_back(domains[v][plan[v]]);
            const std::vector<double> whole = graph.values(full), part = small.values(plan);
            CHECK(near(whole[0] + graph.constants[0], value(model.objective, model.sizes, full)));
            CHECK(near(whole[2] + graph.constants[2], value(model.constraints[1], model.sizes, full)));
            CHECK(near(part[0], whole[0]));
            // A constraint that was left out holds whatever is chosen.
            if (small.limits.size() < 2) {
                bool all = true;
                for (std::size_t k = 0; k < 2; ++k) all &= whole[k + 1] <= graph.limits[k];
                bool left = true;
                for (std::size_t k = 0; k < small.limits.size(); ++k) left &= part[k + 1] <= small.limits[k];
                CHECK(all == left);
            }
        });
    }
}

// Every variable's separator comes later in the order, and before it in the preorder.
void elimination_is_an_order() {
    Random random(7);
    const Model model = random_model(random, 8, 3, 3);
    const Elimination elimination = eliminate(model);
    CHECK(elimination.order.size() == model.sizes.size());
    std::vector<int> seen(model.sizes.size(), 0);
    for (const int variable : elimination.preorder) {
        for (const int other : elimination.separator[variable]) {
            CHECK(elimination.position[other] > elimination.position[variable]);
            CHECK(seen[other] == 1);
        }
        CHECK(seen[variable]++ == 0);
    }
}

}  // namespace

void test_model() {
    refuses_what_does_not_fit();
    merging_and_restricting_keep_values();
    elimination_is_an_order();
}
