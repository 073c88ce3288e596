#include "node.hpp"

#include <algorithm>
#include <cmath>

namespace workbench {

std::size_t bytes(const Node& node) {
    std::size_t sum = sizeof(Node);
    for (const std::vector<int>& domain : node.domains) sum += sizeof(std::vector<int>) + domain.size() * sizeof(int);
    for (const Assignment& seed : node.seeds) sum += sizeof(std::vector<int>) + seed.size() * sizeof(int);
    return sum;
}

Domains whole(const std::vector<int>& sizes) {
    Domains domains;
    for (const int size : sizes) {
        domains.emplace_back();
        for (int o = 0; o < size; ++o) domains.back().push_back(o);
    }
    return domains;
}

std::size_t count(const Domains& domains) {
    std::size_t sum = 0;
    for (const std::vector<int>& domain : domains) sum += domain.size();
    return sum;
}

Assignment widened(const Domains& domains, Assignment plan) {
    for (std::size_t v = 0; v < plan.size(); ++v) plan[v] = domains[v][plan[v]];
    return plan;
}

std::vector<Assignment> narrowed(const Domains& domains, const std::vector<Assignment>& plans) {
    std::vector<Assignment> inside;
    for (Assignment plan : plans) {
        std::size_t v = 0;
        for (; v < plan.size(); ++v) {
            const auto at = std::lower_bound(domains[v].begin(), domains[v].end(), plan[v]);
            if (at == domains[v].end() || *at != plan[v]) break;
            plan[v] = static_cast<int>(at - domains[v].begin());
        }
        if (v == plan.size()) inside.push_back(std::move(plan));
    }
    return inside;
}

std::pair<Domains, Domains> split(const Node& node, const std::vector<double>& weights, const std::vector<int>& sizes) {
    constexpr double kAgree = 1e-9;
    std::size_t chosen = 0;
    double widest = -1, mean_there = 0;
    for (std::size_t v = 0; v < node.domains.size(); ++v) {
        const std::vector<int>& domain = node.domains[v];
        if (domain.size() < 2) continue;
        double mean = 0, spread = 0;
        for (std::size_t s = 0; s < weights.size(); ++s) mean += weights[s] * node.seeds[s][v];
        for (std::size_t s = 0; s < weights.size(); ++s) spread += weights[s] * std::abs(node.seeds[s][v] - mean);
        spread /= sizes[v];
        if (spread < kAgree) {
            mean = domain[domain.size() / 2 - 1];
            spread = kAgree * static_cast<double>(domain.size()) / sizes[v];
        }
        if (spread > widest) {
            widest = spread;
            chosen = v;
            mean_there = mean;
        }
    }
    const std::vector<int>& domain = node.domains[chosen];
    auto middle = std::upper_bound(domain.begin(), domain.end(), mean_there, [](double a, int b) { return a < b; });
    middle = std::clamp(middle, domain.begin() + 1, domain.end() - 1);
    std::pair<Domains, Domains> parts{node.domains, node.domains};
    parts.first[chosen].assign(domain.begin(), middle);
    parts.second[chosen].assign(middle, domain.end());
    return parts;
}

}  // namespace workbench
