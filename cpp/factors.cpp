#include "factors.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "tables.hpp"

namespace workbench {
namespace {

constexpr double kRounding = 1e-12;

std::vector<std::size_t> row_major(const std::vector<int>& scope, const std::vector<int>& sizes) {
    std::vector<std::size_t> strides(scope.size());
    std::size_t stride = 1;
    for (std::size_t i = scope.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= static_cast<std::size_t>(sizes[scope[i]]);
    }
    return strides;
}

std::vector<int> shape_of(const std::vector<int>& scope, const std::vector<int>& sizes) {
    std::vector<int> shape;
    for (const int variable : scope) shape.push_back(sizes[variable]);
    return shape;
}

void add_term(const Term& term, const std::vector<int>& sizes, const std::vector<int>& scope,
              std::vector<double>& table) {
    const std::vector<std::size_t> own = row_major(term.scope, sizes);
    std::vector<std::size_t> strides;
    for (const int variable : scope)
        strides.push_back(own[std::find(term.scope.begin(), term.scope.end(), variable) - term.scope.begin()]);
    const std::vector<int> shape = shape_of(scope, sizes);
    std::size_t entry = 0;
    if (table.empty()) table.resize(term.table.size(), 0.0);
    for_each_entry(shape, strides, [&](std::size_t offset) { table[entry++] += term.table[offset]; });
}

}  // namespace

std::vector<double> FactorGraph::values(const Assignment& assignment) const {
    std::vector<double> totals(constants.size(), 0.0);
    for (const Factor& factor : factors) {
        std::size_t entry = 0;
        for (const int v : factor.scope)
            entry = entry * static_cast<std::size_t>(sizes[v]) + static_cast<std::size_t>(assignment[v]);
        for (std::size_t k = 0; k < totals.size(); ++k)
            if (!factor.tables[k].empty()) totals[k] += factor.tables[k][entry];
    }
    return totals;
}

std::vector<double> largest_values(const FactorGraph& graph) {
    std::vector<double> largest(graph.constants.size(), 0.0);
    for (const Factor& factor : graph.factors)
        for (std::size_t k = 0; k < largest.size(); ++k)
            if (!factor.tables[k].empty())
                largest[k] += *std::max_element(factor.tables[k].begin(), factor.tables[k].end());
    for (double& value : largest)
        if (value == 0) value = 1;
    return largest;
}

std::vector<std::vector<double>> combine(const FactorGraph& graph, const std::vector<double>& weights) {
    std::vector<std::vector<double>> combined;
    for (const Factor& factor : graph.factors) {
        std::size_t size = 1;
        for (const int v : factor.scope) size *= static_cast<std::size_t>(graph.sizes[v]);
        std::vector<double>& sum = combined.emplace_back(size, 0.0);
        for (std::size_t k = 0; k < weights.size(); ++k) {
            if (factor.tables[k].empty() || weights[k] == 0) continue;
            for (std::size_t e = 0; e < size; ++e) sum[e] += weights[k] * factor.tables[k][e];
        }
    }
    return combined;
}

FactorGraph merge(const Model& model, const std::vector<int>& position) {
    FactorGraph graph;
    graph.sizes = model.sizes;
    std::vector<const Functional*> functionals{&model.objective};
    for (const Functional& constraint : model.constraints) functionals.push_back(&constraint);
    std::map<std::vector<int>, std::size_t> known;
    const auto earlier = [&](int a, int b) { return position[a] < position[b]; };
    for (std::size_t k = 0; k < functionals.size(); ++k) {
        graph.constants.push_back(functionals[k]->constant);
        if (k > 0) graph.limits.push_back(functionals[k]->limit - functionals[k]->constant);
        for (const Term& term : functionals[k]->terms) {
            std::vector<int> scope = term.scope;
            std::sort(scope.begin(), scope.end(), earlier);
            const auto [found, fresh] = known.try_emplace(scope, graph.factors.size());
            if (fresh) graph.factors.push_back({scope, std::vector<std::vector<double>>(functionals.size())});
            add_term(term, model.sizes, scope, graph.factors[found->second].tables[k]);
        }
    }
    return graph;
}

FactorGraph restrict(const FactorGraph& graph, const Domains& domains) {
    FactorGraph small;
    small.constants = graph.constants;
    small.limits = graph.limits;
    for (const std::vector<int>& domain : domains) small.sizes.push_back(static_cast<int>(domain.size()));
    for (const Factor& factor : graph.factors) {
        const std::vector<std::size_t> strides = row_major(factor.scope, graph.sizes);
        std::vector<std::size_t> entries{0};
        for (std::size_t i = 0; i < factor.scope.size(); ++i) {
            std::vector<std::size_t> longer;
            for (const std::size_t entry : entries)
                for (const int option : domains[factor.scope[i]])
                    longer.push_back(entry + strides[i] * static_cast<std::size_t>(option));
            entries = std::move(longer);
        }
        Factor& kept = small.factors.emplace_back(Factor{factor.scope, {}});
        for (const std::vector<double>& table : factor.tables) {
            std::vector<double>& taken = kept.tables.emplace_back();
            if (!table.empty())
                for (const std::size_t entry : entries) taken.push_back(table[entry]);
        }
    }
    const std::vector<double> largest = largest_values(small);
    for (std::size_t k = small.limits.size(); k > 0; --k) {
        if (largest[k] > small.limits[k - 1] - kRounding * std::abs(small.limits[k - 1])) continue;
        small.constants.erase(small.constants.begin() + static_cast<std::ptrdiff_t>(k));
        small.limits.erase(small.limits.begin() + static_cast<std::ptrdiff_t>(k) - 1);
        for (Factor& factor : small.factors)
            factor.tables.erase(factor.tables.begin() + static_cast<std::ptrdiff_t>(k));
    }
    return small;
}

}  // namespace workbench
