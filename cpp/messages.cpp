#include "messages.hpp"

#include <algorithm>
#include <cmath>

namespace workbench {
namespace {

constexpr int kMostSweeps = 40;
constexpr double kSettled = 1e-6;  // relative rise of the bound below which sweeping stops

double least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

}  // namespace

Messages::Messages(FactorGraph graph, Guard& guard)
    : graph_(std::move(graph)), guard_(guard), places_(graph_.sizes.size()), unary_(graph_.sizes.size()) {
    zeros_.assign(*std::max_element(graph_.sizes.begin(), graph_.sizes.end()), 0.0);
    for (std::size_t f = 0; f < graph_.factors.size(); ++f) {
        const std::vector<int>& scope = graph_.factors[f].scope;
        kept_.emplace_back();
        for (std::size_t s = 0; s < scope.size(); ++s) {
            kept_[f].emplace_back(graph_.sizes[scope[s]], 0.0);
            if (scope.size() > 1) places_[scope[s]].push_back({static_cast<int>(f), static_cast<int>(s)});
            else unary_[scope[s]].push_back(static_cast<int>(f));
        }
    }
}

void Messages::load(const std::vector<double>& weights) {
    if (weights == weights_) return;
    weights_ = weights;
    combined_ = combine(graph_, weights);
}

Messages::Pass Messages::minimise(const std::vector<double>& weights) {
    load(weights);
    Pass pass;
    pass.weights = weights;
    pass.moved = kept_;
    for (const int size : graph_.sizes) pass.left.emplace_back(size, 0.0);
    double bound = -kInfinity;
    for (int s = 0; s < kMostSweeps; ++s) {
        sweep(pass, true);
        pass.minimum = sweep(pass, false);
        if (pass.minimum - bound <= kSettled * std::abs(pass.minimum) || guard_.expired()) break;
        bound = pass.minimum;
    }
    kept_ = pass.moved;
    return pass;
}

std::array<Messages::Axis, 3> Messages::axes(const Pass& pass, Place place, const Assignment& fixed) const {
    const std::vector<int>& scope = graph_.factors[place.factor].scope;
    std::array<Axis, 3> axes;
    std::size_t stride = 1;
    for (std::size_t s = scope.size(), a = axes.size(); a-- > 0;) {
        axes[a].shift = zeros_.data();
        if (s == 0) continue;
        --s;
        const std::size_t size = static_cast<std::size_t>(graph_.sizes[scope[s]]);
        const bool own = static_cast<int>(s) == place.slot;
        const int held = fixed.empty() || own ? -1 : fixed[scope[s]];
        axes[a].stride = stride;
        axes[a].begin = held < 0 ? 0 : static_cast<std::size_t>(held);
        axes[a].end = held < 0 ? size : axes[a].begin + 1;
        axes[a].own = own;
        if (!own && held < 0) axes[a].shift = pass.moved[place.factor][s].data();
        stride *= size;
    }
    return axes;
}

void Messages::collect(const Pass& pass, Place place, const Assignment& fixed, std::vector<double>& minima) const {
    const auto [plane, line, entry] = axes(pass, place, fixed);
    const double* const table = combined_[place.factor].data();
    minima.assign(graph_.sizes[graph_.factors[place.factor].scope[place.slot]], kInfinity);
    for (std::size_t i = plane.begin; i < plane.end; ++i) {
        for (std::size_t j = line.begin; j < line.end; ++j) {
            const double base = plane.shift[i] + line.shift[j];
            const double* const row = table + i * plane.stride + j * line.stride;
            if (entry.own) {
                for (std::size_t k = entry.begin; k < entry.end; ++k) minima[k] = std::min(minima[k], base + row[k]);
            } else {
                double best = kInfinity;
                for (std::size_t k = entry.begin; k < entry.end; ++k) best = std::min(best, row[k] + entry.shift[k]);
                double& target = minima[plane.own ? i : j];
                target = std::min(target, base + best);
            }
        }
    }
}

std::vector<double> Messages::unary(int variable) const {
    std::vector<double> sum(graph_.sizes[variable], 0.0);
    for (const int f : unary_[variable])
        for (std::size_t o = 0; o < sum.size(); ++o) sum[o] += combined_[f][o];
    return sum;
}

double Messages::sweep(Pass& pass, bool forward) const {
    const int n = static_cast<int>(graph_.sizes.size());
    std::vector<double> minima;
    double bound = 0;
    for (int step = 0; step < n; ++step) {
        const int variable = forward ? step : n - 1 - step;
        std::vector<double>& left = pass.left[variable];
        left = unary(variable);
        int ahead = 0, behind = 0;
        std::vector<Place> onward;
        for (const Place place : places_[variable]) {
            const std::vector<int>& scope = graph_.factors[place.factor].scope;
            const auto [low, high] = std::minmax_element(scope.begin(), scope.end());
            const bool to_come = forward ? variable < *high : variable > *low;
            ahead += to_come;
            behind += forward ? variable > *low : variable < *high;
            if (to_come) onward.push_back(place);
            collect(pass, place, {}, minima);
            std::vector<double>& moved = pass.moved[place.factor][place.slot];
            for (std::size_t o = 0; o < left.size(); ++o) {
                left[o] += minima[o];
                moved[o] = -minima[o];
            }
        }
        const double smallest = least(left);
        bound += smallest;
        const double share = 1.0 / std::max({1, ahead, behind});
        std::vector<double> given(left.size());
        for (std::size_t o = 0; o < left.size(); ++o) given[o] = share * (left[o] - smallest);
        for (const Place place : onward) {
            std::vector<double>& moved = pass.moved[place.factor][place.slot];
            for (std::size_t o = 0; o < left.size(); ++o) {
                moved[o] += given[o];
                left[o] -= given[o];
            }
        }
    }
    return bound;
}

Assignment Messages::decode(const Pass& pass) {
    load(pass.weights);
    Assignment plan(graph_.sizes.size(), -1);
    std::vector<double> minima;
    for (std::size_t v = 0; v < plan.size(); ++v) {
        std::vector<double> total = unary(static_cast<int>(v));
        for (const Place place : places_[v]) {
            collect(pass, place, plan, minima);
            for (std::size_t o = 0; o < total.size(); ++o) total[o] += minima[o];
        }
        plan[v] = static_cast<int>(std::min_element(total.begin(), total.end()) - total.begin());
    }
    return plan;
}

std::vector<std::vector<double>> Messages::option_minima(const Pass& pass) {
    load(pass.weights);
    std::vector<std::vector<double>> result;
    std::vector<double> minima;
    for (std::size_t v = 0; v < graph_.sizes.size(); ++v) {
        // After a sweep the factors' own minima are 0, so all of the bound lies with the variables.
        result.push_back(pass.left[v]);
        std::vector<double>& total = result.back();
        const double elsewhere = pass.minimum - least(total);
        for (const Place place : places_[v]) {
            collect(pass, place, {}, minima);
            const std::vector<double>& moved = pass.moved[place.factor][place.slot];
            for (std::size_t o = 0; o < total.size(); ++o) total[o] += minima[o] + moved[o];
        }
        for (double& entry : total) entry += elsewhere;
    }
    return result;
}

}  // namespace workbench
