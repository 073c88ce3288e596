#include "../messages.hpp"
#include "../tree.hpp"
#include "check.hpp"

using namespace workbench;
using namespace workbench::tests;

namespace {

std::vector<std::vector<double>> true_minima(const Model& model, const std::vector<double>& weights) {
    std::vector<std::vector<double>> minima;
    for (const int size : model.sizes) minima.emplace_back(size, kInfinity);
    for_each_plan(model.sizes, [&](const Assignment& plan) {
        const double sum = weighted(model, weights, plan);
        for (std::size_t v = 0; v < plan.size(); ++v) minima[v][plan[v]] = std::min(minima[v][plan[v]], sum);
    });
    return minima;
}

void tree_is_exact(const Model& model, const std::vector<double>& weights) {
    const Elimination elimination = eliminate(model);
    const Tree tree(merge(model, elimination.position), elimination);
    const Tree::Pass pass = tree.minimise(weights);
    const auto expected = true_minima(model, weights);
    double least = kInfinity;
    for (const double minimum : expected[0]) least = std::min(least, minimum);
    CHECK(near(pass.minimum, least));
    CHECK(near(weighted(model, weights, tree.decode(pass)), least));
    const auto minima = tree.option_minima(pass);
    for (std::size_t v = 0; v < minima.size(); ++v)
        for (std::size_t o = 0; o < minima[v].size(); ++o) CHECK(near(minima[v][o], expected[v][o]));
    for_each_plan(model.sizes, [&](const Assignment& plan) {
        std::vector<double> excess;
        double sum = pass.minimum;
        for (std::size_t v = 0; v < plan.size(); ++v) {
            tree.excess(pass, static_cast<int>(v), plan, excess);
            CHECK(excess[plan[v]] >= 0);
            sum += excess[plan[v]];
        }
        CHECK(near(sum, weighted(model, weights, plan)));
    });
}

void messages_bound_from_below(const Model& model, const std::vector<double>& weights) {
    Guard guard(60, [] {});
    std::vector<int> position;
    for (std::size_t v = 0; v < model.sizes.size(); ++v) position.push_back(static_cast<int>(v));
    Messages messages(merge(model, position), guard);
    messages.minimise(std::vector<double>(weights.size(), 1.0));  // what this leaves behind must not spoil the next
    const Messages::Pass pass = messages.minimise(weights);
    const auto expected = true_minima(model, weights);
    const auto minima = messages.option_minima(pass);
    for (std::size_t v = 0; v < minima.size(); ++v)
        for (std::size_t o = 0; o < minima[v].size(); ++o) {
            CHECK(pass.minimum <= expected[v][o] + 1e-9);
            CHECK(minima[v][o] >= pass.minimum - 1e-9);
            CHECK(minima[v][o] <= expected[v][o] + 1e-9);
        }
    CHECK(weighted(model, weights, messages.decode(pass)) >= pass.minimum - 1e-9);
}

// Products of widths of two kinds: the bound is the minimum itself.
void messages_are_tight_on_products() {
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        Random random(seed);
        Model model{{4, 4, 4, 4, 4, 4}, {}, {}};
        for (int v = 0; v < 6; ++v) {
            Term loss{{v}, {}};
            for (int o = 0; o < 4; ++o) loss.table.push_back((3 - o) * random.unit() * 20);
            model.objective.terms.push_back(loss);
        }
        for (int in = 0; in < 3; ++in)
            for (int out = 3; out < 6; ++out) {
                Term product{{in, out}, {}};
                const double factor = random.unit();
                for (int a = 0; a < 4; ++a)
                    for (int b = 0; b < 4; ++b) product.table.push_back(factor * (a + 1) * (b + 1));
                model.objective.terms.push_back(product);
            }
        Guard guard(60, [] {});
        Messages messages(merge(model, {0, 1, 2, 3, 4, 5}), guard);
        CHECK(near(messages.minimise({1}).minimum, brute_force(model), 1e-4));
    }
}

}  // namespace

void test_bounds() {
    for (std::uint64_t seed = 0; seed < 150; ++seed) {
        Random random(seed);
        const Model model = random_model(random, 2 + random.below(4), 4, 1);
        for (const std::vector<double>& weights : {std::vector<double>{1, 0}, {0, 1}, {1, 0.37}}) {
            tree_is_exact(model, weights);
            messages_bound_from_below(model, weights);
        }
    }
    messages_are_tight_on_products();
}
