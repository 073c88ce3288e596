// A lower bound on a weighted sum of the functionals where the coupling is too dense for dynamic programming.
#pragma once

#include <array>
#include <vector>

#include "factors.hpp"
#include "guard.hpp"

namespace workbench {

// Sequential tree-reweighted message passing (Kolmogorov 2006), with factors of up to three variables: costs are
// shifted between factors and variables so that the sum of their separate minima, a lower bound, rises. It is tight
// where the products couple widths of two kinds, as in a DenseNet, and on trees. Each pass starts from the messages of
// the last.
class Messages {
public:
    struct Pass {
        std::vector<double> weights;
        double minimum = 0;  // at most the true one
        std::vector<std::vector<std::vector<double>>> moved;  // by factor, slot, option: taken from the variable
        std::vector<std::vector<double>> left;               // by variable and option: what was not moved
    };

    Messages(FactorGraph graph, Guard& guard);

    const FactorGraph& graph() const { return graph_; }

    Pass minimise(const std::vector<double>& weights);

    // Variables are set one after the other, each to its best option given those before it.
    Assignment decode(const Pass& pass);

    // by variable and option: a lower bound on the weighted sum when the variable takes the option.
    std::vector<std::vector<double>> option_minima(const Pass& pass);

private:
    struct Place {
        int factor;
        int slot;
    };
    // One of the three axes along which a factor is walked; those it lacks have one option and no shift.
    struct Axis {
        std::size_t stride = 0;
        std::size_t begin = 0;
        std::size_t end = 1;
        bool own = false;               // the axis that is not minimised over
        const double* shift = nullptr;  // added to the entries, by option
    };

    void load(const std::vector<double>& weights);
    double sweep(Pass& pass, bool forward) const;
    // minima[o] = the least entry of the shifted factor with option o in the slot, the slot's own shift left out.
    // Variables set in `fixed` (unless it is empty) are held there, their shifts left out too.
    void collect(const Pass& pass, Place place, const Assignment& fixed, std::vector<double>& minima) const;
    std::array<Axis, 3> axes(const Pass& pass, Place place, const Assignment& fixed) const;
    std::vector<double> unary(int variable) const;

    FactorGraph graph_;
    Guard& guard_;
    std::vector<std::vector<Place>> places_;  // by variable: where it stands in factors of two or three
    std::vector<std::vector<int>> unary_;     // by variable: its factors of one
    std::vector<std::vector<std::vector<double>>> kept_;  // the last pass's `moved`
    std::vector<double> zeros_;
    std::vector<double> weights_;                // of what follows
    std::vector<std::vector<double>> combined_;  // by factor: its tables, weighted and summed
};

}  // namespace workbench
