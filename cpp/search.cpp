#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <queue>
#include <stdexcept>
#include <string>

#include "dual.hpp"
#include "improve.hpp"
#include "labels.hpp"
#include "messages.hpp"
#include "node.hpp"

namespace workbench {
namespace {

constexpr double kRounding = 1e-12;  // relative; sums in another order differ by less
constexpr double kFirstWindow = 1e-9;  // of the bound
constexpr std::size_t kFewLabels = 1000;  // these cost less than the passes: the window may grow faster
// Above so many labels at once branching is faster. Dominance is weaker with several constraints.
constexpr std::size_t kMostLabels = 10'000;
constexpr std::size_t kMostLabelsSeveral = 500;
constexpr double kTreeEntries = 4e6;  // a pass over a larger tree takes longer than messages
constexpr double kShrunk = 0.8;  // of the options left: worth another look before branching
constexpr std::size_t kLooksRoot = 100'000'000;  // of the local search: some tenths of a second
constexpr std::size_t kLooks = 1'000'000;
constexpr std::size_t kMostRemembered = 300;
constexpr std::size_t kLabelBytes = 1000;  // with the candidates it is chosen from
constexpr std::size_t kHistoryBytes = 6;  // a label and variable

class Search {
public:
    Search(Model model, const Limits& limits)
        : model_(std::move(model)),
          limits_(limits),
          elimination_(eliminate(model_)),
          graph_(merge(model_, elimination_.position)),
          scale_(largest_values(graph_)[0]) {}

    Solution run() {
        Guard guard(limits_.seconds, limits_.poll);
        guard_ = &guard;
        solution_ = {};
        open_ = {};
        open_bytes_ = numbered_ = 0;
        for (const Assignment& plan : pool_) offer(plan);
        push({0, 0, whole(model_.sizes), pool_});
        while (!open_.empty() && open_.top().bound < cutoff() && open_bytes_ < limits_.bytes / 2 && !guard.expired()) {
            const Node node = open_.top();
            open_.pop();
            open_bytes_ -= bytes(node);
            visit(node);
        }
        if (!solution_.best.empty()) remember(solution_.best);
        solution_.bound = solution_.value;
        if (!open_.empty()) solution_.bound = std::min(solution_.value, open_.top().bound + model_.objective.constant);
        return solution_;
    }

    void set_limit(std::size_t constraint, double limit) {
        model_.constraints[constraint].limit = limit;
        graph_.limits[constraint] = limit - model_.constraints[constraint].constant;
    }

private:
    void branch(Node node, const std::vector<double>& weights) {
        auto [lower, upper] = split(node, weights, model_.sizes);
        push({node.bound, ++numbered_, std::move(lower), node.seeds});
        push({node.bound, ++numbered_, std::move(upper), std::move(node.seeds)});
    }

    void push(Node node) {
        open_bytes_ += bytes(node);
        open_.push(std::move(node));
    }

    // A plan is only worth finding below this; constants are left out.
    double cutoff() const {
        if (solution_.best.empty()) return kInfinity;
        return solution_.value - model_.objective.constant - kRounding * solution_.value;
    }

    bool offer(const Assignment& plan) {
        if (!feasible(model_, plan)) return false;
        const double reached = value(model_.objective, model_.sizes, plan);
        if (solution_.best.empty() || reached < solution_.value) {
            solution_.value = reached;
            solution_.best = plan;
        }
        return true;
    }

    void visit(const Node& node) {
        if (count(node.domains) == node.domains.size()) {
            offer(widened(node.domains, Assignment(node.domains.size(), 0)));
            return;
        }
        FactorGraph graph = restrict(graph_, node.domains);
        const double passes = static_cast<double>(graph.limits.size()) + 4;  // that are held at a time
        const double fit = static_cast<double>(limits_.bytes) / 2 / sizeof(double) / passes;
        if (tree_entries(elimination_, graph.sizes) <= std::min(kTreeEntries, fit)) {
            Tree tree(std::move(graph), elimination_);
            bound(tree, node);
        } else {
            Messages messages(std::move(graph), *guard_);
            bound(messages, node);
        }
    }

    template <typename Relaxation>
    void bound(Relaxation& relaxation, const Node& node) {
        const auto dual = solve_dual(relaxation, narrowed(node.domains, node.seeds), cutoff(), *guard_);
        for (const Assignment& plan : dual.plans) offer(widened(node.domains, plan));
        if (node.number == 0)
            for (const Assignment& plan : dual.plans) remember(widened(node.domains, plan));
        Node next{std::max(node.bound, dual.bound), node.number, node.domains, {}};
        if (!dual.reachable || close(relaxation, dual, next)) return;
        filter(relaxation.option_minima(dual.pass), relaxation.graph(), dual.pass.weights, next.domains);
        if (std::any_of(next.domains.begin(), next.domains.end(), [](const auto& d) { return d.empty(); })) return;
        std::vector<double> weights;
        for (const auto& [plan, weight] : dual.mixture) {
            next.seeds.push_back(widened(node.domains, dual.plans[plan]));
            weights.push_back(weight);
        }
        const double shrunk = static_cast<double>(count(next.domains)) / static_cast<double>(count(node.domains));
        if (shrunk < kShrunk) push(std::move(next));
        else branch(std::move(next), weights);
    }

    void remember(const Assignment& plan) {
        if (pool_.size() < kMostRemembered && std::find(pool_.begin(), pool_.end(), plan) == pool_.end())
            pool_.push_back(plan);
    }

    // Enumerates below a rising target until the best plan of the node is known. False: too many labels.
    bool close(const Tree& tree, const Dual<Tree::Pass>& dual, Node& node) {
        const FactorGraph& graph = tree.graph();
        std::vector<double> weights(graph.constants.size(), 0.0);
        weights[0] = 1;
        const Tree::Pass unpriced = tree.minimise(weights);
        const std::size_t useful = graph.limits.size() > 1 ? kMostLabelsSeveral : kMostLabels;
        const std::size_t label_bytes = kLabelBytes + kHistoryBytes * node.domains.size();
        const std::size_t most = std::min(useful, limits_.bytes / 2 / label_bytes);
        double window = kFirstWindow * std::abs(dual.bound) + kRounding * scale_;
        while (node.bound < cutoff()) {
            const double target = std::min(cutoff(), dual.bound + window);
            std::vector<Gauge> gauges{{&dual.pass, target - dual.bound}};
            for (std::size_t k = 0; k < graph.limits.size(); ++k) {
                const double room = graph.limits[k] - dual.cheapest[k].minimum;
                gauges.push_back({&dual.cheapest[k], room + kRounding * std::abs(graph.limits[k])});
            }
            gauges.push_back({&unpriced, target - unpriced.minimum});
            const auto accept = [&](const Assignment& plan) { return offer(widened(node.domains, plan)); };
            const std::size_t labels = enumerate(tree, elimination_, gauges, most, accept, *guard_);
            if (labels > most) return false;
            node.bound = target > scale_ ? kInfinity : std::max(node.bound, target);
            window *= labels < kFewLabels ? 4 : 2;
        }
        return true;
    }

    // Nothing enumerates without a tree: better plans are searched for instead.
    bool close(const Messages& messages, const Dual<Messages::Pass>& dual, const Node& node) {
        const std::size_t looks = node.number == 0 ? kLooksRoot : kLooks;
        for (const auto& [plan, weight] : dual.mixture)
            offer(widened(node.domains, improve(messages.graph(), dual.plans[plan], looks, *guard_)));
        return node.bound >= cutoff();
    }

    // Takes out options that no plan below the cutoff can have.
    void filter(const std::vector<std::vector<double>>& minima, const FactorGraph& graph,
                const std::vector<double>& weights, Domains& domains) const {
        double most = cutoff();
        for (std::size_t k = 0; k < graph.limits.size(); ++k) most += weights[k + 1] * graph.limits[k];
        most += kRounding * (std::abs(most) + scale_);
        for (std::size_t v = 0; v < domains.size(); ++v) {
            std::vector<int> kept;
            for (std::size_t o = 0; o < domains[v].size(); ++o)
                if (minima[v][o] <= most) kept.push_back(domains[v][o]);
            domains[v] = std::move(kept);
        }
    }

    Model model_;
    const Limits& limits_;
    const Elimination elimination_;
    FactorGraph graph_;
    const double scale_;
    Guard* guard_ = nullptr;
    std::priority_queue<Node> open_;
    std::size_t open_bytes_ = 0;
    std::size_t numbered_ = 0;
    std::vector<Assignment> pool_;  // plans met at the root, for the next budget to start from
    Solution solution_;
};

void check(const Limits& limits) {
    if (!(limits.seconds >= 0))
        throw std::invalid_argument("the time limit is " + std::to_string(limits.seconds) + " s; it must be 0 or more");
}

}  // namespace

Solution solve(Model model, const Limits& limits) {
    check(model);
    check(limits);
    return Search(std::move(model), limits).run();
}

std::vector<Solution> sweep(Model model, std::size_t constraint, const std::vector<double>& constraint_limits,
                            const Limits& limits) {
    check(model);
    check(limits);
    if (constraint >= model.constraints.size())
        throw std::invalid_argument("constraint " + std::to_string(constraint) + " of " +
                                    std::to_string(model.constraints.size()) + " does not exist");
    for (const double limit : constraint_limits)
        if (std::isnan(limit)) throw std::invalid_argument("a limit of the sweep is NaN; give numbers");
    Search search(std::move(model), limits);
    std::vector<Solution> solutions;
    for (const double limit : constraint_limits) {
        search.set_limit(constraint, limit);
        solutions.push_back(search.run());
    }
    return solutions;
}

}  // namespace workbench
