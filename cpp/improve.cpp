#include "improve.hpp"

#include <algorithm>

namespace workbench {
namespace {

// A plan together with what every single change of it would bring.
class Neighbourhood {
public:
    Neighbourhood(const FactorGraph& graph, Assignment plan)
        : graph_(graph), plan_(std::move(plan)), functionals_(graph.constants.size()), around_(graph.sizes.size()) {
        for (std::size_t f = 0; f < graph.factors.size(); ++f)
            for (const int v : graph.factors[f].scope) around_[v].push_back(static_cast<int>(f));
        values_ = graph.values(plan_);
        for (const int size : graph.sizes)
            with_.emplace_back(static_cast<std::size_t>(size) * functionals_, 0.0);
        for (const Factor& factor : graph.factors) add(factor, 1.0);
    }

    const Assignment& plan() const { return plan_; }
    const std::vector<double>& values() const { return values_; }

    // What functional k would change by if `variable` took `option`.
    double change(std::size_t k, int variable, int option) const {
        const std::vector<double>& with = with_[variable];
        return with[option * functionals_ + k] - with[plan_[variable] * functionals_ + k];
    }

    void move(int variable, int option) {
        for (std::size_t k = 0; k < functionals_; ++k) values_[k] += change(k, variable, option);
        for (const int f : around_[variable]) add(graph_.factors[f], -1.0);
        plan_[variable] = option;
        for (const int f : around_[variable]) add(graph_.factors[f], 1.0);
    }

private:
    // Adds the factor's entries at every option of each of its variables, the others as planned.
    void add(const Factor& factor, double sign) {
        for (std::size_t s = 0; s < factor.scope.size(); ++s) {
            std::size_t base = 0, stride = 1, own = 0;
            for (std::size_t i = factor.scope.size(); i-- > 0;) {
                if (i == s) own = stride;
                else base += stride * static_cast<std::size_t>(plan_[factor.scope[i]]);
                stride *= static_cast<std::size_t>(graph_.sizes[factor.scope[i]]);
            }
            std::vector<double>& with = with_[factor.scope[s]];
            for (std::size_t k = 0; k < functionals_; ++k) {
                if (factor.tables[k].empty()) continue;
                for (std::size_t o = 0; o * functionals_ < with.size(); ++o)
                    with[o * functionals_ + k] += sign * factor.tables[k][base + o * own];
            }
        }
    }

    const FactorGraph& graph_;
    Assignment plan_;
    std::size_t functionals_;
    std::vector<std::vector<int>> around_;
    std::vector<double> values_;
    std::vector<std::vector<double>> with_;  // by variable: (option, functional)
};

struct Move {
    int variable = -1;
    int option = 0;
    double score = 0;
};

class Improver {
public:
    Improver(const FactorGraph& graph, Assignment plan, std::size_t most_looks, Guard& guard)
        : graph_(graph), most_looks_(most_looks), guard_(guard), at_(graph, std::move(plan)) {}

    Assignment run() {
        repair();
        descend();
        const int n = static_cast<int>(graph_.sizes.size());
        for (int v = 0, idle = 0; idle < n && looks_ < most_looks_ && !guard_.expired(); v = (v + 1) % n) {
            ++idle;
            while (exchange(v)) {
                descend();
                idle = 0;
            }
        }
        return at_.plan();
    }

private:
    bool fits(const Move& move) const {
        for (std::size_t k = 0; k < graph_.limits.size(); ++k)
            if (at_.values()[k + 1] + at_.change(k + 1, move.variable, move.option) > graph_.limits[k]) return false;
        return true;
    }

    double excess(const Move& move) const {
        double total = 0;
        for (std::size_t k = 0; k < graph_.limits.size(); ++k) {
            const double change = move.variable < 0 ? 0 : at_.change(k + 1, move.variable, move.option);
            const double over = at_.values()[k + 1] + change - graph_.limits[k];
            total += std::max(0.0, over) / (graph_.limits[k] > 0 ? graph_.limits[k] : 1);
        }
        return total;
    }

    template <typename Score>
    Move best(Score score) {
        Move chosen;
        for (int v = 0; v < static_cast<int>(graph_.sizes.size()); ++v) {
            looks_ += static_cast<std::size_t>(graph_.sizes[v]);
            for (int o = 0; o < graph_.sizes[v]; ++o) {
                if (o == at_.plan()[v]) continue;
                Move move{v, o, 0};
                move.score = score(move);
                if (move.score < chosen.score) chosen = move;
            }
        }
        return chosen;
    }

    // The change that loses least for the excess it takes away, until none is left.
    void repair() {
        for (double over = excess({}); over > 0 && !guard_.expired(); over = excess({})) {
            const Move move = best([&](const Move& m) {
                const double taken = over - excess(m);
                return taken > 0 ? -taken / (1e-9 + std::max(0.0, at_.change(0, m.variable, m.option))) : 0;
            });
            if (move.variable < 0) return;
            at_.move(move.variable, move.option);
        }
    }

    Move best_descent(double least) {
        return best([&](const Move& m) {
            const double change = at_.change(0, m.variable, m.option);
            return change < -least && fits(m) ? change : 0.0;
        });
    }

    void descend() {
        for (;;) {
            const Move move = best_descent(1e-12 * at_.values()[0]);
            if (move.variable < 0 || guard_.expired()) return;
            at_.move(move.variable, move.option);
        }
    }

    // Gives up something at one variable for more at another.
    bool exchange(int variable) {
        const double least = 1e-12 * at_.values()[0];
        const int before = at_.plan()[variable];
        for (int o = 0; o < graph_.sizes[variable]; ++o) {
            const double loss = at_.change(0, variable, o);
            if (guard_.expired()) return false;
            if (o == before || loss < 0) continue;
            at_.move(variable, o);
            const Move second = best_descent(loss + least);
            if (second.variable >= 0 && second.variable != variable) {
                at_.move(second.variable, second.option);
                return true;
            }
            at_.move(variable, before);
        }
        return false;
    }

    const FactorGraph& graph_;
    const std::size_t most_looks_;
    std::size_t looks_ = 0;
    Guard& guard_;
    Neighbourhood at_;
};

}  // namespace

Assignment improve(const FactorGraph& graph, Assignment plan, std::size_t most_looks, Guard& guard) {
    return Improver(graph, std::move(plan), most_looks, guard).run();
}

}  // namespace workbench
