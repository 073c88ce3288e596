// All plans below a target, enumerated from the root of the tree without a dead end, dominated ones left out.
#pragma once

#include <functional>
#include <vector>

#include "guard.hpp"
#include "tree.hpp"

namespace workbench {

// A weighted sum of the functionals that a plan must keep within `allowance` above the pass's minimum.
struct Gauge {
    const Tree::Pass* pass;
    double allowance;
};

// Label setting, as for shortest paths with resources: variables are set one after the other, and of two partial plans
// that agree on all that later variables see, one that is worse in the objective and in every constraint goes.
// gauges[0] prices the constraints into the objective; gauges[1 + k] is constraint k alone; more may follow. Plans are
// handed to `accept` by rising objective until it takes one. Returns the most labels there were at once; above
// `most_labels` it was given up, as it also is when time is over, and no plan was handed out.
std::size_t enumerate(const Tree& tree, const Elimination& elimination, const std::vector<Gauge>& gauges,
               std::size_t most_labels, const std::function<bool(const Assignment&)>& accept, Guard& guard);

}  // namespace workbench
