// The least of a test harness: a check that says where it failed, and random small problems with their true answers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "../model.hpp"

#define CHECK(condition)                                                                \
    do {                                                                                \
        if (!(condition)) {                                                             \
            std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                               \
        }                                                                               \
    } while (false)

namespace workbench::tests {

// A small generator whose numbers are the same everywhere, unlike the standard library's distributions.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed * 2 + 1) {}
    int below(int end) {
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<int>((state_ >> 33) % static_cast<std::uint64_t>(end));
    }
    double unit() { return below(1 << 24) / static_cast<double>(1 << 24); }

private:
    std::uint64_t state_;
};

inline bool near(double a, double b, double tolerance = 1e-9) {
    return a == b || std::abs(a - b) <= tolerance * (1 + std::abs(a) + std::abs(b));
}

enum class Coupling { kAny, kChain };

inline std::vector<int> random_scope(Random& random, int variables, Coupling coupling) {
    if (coupling == Coupling::kChain) {
        const int first = random.below(variables);
        return random.below(2) && first + 1 < variables ? std::vector<int>{first, first + 1} : std::vector<int>{first};
    }
    std::vector<int> scope;
    const int arity = std::min(variables, 1 + random.below(3));
    while (static_cast<int>(scope.size()) < arity) {
        const int variable = random.below(variables);
        if (std::find(scope.begin(), scope.end(), variable) == scope.end()) scope.push_back(variable);
    }
    return scope;
}

inline Functional random_functional(Random& random, const std::vector<int>& sizes, int terms, Coupling coupling) {
    Functional functional;
    functional.constant = random.below(3);
    for (int t = 0; t < terms; ++t) {
        Term term{random_scope(random, static_cast<int>(sizes.size()), coupling), {}};
        std::size_t entries = 1;
        for (const int variable : term.scope) entries *= static_cast<std::size_t>(sizes[variable]);
        for (std::size_t e = 0; e < entries; ++e) term.table.push_back(random.below(30));
        functional.terms.push_back(term);
    }
    return functional;
}

inline void for_each_plan(const std::vector<int>& sizes, const std::function<void(const Assignment&)>& visit) {
    Assignment plan(sizes.size(), 0);
    for (;;) {
        visit(plan);
        std::size_t v = 0;
        while (v < sizes.size() && ++plan[v] == sizes[v]) plan[v++] = 0;
        if (v == sizes.size()) return;
    }
}

inline Model random_model(Random& random, int variables, int options, int constraints,
                          Coupling coupling = Coupling::kAny) {
    Model model;
    for (int v = 0; v < variables; ++v) model.sizes.push_back(1 + random.below(options));
    model.objective = random_functional(random, model.sizes, variables + 2, coupling);
    for (int k = 0; k < constraints; ++k) {
        Functional constraint = random_functional(random, model.sizes, variables, coupling);
        double least = kInfinity, most = 0;
        for_each_plan(model.sizes, [&](const Assignment& plan) {
            const double reached = value(constraint, model.sizes, plan);
            least = std::min(least, reached);
            most = std::max(most, reached);
        });
        constraint.limit = std::floor(least + (most - least) * random.unit() * 0.9);
        model.constraints.push_back(constraint);
    }
    return model;
}

inline double brute_force(const Model& model) {
    double best = kInfinity;
    for_each_plan(model.sizes, [&](const Assignment& plan) {
        if (feasible(model, plan)) best = std::min(best, value(model.objective, model.sizes, plan));
    });
    return best;
}

// The weighted sum of all functionals, constants left out.
inline double weighted(const Model& model, const std::vector<double>& weights, const Assignment& plan) {
    double sum = weights[0] * (value(model.objective, model.sizes, plan) - model.objective.constant);
    for (std::size_t k = 0; k < model.constraints.size(); ++k)
        sum += weights[k + 1] * (value(model.constraints[k], model.sizes, plan) - model.constraints[k].constant);
    return sum;
}

}  // namespace workbench::tests
