#include "tree.hpp"

#include <algorithm>

#include "tables.hpp"

namespace workbench {
namespace {

// out[b] = min(out[b], base + the sum of the rows at b)
void relax(double* out, std::size_t length, double base, const double* const* rows, std::size_t count) {
    if (count == 1) {
        const double* const first = rows[0];
        for (std::size_t b = 0; b < length; ++b) out[b] = std::min(out[b], base + first[b]);
    } else if (count == 2) {
        const double* const first = rows[0];
        const double* const second = rows[1];
        for (std::size_t b = 0; b < length; ++b) out[b] = std::min(out[b], base + first[b] + second[b]);
    } else {
        for (std::size_t b = 0; b < length; ++b) {
            double sum = base;
            for (std::size_t r = 0; r < count; ++r) sum += rows[r][b];
            out[b] = std::min(out[b], sum);
        }
    }
}

}  // namespace

Tree::Tree(FactorGraph graph, const Elimination& elimination)
    : graph_(std::move(graph)), elimination_(&elimination), buckets_(graph_.sizes.size()) {
    for (const int variable : elimination.order) {
        Bucket& bucket = buckets_[variable];
        const std::vector<int>& separator = elimination.separator[variable];
        bucket.message_strides.resize(separator.size());
        for (std::size_t i = separator.size(); i-- > 0;) {
            bucket.message_strides[i] = bucket.message_size;
            bucket.message_size *= static_cast<std::size_t>(graph_.sizes[separator[i]]);
        }
        if (!separator.empty()) add_source(elimination.parent[variable], true, variable, separator);
    }
    for (std::size_t f = 0; f < graph_.factors.size(); ++f)
        add_source(graph_.factors[f].scope.front(), false, static_cast<int>(f), graph_.factors[f].scope);
}

void Tree::add_source(int variable, bool message, int index, const std::vector<int>& scope) {
    const std::vector<int>& separator = elimination_->separator[variable];
    Source source{message, index, std::vector<std::size_t>(separator.size() + 1, 0)};
    std::size_t stride = 1;
    for (std::size_t i = scope.size(); i-- > 0;) {
        const auto at = std::find(separator.begin(), separator.end(), scope[i]);
        source.strides[scope[i] == variable ? 0 : 1 + (at - separator.begin())] = stride;
        stride *= static_cast<std::size_t>(graph_.sizes[scope[i]]);
    }
    buckets_[variable].sources.push_back(std::move(source));
}

Tree::Pass Tree::minimise(const std::vector<double>& weights) const {
    Pass pass;
    pass.weights = weights;
    pass.combined = combine(graph_, weights);
    pass.messages.resize(buckets_.size());
    for (const int variable : elimination_->order) {
        eliminate(pass, variable);
        if (elimination_->separator[variable].empty()) pass.minimum += pass.messages[variable].front();
    }
    return pass;
}

void Tree::eliminate(Pass& pass, int variable) const {
    const Bucket& bucket = buckets_[variable];
    const std::vector<int>& separator = elimination_->separator[variable];
    std::vector<double>& message = pass.messages[variable];
    message.assign(bucket.message_size, kInfinity);
    // The separator's last variable is the last axis of every table that has it: the inner loop is contiguous.
    const std::size_t outer_axes = separator.empty() ? 0 : separator.size() - 1;
    const std::size_t length = separator.empty() ? 1 : static_cast<std::size_t>(graph_.sizes[separator.back()]);
    std::vector<const Source*> scalars, rows;
    for (const Source& source : bucket.sources)
        (separator.empty() || source.strides.back() == 0 ? scalars : rows).push_back(&source);
    std::vector<const double*> scalar_at, row_at;
    for (const Source* source : scalars) scalar_at.push_back(table(pass, *source).data());
    for (const Source* source : rows) row_at.push_back(table(pass, *source).data());
    std::vector<const double*> row(rows.size());
    std::vector<int> at(outer_axes, 0);
    const std::size_t options = static_cast<std::size_t>(graph_.sizes[variable]);
    const auto move = [&](std::size_t axis, std::ptrdiff_t steps) {
        for (std::size_t i = 0; i < scalars.size(); ++i)
            scalar_at[i] += steps * static_cast<std::ptrdiff_t>(scalars[i]->strides[1 + axis]);
        for (std::size_t i = 0; i < rows.size(); ++i)
            row_at[i] += steps * static_cast<std::ptrdiff_t>(rows[i]->strides[1 + axis]);
    };
    for (double* out = message.data();; out += length) {
        for (std::size_t o = 0; o < options; ++o) {
            double base = 0;
            for (std::size_t i = 0; i < scalars.size(); ++i) base += scalar_at[i][o * scalars[i]->strides[0]];
            for (std::size_t i = 0; i < rows.size(); ++i) row[i] = row_at[i] + o * rows[i]->strides[0];
            relax(out, length, base, row.data(), row.size());
        }
        std::size_t axis = outer_axes;
        while (axis-- > 0) {
            move(axis, 1);
            if (++at[axis] < graph_.sizes[separator[axis]]) break;
            move(axis, -graph_.sizes[separator[axis]]);
            at[axis] = 0;
        }
        if (axis == static_cast<std::size_t>(-1)) return;
    }
}

void Tree::excess(const Pass& pass, int variable, const Assignment& assignment, std::vector<double>& excess) const {
    const Bucket& bucket = buckets_[variable];
    const std::vector<int>& separator = elimination_->separator[variable];
    std::size_t offset = 0;
    for (std::size_t i = 0; i < separator.size(); ++i)
        offset += bucket.message_strides[i] * static_cast<std::size_t>(assignment[separator[i]]);
    excess.assign(graph_.sizes[variable], -pass.messages[variable][offset]);
    for (const Source& source : bucket.sources) {
        const double* entry = table(pass, source).data();
        for (std::size_t i = 0; i < separator.size(); ++i)
            entry += source.strides[1 + i] * static_cast<std::size_t>(assignment[separator[i]]);
        for (std::size_t o = 0; o < excess.size(); ++o) excess[o] += entry[o * source.strides[0]];
    }
    // The message was summed in another order: what is left of rounding must not count as negative.
    for (double& entry : excess) entry = std::max(entry, 0.0);
}

Assignment Tree::decode(const Pass& pass) const {
    Assignment assignment(buckets_.size(), 0);
    std::vector<double> above;
    for (const int variable : elimination_->preorder) {
        excess(pass, variable, assignment, above);
        assignment[variable] = static_cast<int>(std::min_element(above.begin(), above.end()) - above.begin());
    }
    return assignment;
}

std::vector<std::vector<double>> Tree::option_minima(const Pass& pass) const {
    std::vector<std::vector<double>> result(buckets_.size());
    std::vector<std::vector<double>> from_above(buckets_.size());
    double everywhere = 0;
    for (std::size_t v = 0; v < buckets_.size(); ++v)
        if (elimination_->separator[v].empty()) everywhere += pass.messages[v].front();
    for (const int variable : elimination_->preorder) {
        const Bucket& bucket = buckets_[variable];
        std::vector<int> shape{graph_.sizes[variable]};
        for (const int other : elimination_->separator[variable]) shape.push_back(graph_.sizes[other]);
        std::vector<double> belief(static_cast<std::size_t>(shape[0]) * bucket.message_size, 0.0);
        const auto add = [&](const std::vector<double>& values, const std::vector<std::size_t>& strides) {
            std::size_t entry = 0;
            for_each_entry(shape, strides, [&](std::size_t offset) { belief[entry++] += values[offset]; });
        };
        for (const Source& source : bucket.sources) add(table(pass, source), source.strides);
        if (shape.size() > 1) {
            std::vector<std::size_t> strides{0};
            strides.insert(strides.end(), bucket.message_strides.begin(), bucket.message_strides.end());
            add(from_above[variable], strides);
        } else {
            // A tree of its own: what the other trees cost is the same for every option.
            for (double& entry : belief) entry += everywhere - pass.messages[variable].front();
        }
        for (auto row = belief.begin(); row != belief.end(); row += static_cast<std::ptrdiff_t>(bucket.message_size))
            result[variable].push_back(*std::min_element(row, row + static_cast<std::ptrdiff_t>(bucket.message_size)));
        for (const Source& source : bucket.sources) {
            if (!source.message) continue;
            const std::vector<double>& up = pass.messages[source.index];
            std::vector<double>& down = from_above[source.index];
            down.assign(up.size(), kInfinity);
            std::size_t entry = 0;
            for_each_entry(shape, source.strides, [&](std::size_t offset) {
                down[offset] = std::min(down[offset], belief[entry++] - up[offset]);
            });
        }
    }
    return result;
}

}  // namespace workbench
