// An order in which to eliminate the variables, and the tree of buckets it gives.
#pragma once

#include <vector>

#include "model.hpp"

namespace workbench {

struct Elimination {
    std::vector<int> order;                   // the first to go first
    std::vector<int> position;                // of each variable in the order
    std::vector<std::vector<int>> separator;  // by variable: its neighbours when it goes, in the order
    std::vector<int> parent;                  // by variable: the first of its separator, -1 at a root
    std::vector<int> preorder;                // parents before children, one subtree after another
};

// Greedy: next goes the variable whose table is smallest, on a tie the one with the lowest number.
Elimination eliminate(const Model& model);

// How many entries eliminating looks at when the variables have these sizes.
double tree_entries(const Elimination& elimination, const std::vector<int>& sizes);

}  // namespace workbench
