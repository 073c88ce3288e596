// The master problem of the Lagrangian dual: which multipliers do the plans seen so far leave best?
#pragma once

#include <vector>

namespace workbench {

// max over multipliers >= 0 of min over columns of (value + multipliers . excess), by Dantzig-Wolfe: its linear
// programming dual mixes columns so that no constraint is exceeded on average, and has as many rows as constraints,
// plus one. Solved by the simplex method with Bland's rule on explicit small systems.
class Master {
public:
    explicit Master(std::size_t constraints);

    // excess[k] <= 0: the plan keeps constraint k.
    void add(double value, const std::vector<double>& excess);
    void solve();

    const std::vector<double>& multipliers() const { return multipliers_; }
    double value() const { return value_; }      // an upper bound on the dual's
    std::vector<std::pair<std::size_t, double>> mixture() const;  // (column added, its weight)

private:
    struct Column {
        double cost;
        std::vector<double> entries;
    };

    std::size_t rows_;
    std::vector<Column> columns_;  // slacks, penalties, then what was added
    std::vector<std::size_t> basis_;
    std::vector<double> levels_;
    std::vector<double> multipliers_;
    double value_ = 0;
};

}  // namespace workbench
