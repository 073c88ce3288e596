#include "elimination.hpp"

#include <algorithm>
#include <iterator>
#include <set>

namespace workbench {
namespace {

using Neighbours = std::vector<std::vector<int>>;  // sorted

Neighbours coupling(const Model& model) {
    Neighbours neighbours(model.sizes.size());
    const auto join = [&](const Functional& functional) {
        for (const Term& term : functional.terms)
            for (const int a : term.scope)
                for (const int b : term.scope)
                    if (a != b) neighbours[a].push_back(b);
    };
    join(model.objective);
    for (const Functional& constraint : model.constraints) join(constraint);
    for (std::vector<int>& around : neighbours) {
        std::sort(around.begin(), around.end());
        around.erase(std::unique(around.begin(), around.end()), around.end());
    }
    return neighbours;
}

double entries(const std::vector<int>& around, const std::vector<int>& sizes, int variable) {
    double product = sizes[variable];
    for (const int other : around) product *= sizes[other];
    return product;
}

// The variable goes, and its neighbours become neighbours of each other.
void contract(Neighbours& neighbours, int variable) {
    const std::vector<int> around = std::move(neighbours[variable]);
    neighbours[variable].clear();
    for (const int a : around) {
        std::vector<int> both;
        std::set_union(neighbours[a].begin(), neighbours[a].end(), around.begin(), around.end(),
                       std::back_inserter(both));
        const auto gone = [&](int b) { return b == a || b == variable; };
        both.erase(std::remove_if(both.begin(), both.end(), gone), both.end());
        neighbours[a] = std::move(both);
    }
}

void link(Elimination& result) {
    const std::size_t n = result.order.size();
    std::vector<std::vector<int>> children(n);
    std::vector<int> roots;
    // Strahler numbers: how many variables stay open at once when the subtrees are visited in rising order.
    std::vector<int> open(n, 1);
    result.parent.assign(n, -1);
    for (const int variable : result.order) {
        std::vector<int>& below = children[variable];
        std::stable_sort(below.begin(), below.end(), [&](int a, int b) { return open[a] < open[b]; });
        if (!below.empty()) open[variable] = open[below.back()];
        if (below.size() > 1) open[variable] = std::max(open[variable], 1 + open[below[below.size() - 2]]);
        std::vector<int>& separator = result.separator[variable];
        std::sort(separator.begin(), separator.end(),
                  [&](int a, int b) { return result.position[a] < result.position[b]; });
        if (separator.empty()) roots.push_back(variable);
        else children[result.parent[variable] = separator.front()].push_back(variable);
    }
    for (std::vector<int> stack(roots.rbegin(), roots.rend()); !stack.empty();) {
        const int variable = stack.back();
        stack.pop_back();
        result.preorder.push_back(variable);
        stack.insert(stack.end(), children[variable].rbegin(), children[variable].rend());
    }
}

}  // namespace

Elimination eliminate(const Model& model) {
    Neighbours neighbours = coupling(model);
    const int n = static_cast<int>(model.sizes.size());
    Elimination result;
    result.position.assign(n, -1);
    result.separator.resize(n);
    std::set<std::pair<double, int>> queue;
    std::vector<double> score;
    for (int v = 0; v < n; ++v) {
        score.push_back(entries(neighbours[v], model.sizes, v));
        queue.emplace(score[v], v);
    }
    while (!queue.empty()) {
        const int variable = queue.begin()->second;
        queue.erase(queue.begin());
        result.position[variable] = static_cast<int>(result.order.size());
        result.order.push_back(variable);
        result.separator[variable] = neighbours[variable];
        contract(neighbours, variable);
        for (const int other : result.separator[variable]) {
            queue.erase({score[other], other});
            score[other] = entries(neighbours[other], model.sizes, other);
            queue.emplace(score[other], other);
        }
    }
    link(result);
    return result;
}

double tree_entries(const Elimination& elimination, const std::vector<int>& sizes) {
    double sum = 0;
    for (const int variable : elimination.order) {
        double product = sizes[variable];
        for (const int other : elimination.separator[variable]) product *= sizes[other];
        sum += product;
    }
    return sum;
}

}  // namespace workbench
