#include "master.hpp"

#include <algorithm>
#include <cmath>

#include "model.hpp"

namespace workbench {
namespace {

constexpr double kPenalty = 1e5;   // of exceeding a constraint by its whole scale, in units of the objective's scale
constexpr double kTolerance = 1e-12;
constexpr int kMostPivots = 5000;  // beyond any seen; stopping early only weakens the multipliers

// Solves matrix * x = right side by Gaussian elimination with partial pivoting; matrix is row-major and n x n.
std::vector<double> solve_system(std::vector<double> matrix, std::vector<double> right) {
    const std::size_t n = right.size();
    for (std::size_t c = 0; c < n; ++c) {
        std::size_t best = c;
        for (std::size_t r = c + 1; r < n; ++r)
            if (std::abs(matrix[r * n + c]) > std::abs(matrix[best * n + c])) best = r;
        for (std::size_t j = 0; j < n; ++j) std::swap(matrix[c * n + j], matrix[best * n + j]);
        std::swap(right[c], right[best]);
        for (std::size_t r = 0; r < n; ++r) {
            if (r == c || matrix[r * n + c] == 0) continue;
            const double factor = matrix[r * n + c] / matrix[c * n + c];
            for (std::size_t j = c; j < n; ++j) matrix[r * n + j] -= factor * matrix[c * n + j];
            right[r] -= factor * right[c];
        }
    }
    for (std::size_t r = 0; r < n; ++r) right[r] /= matrix[r * n + r];
    return right;
}

}  // namespace

Master::Master(std::size_t constraints) : rows_(constraints + 1), multipliers_(constraints, 0.0) {
    for (std::size_t k = 0; k < constraints; ++k) {
        Column slack{0, std::vector<double>(rows_, 0.0)};
        slack.entries[k] = 1;
        columns_.push_back(slack);
    }
    for (std::size_t k = 0; k < constraints; ++k) {
        Column penalty{kPenalty, std::vector<double>(rows_, 0.0)};
        penalty.entries[k] = -1;
        columns_.push_back(penalty);
    }
}

void Master::add(double value, const std::vector<double>& excess) {
    Column column{value, excess};
    column.entries.push_back(1);
    columns_.push_back(column);
    if (!basis_.empty()) return;
    for (std::size_t k = 0; k + 1 < rows_; ++k) basis_.push_back(excess[k] <= 0 ? k : rows_ - 1 + k);
    basis_.push_back(columns_.size() - 1);
}

void Master::solve() {
    std::vector<double> right(rows_, 0.0);
    right.back() = 1;
    for (int pivot = 0; pivot < kMostPivots; ++pivot) {
        std::vector<double> matrix(rows_ * rows_), transposed(rows_ * rows_), costs(rows_);
        for (std::size_t c = 0; c < rows_; ++c) {
            costs[c] = columns_[basis_[c]].cost;
            for (std::size_t r = 0; r < rows_; ++r)
                matrix[r * rows_ + c] = transposed[c * rows_ + r] = columns_[basis_[c]].entries[r];
        }
        levels_ = solve_system(matrix, right);
        const std::vector<double> prices = solve_system(transposed, costs);
        for (std::size_t k = 0; k + 1 < rows_; ++k)
            if (std::isfinite(prices[k])) multipliers_[k] = std::max(0.0, -prices[k]);
        value_ = prices.back();
        std::size_t entering = columns_.size();
        for (std::size_t j = 0; j < columns_.size() && entering == columns_.size(); ++j) {
            double reduced = columns_[j].cost, size = 1 + std::abs(columns_[j].cost);
            for (std::size_t r = 0; r < rows_; ++r) {
                reduced -= prices[r] * columns_[j].entries[r];
                size += std::abs(prices[r] * columns_[j].entries[r]);
            }
            if (reduced < -kTolerance * size) entering = j;
        }
        if (entering == columns_.size()) return;
        const std::vector<double> direction = solve_system(matrix, columns_[entering].entries);
        std::size_t leaving = rows_;
        double step = kInfinity;
        for (std::size_t r = 0; r < rows_; ++r) {
            if (direction[r] <= kTolerance) continue;
            const double ratio = std::max(0.0, levels_[r]) / direction[r];
            if (ratio < step - kTolerance || (ratio <= step + kTolerance && basis_[r] < basis_[leaving])) {
                step = ratio;
                leaving = r;
            }
        }
        if (leaving == rows_) return;  // rounding alone can bring this about: the program is bounded
        basis_[leaving] = entering;
    }
}

std::vector<std::pair<std::size_t, double>> Master::mixture() const {
    std::vector<std::pair<std::size_t, double>> mixture;
    const std::size_t own = 2 * (rows_ - 1);
    for (std::size_t r = 0; r < rows_; ++r)
        if (basis_[r] >= own && levels_[r] > kTolerance) mixture.emplace_back(basis_[r] - own, levels_[r]);
    return mixture;
}

}  // namespace workbench
