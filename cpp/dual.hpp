// The Lagrangian dual: budgets priced into the objective, at the prices that give the best lower bound.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "factors.hpp"
#include "guard.hpp"
#include "master.hpp"

namespace workbench {

template <typename Pass>
struct Dual {
    bool reachable = true;           // false: some constraint cannot be kept even on its own
    double bound = -kInfinity;       // no plan that keeps the constraints has a lower objective
    Pass pass;                       // at the best multipliers
    std::vector<Pass> cheapest;      // by constraint: the pass that minimises it alone
    std::vector<Assignment> plans;   // minimisers met on the way
    std::vector<std::pair<std::size_t, double>> mixture;  // (plan, weight): keeps the constraints on average
};

// Column generation: the master problem prices the constraints, the relaxation answers with a bound and a plan, which
// becomes a column of the master problem, until no price is better.
template <typename Relaxation>
class ColumnGeneration {
public:
    using Pass = typename Relaxation::Pass;

    explicit ColumnGeneration(Relaxation& relaxation)
        : relaxation_(relaxation),
          graph_(relaxation.graph()),
          scale_(largest_values(graph_)),
          master_(graph_.limits.size()) {}

    Dual<Pass> run(const std::vector<Assignment>& known, double cutoff, Guard& guard) {
        for (const Assignment& plan : known) add(plan);
        if (!minimise_each()) {
            dual_.reachable = false;
            dual_.bound = kInfinity;
            return std::move(dual_);
        }
        std::vector<double> weights(graph_.constants.size(), 0.0);
        weights[0] = 1;
        for (int step = 0; step < kMostSteps; ++step) {
            if (!dual_.plans.empty()) {
                master_.solve();
                dual_.mixture = master_.mixture();
                if (master_.value() * scale_[0] <= dual_.bound + kClosed * scale_[0]) break;
                for (std::size_t k = 1; k < weights.size(); ++k)
                    weights[k] = master_.multipliers()[k - 1] * scale_[0] / scale_[k];
            }
            if (!price(weights) || dual_.bound >= cutoff || guard.expired()) break;
        }
        return std::move(dual_);
    }

private:
    static constexpr int kMostSteps = 100;
    static constexpr double kClosed = 1e-11;  // relative to the largest value possible
    static constexpr double kRise = 1e-7;     // relative; a bound that rises by less counts as the same

    void add(Assignment plan) {
        const std::vector<double> values = graph_.values(plan);
        std::vector<double> excess;
        for (std::size_t k = 0; k < graph_.limits.size(); ++k)
            excess.push_back((values[k + 1] - graph_.limits[k]) / scale_[k + 1]);
        master_.add(values[0] / scale_[0], excess);
        dual_.plans.push_back(std::move(plan));
    }

    // Each constraint by itself. False: one cannot be kept.
    bool minimise_each() {
        for (std::size_t k = 0; k < graph_.limits.size(); ++k) {
            std::vector<double> weights(graph_.constants.size(), 0.0);
            weights[k + 1] = 1;
            dual_.cheapest.push_back(relaxation_.minimise(weights));
            if (dual_.cheapest[k].minimum > graph_.limits[k] + kClosed * scale_[k + 1]) return false;
            add(relaxation_.decode(dual_.cheapest[k]));
        }
        return true;
    }

    // One pass at these prices. False: an inexact relaxation has no more to say.
    bool price(const std::vector<double>& weights) {
        Pass pass = relaxation_.minimise(weights);
        double bound = pass.minimum;
        for (std::size_t k = 0; k < graph_.limits.size(); ++k) bound -= weights[k + 1] * graph_.limits[k];
        Assignment plan = relaxation_.decode(pass);
        const bool fresh = std::find(dual_.plans.begin(), dual_.plans.end(), plan) == dual_.plans.end();
        const bool better = bound > dual_.bound + kRise * std::abs(dual_.bound);
        if (fresh) add(std::move(plan));
        if (bound > dual_.bound) {
            dual_.bound = bound;
            dual_.pass = std::move(pass);
        }
        return fresh || better;
    }

    Relaxation& relaxation_;
    const FactorGraph& graph_;
    const std::vector<double> scale_;
    Master master_;
    Dual<Pass> dual_;
};

// `relaxation` bounds a weighted sum of the functionals from below (minimise) and gives a plan near that bound
// (decode): the exact Tree, or Messages. Bounds are of the objective without its constant. `known` plans narrow the
// multipliers down before the first pass. Stops early once the bound reaches `cutoff`.
template <typename Relaxation>
Dual<typename Relaxation::Pass> solve_dual(Relaxation& relaxation, const std::vector<Assignment>& known, double cutoff,
                                           Guard& guard) {
    return ColumnGeneration<Relaxation>(relaxation).run(known, cutoff, guard);
}

}  // namespace workbench
