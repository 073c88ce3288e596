#include "labels.hpp"

#include <algorithm>
#include <cstdint>

namespace workbench {
namespace {

constexpr std::size_t kCandidates = 4;  // before dominated ones go, for each that may be left
constexpr double kMostKeys = 9e18;  // keys are 64-bit

struct Label {
    std::uint64_t key;     // the options of the frontier, in mixed radix
    double objective;      // above a constant
    std::uint32_t number;  // of its entries in Labels::above
    std::uint32_t parent;
    std::uint16_t option;
};

struct Labels {
    std::vector<Label> all;
    std::vector<double> above;  // how far above each gauge's minimum; one entry a gauge
};

// What is needed to read a plan back: one a variable that had more than one option.
struct Step {
    int variable;
    std::vector<std::uint32_t> parent;
    std::vector<std::uint16_t> option;
};

// Merges the sorted runs that it finds. The labels of one option come out sorted, so that the runs are few.
template <typename Less>
void sort_runs(std::vector<Label>& labels, Less less) {
    std::vector<std::ptrdiff_t> starts{0};
    const auto begin = labels.begin();
    for (auto at = begin; at != labels.end();) {
        at = std::is_sorted_until(at, labels.end(), less);
        starts.push_back(at - begin);
    }
    while (starts.size() > 2) {
        std::vector<std::ptrdiff_t> merged{0};
        for (std::size_t i = 2; i < starts.size(); i += 2) {
            std::inplace_merge(begin + starts[i - 2], begin + starts[i - 1], begin + starts[i], less);
            merged.push_back(starts[i]);
        }
        if (merged.back() != starts.back()) merged.push_back(starts.back());
        starts = std::move(merged);
    }
}

class Enumerator {
public:
    Enumerator(const Tree& tree, const Elimination& elimination, const std::vector<Gauge>& gauges, Guard& guard)
        : tree_(tree),
          elimination_(elimination),
          gauges_(gauges),
          guard_(guard),
          constraints_(tree.graph().limits.size()),
          plan_(elimination.order.size(), 0),
          excess_(gauges.size()) {
        now_.all.push_back({0, 0.0, 0, 0, 0});
        now_.above.assign(gauges.size(), 0.0);
    }

    std::size_t run(std::size_t most_labels) {
        const std::vector<int> order = visiting_order();
        std::vector<std::size_t> last(plan_.size(), 0);  // the step after which a variable is no longer seen
        for (std::size_t t = 0; t < plan_.size(); ++t)
            for (const int other : elimination_.separator[order[t]]) last[other] = t;
        std::size_t widest = 0;
        for (std::size_t t = 0; t < plan_.size(); ++t) {
            const int variable = order[t];
            std::vector<int> next;
            double keys = 1;
            for (const int other : frontier_)
                if (last[other] > t) next.push_back(other);
            if (last[variable] > t) next.push_back(variable);
            for (const int other : next) keys *= tree_.graph().sizes[other];
            if (keys > kMostKeys || guard_.expired()) return most_labels + 1;
            if (settle(variable, next)) continue;
            if (!extend(variable, next, most_labels)) return most_labels + 1;
            if (now_.all.empty()) return widest;
            widest = std::max(widest, now_.all.size());
            frontier_ = next;
        }
        return widest;
    }

    void hand_out(const std::function<bool(const Assignment&)>& accept) {
        std::stable_sort(now_.all.begin(), now_.all.end(),
                         [](const Label& a, const Label& b) { return a.objective < b.objective; });
        for (const Label& label : now_.all) {
            std::uint32_t at = label.number;
            for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
                plan_[step->variable] = step->option[at];
                at = step->parent[at];
            }
            if (accept(plan_)) return;
        }
    }

private:
    // The tree's own order, but separate trees by falling cost of their root's second-best option: what is nearly
    // decided goes first, so that the labels stay few until the end.
    std::vector<int> visiting_order() {
        struct Part {
            double regret;
            std::vector<int> variables;
        };
        std::vector<Part> parts;
        for (const int variable : elimination_.preorder) {
            if (elimination_.parent[variable] < 0) {
                measure(variable);
                std::vector<double> excess = excess_[0];
                if (excess.size() > 1) std::nth_element(excess.begin(), excess.begin() + 1, excess.end());
                parts.push_back({excess.size() > 1 ? excess[1] : kInfinity, {}});
            }
            parts.back().variables.push_back(variable);
        }
        std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.regret > b.regret; });
        std::vector<int> order;
        for (const Part& part : parts) order.insert(order.end(), part.variables.begin(), part.variables.end());
        return order;
    }

    void measure(int variable) {
        for (std::size_t g = 0; g < gauges_.size(); ++g)
            tree_.excess(*gauges_[g].pass, variable, plan_, excess_[g]);
    }

    bool possible(std::size_t option, const double* above) const {
        for (std::size_t g = 0; g < gauges_.size(); ++g)
            if (above[g] + excess_[g][option] > gauges_[g].allowance) return false;
        return true;
    }

    // The least that any label from `begin` to `end` is above each gauge.
    std::vector<double> least(std::size_t begin, std::size_t end) const {
        const std::size_t m = gauges_.size();
        std::vector<double> least(m, kInfinity);
        for (std::size_t l = begin; l < end; ++l)
            for (std::size_t g = 0; g < m; ++g) least[g] = std::min(least[g], now_.above[l * m + g]);
        return least;
    }

    // A variable that nothing else sees and that can only take one option changes no label's place among the others.
    bool settle(int variable, const std::vector<int>& next) {
        if (!frontier_.empty() || !next.empty()) return false;
        measure(variable);
        const std::vector<double> start = least(0, now_.all.size());
        std::size_t only = 0, count = 0;
        for (std::size_t o = 0; o < excess_[0].size(); ++o)
            if (possible(o, start.data())) {
                only = o;
                ++count;
            }
        if (count != 1) return false;
        plan_[variable] = static_cast<int>(only);
        for (std::size_t l = 0; l < now_.above.size(); ++l) now_.above[l] += excess_[l % gauges_.size()][only];
        return true;
    }

    bool extend(int variable, const std::vector<int>& next, std::size_t most) {
        const std::vector<int>& sizes = tree_.graph().sizes;
        const std::size_t m = gauges_.size();
        Labels raw;
        for (std::size_t begin = 0, end = 0; begin < now_.all.size(); begin = end) {
            while (end < now_.all.size() && now_.all[end].key == now_.all[begin].key) ++end;
            std::uint64_t key = now_.all[begin].key;
            for (std::size_t i = frontier_.size(); i-- > 0; key /= static_cast<std::uint64_t>(sizes[frontier_[i]]))
                plan_[frontier_[i]] = static_cast<int>(key % static_cast<std::uint64_t>(sizes[frontier_[i]]));
            measure(variable);
            const std::vector<double> start = least(begin, end);
            for (std::size_t o = 0; o < excess_[0].size(); ++o) {
                if (!possible(o, start.data())) continue;
                plan_[variable] = static_cast<int>(o);
                std::uint64_t successor = 0;
                for (const int other : next)
                    successor = successor * static_cast<std::uint64_t>(sizes[other]) +
                                static_cast<std::uint64_t>(plan_[other]);
                for (std::size_t l = begin; l < end; ++l) {
                    const double* above = now_.above.data() + l * m;
                    if (!possible(o, above)) continue;
                    const auto number = static_cast<std::uint32_t>(raw.all.size());
                    for (std::size_t g = 0; g < m; ++g) raw.above.push_back(above[g] + excess_[g][o]);
                    const double* fresh = raw.above.data() + number * m;
                    raw.all.push_back({successor, objective(fresh), number, static_cast<std::uint32_t>(l),
                                       static_cast<std::uint16_t>(o)});
                }
                if (raw.all.size() > kCandidates * most) return false;
            }
        }
        thin(raw, variable);
        return now_.all.size() <= most;
    }

    double objective(const double* above) const {
        double objective = above[0];
        for (std::size_t k = 0; k < constraints_; ++k) objective -= gauges_[0].pass->weights[1 + k] * above[1 + k];
        return objective;
    }

    // Taken by rising objective, a label can only be beaten by one that was kept before it, and of those only the ones
    // matter whose constraint values are not beaten themselves: `front`.
    void thin(Labels& raw, int variable) {
        const std::size_t m = gauges_.size();
        const auto used = [&](const Label& label) { return raw.above.data() + label.number * m + 1; };
        sort_runs(raw.all, [&](const Label& a, const Label& b) {
            if (a.key != b.key) return a.key < b.key;
            if (a.objective != b.objective) return a.objective < b.objective;
            const auto [x, y] = std::mismatch(used(a), used(a) + constraints_, used(b));
            return x == used(a) + constraints_ ? a.number < b.number : *x < *y;
        });
        Step step{variable, {}, {}};
        now_.all.clear();
        now_.above.clear();
        std::vector<const Label*> front;
        const auto beats = [&](const Label* a, const Label* b) {
            return std::equal(used(*a), used(*a) + constraints_, used(*b), std::less_equal<double>());
        };
        for (const Label& label : raw.all) {
            if (!front.empty() && front.front()->key != label.key) front.clear();
            if (std::any_of(front.begin(), front.end(), [&](const Label* a) { return beats(a, &label); })) continue;
            front.erase(std::remove_if(front.begin(), front.end(), [&](const Label* a) { return beats(&label, a); }),
                        front.end());
            front.push_back(&label);
            const auto number = static_cast<std::uint32_t>(now_.all.size());
            now_.all.push_back({label.key, label.objective, number, 0, 0});
            now_.above.insert(now_.above.end(), used(label) - 1, used(label) - 1 + m);
            step.parent.push_back(label.parent);
            step.option.push_back(label.option);
        }
        steps_.push_back(std::move(step));
    }

    const Tree& tree_;
    const Elimination& elimination_;
    const std::vector<Gauge>& gauges_;
    Guard& guard_;
    std::size_t constraints_;
    Assignment plan_;
    std::vector<std::vector<double>> excess_;  // by gauge and option, of the variable at hand
    std::vector<int> frontier_;                // set variables that later ones see
    Labels now_;
    std::vector<Step> steps_;
};

}  // namespace

std::size_t enumerate(const Tree& tree, const Elimination& elimination, const std::vector<Gauge>& gauges,
                      std::size_t most_labels, const std::function<bool(const Assignment&)>& accept, Guard& guard) {
    Enumerator enumerator(tree, elimination, gauges, guard);
    const std::size_t labels = enumerator.run(most_labels);
    if (labels <= most_labels) enumerator.hand_out(accept);
    return labels;
}

}  // namespace workbench
