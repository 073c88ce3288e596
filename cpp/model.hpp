// The problem as the solver sees it: functionals that are sums of small tables over shared variables.
#pragma once

#include <limits>
#include <vector>

namespace workbench {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One option number a variable.
using Assignment = std::vector<int>;

// A table over one to three variables, row-major: the last variable of the scope runs fastest.
struct Term {
    std::vector<int> scope;
    std::vector<double> table;
};

// constant + the sum of its terms; as a constraint it must not exceed `limit`.
struct Functional {
    std::vector<Term> terms;
    double constant = 0;
    double limit = kInfinity;
};

// Minimise `objective` while every constraint holds.
struct Model {
    std::vector<int> sizes;  // how many options each variable has
    Functional objective;
    std::vector<Functional> constraints;
};

// Throws std::invalid_argument for an empty variable, a scope or table that does not fit, NaN, infinity, or a
// negative entry.
void check(const Model& model);

// Sums in the order in which the terms were given, so that Python's own sum is reproduced bit by bit.
double value(const Functional& functional, const std::vector<int>& sizes, const Assignment& assignment);

bool feasible(const Model& model, const Assignment& assignment);

}  // namespace workbench
