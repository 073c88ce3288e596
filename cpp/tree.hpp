// Exact minimisation of one weighted sum of the functionals, by dynamic programming over the elimination tree.
#pragma once

#include <vector>

#include "elimination.hpp"
#include "factors.hpp"

namespace workbench {

class Tree {
public:
    // What one pass over the tree leaves behind: enough to read off the minimum, a minimiser, and what every option
    // costs above the minimum given the variables that are eliminated later.
    struct Pass {
        std::vector<double> weights;                // of the objective and of every constraint
        std::vector<std::vector<double>> combined;  // by factor: its tables, weighted and summed
        std::vector<std::vector<double>> messages;  // by variable: the minimum over it, a table over its separator
        double minimum = 0;
    };

    Tree(FactorGraph graph, const Elimination& elimination);

    const FactorGraph& graph() const { return graph_; }

    // min over x of the weighted sum, constants left out.
    Pass minimise(const std::vector<double>& weights) const;

    Assignment decode(const Pass& pass) const;

    // excess[o] = how much option o of `variable` costs above its best, given its separator in `assignment`; >= 0.
    // Summed over all variables this is the weighted sum of `assignment` minus `pass.minimum`.
    void excess(const Pass& pass, int variable, const Assignment& assignment, std::vector<double>& excess) const;

    // by variable and option: the minimum of the weighted sum when the variable takes the option.
    std::vector<std::vector<double>> option_minima(const Pass& pass) const;

private:
    // A function in a bucket: a factor, or the message of a child.
    struct Source {
        bool message;
        int index;
        std::vector<std::size_t> strides;  // along the bucket's variable, then along its separator
    };
    struct Bucket {
        std::vector<Source> sources;
        std::vector<std::size_t> message_strides;  // along the separator
        std::size_t message_size = 1;
    };

    const std::vector<double>& table(const Pass& pass, const Source& source) const {
        return source.message ? pass.messages[source.index] : pass.combined[source.index];
    }
    void eliminate(Pass& pass, int variable) const;
    void add_source(int variable, bool message, int index, const std::vector<int>& scope);

    FactorGraph graph_;
    const Elimination* elimination_;
    std::vector<Bucket> buckets_;
};

}  // namespace workbench
