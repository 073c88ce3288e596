// Local search: makes a plan feasible and then better by single and paired changes.
#pragma once

#include "factors.hpp"
#include "guard.hpp"

namespace workbench {

// The plan after repair and improvement; it still breaks a limit where no repair was found. Paired changes stop after
// looking at `most_looks` options, so that the result does not depend on the machine.
Assignment improve(const FactorGraph& graph, Assignment plan, std::size_t most_looks, Guard& guard);

}  // namespace workbench
