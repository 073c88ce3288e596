// A part of the search space: which options each variable still has, and how good a plan in it can be.
#pragma once

#include <vector>

#include "factors.hpp"

namespace workbench {

struct Node {
    double bound;        // of the objective without its constant
    std::size_t number;  // in the order of creation; the root is 0
    Domains domains;
    std::vector<Assignment> seeds;  // plans whose mixture gave the parent's bound

    // std::priority_queue puts the largest first: the lowest bound, then the eldest.
    bool operator<(const Node& other) const {
        return bound != other.bound ? bound > other.bound : number > other.number;
    }
};

std::size_t bytes(const Node& node);

Domains whole(const std::vector<int>& sizes);

// How many options are left.
std::size_t count(const Domains& domains);

// From positions in the domains to option numbers.
Assignment widened(const Domains& domains, Assignment plan);

// The plans that lie within the domains, by position in them.
std::vector<Assignment> narrowed(const Domains& domains, const std::vector<Assignment>& plans);

// Two parts of the node: the variable on which its seeds (so weighted) differ most is split at their mean; where they
// agree, the one with most options in the middle. Some variable must have two options.
std::pair<Domains, Domains> split(const Node& node, const std::vector<double>& weights, const std::vector<int>& sizes);

}  // namespace workbench
