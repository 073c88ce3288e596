// The model with all terms of one scope merged, which is what bounds and searches work on.
#pragma once

#include <vector>

#include "model.hpp"

namespace workbench {

// All that depends on exactly these variables: one table a functional (objective first), empty where it has no term.
struct Factor {
    std::vector<int> scope;
    std::vector<std::vector<double>> tables;
};

struct FactorGraph {
    std::vector<int> sizes;
    std::vector<Factor> factors;
    std::vector<double> constants;  // of the objective and of every constraint
    std::vector<double> limits;     // of every constraint, its constant taken off

    // Every functional's value, without its constant.
    std::vector<double> values(const Assignment& assignment) const;
};

// Which options are left, increasing, by variable.
using Domains = std::vector<std::vector<int>>;

// Scopes come out sorted by `position`, the first to be eliminated first.
FactorGraph merge(const Model& model, const std::vector<int>& position);

// An upper bound of every functional without its constant; 1 where that is 0, so that it can divide.
std::vector<double> largest_values(const FactorGraph& graph);

// By factor: its tables, weighted and summed.
std::vector<std::vector<double>> combine(const FactorGraph& graph, const std::vector<double>& weights);

// The same graph over fewer options, without the constraints that these keep whatever is chosen.
FactorGraph restrict(const FactorGraph& graph, const Domains& domains);

}  // namespace workbench
