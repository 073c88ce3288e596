// The exact solver: Lagrangian bounds, enumeration below a rising target, and branching where that does not close.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "model.hpp"

namespace workbench {

struct Limits {
    double seconds = 10;
    std::size_t bytes = std::size_t{1} << 30;
    std::function<void()> poll = [] {};  // called a hundred times a second; may throw to abandon the search
};

struct Solution {
    Assignment best;            // empty: no plan keeps the constraints, or none was found in time
    double value = kInfinity;   // of the objective
    double bound = -kInfinity;  // no plan has a lower objective; infinite: there is no plan
};

Solution solve(Model model, const Limits& limits);

// One solution for every limit of one constraint, in the order given. What one search learns, the next starts from; the
// time limit holds for each.
std::vector<Solution> sweep(Model model, std::size_t constraint, const std::vector<double>& constraint_limits,
                            const Limits& limits);

}  // namespace workbench
