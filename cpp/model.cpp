#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace workbench {
namespace {

constexpr std::size_t kMostVariables = 3;
constexpr int kMostOptions = 65'535;  // option numbers are kept in 16 bits while searching

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void check_scope(const Term& term, const std::vector<int>& sizes, const std::string& where) {
    if (term.scope.empty() || term.scope.size() > kMostVariables)
        refuse(where + " depends on " + std::to_string(term.scope.size()) + " variables; it must be one to three");
    std::size_t entries = 1;
    for (std::size_t i = 0; i < term.scope.size(); ++i) {
        const int variable = term.scope[i];
        if (variable < 0 || variable >= static_cast<int>(sizes.size()))
            refuse(where + " names variable " + std::to_string(variable) + " of " + std::to_string(sizes.size()));
        if (std::count(term.scope.begin(), term.scope.end(), variable) > 1)
            refuse(where + " names variable " + std::to_string(variable) + " twice");
        entries *= static_cast<std::size_t>(sizes[variable]);
    }
    if (entries != term.table.size())
        refuse(where + " has " + std::to_string(term.table.size()) + " entries and needs " + std::to_string(entries));
}

void check_functional(const Functional& functional, const std::vector<int>& sizes, const std::string& name) {
    for (std::size_t i = 0; i < functional.terms.size(); ++i) {
        const std::string where = "term " + std::to_string(i) + " of the " + name;
        check_scope(functional.terms[i], sizes, where);
        for (const double entry : functional.terms[i].table)
            if (!std::isfinite(entry) || entry < 0)
                refuse(where + " holds the entry " + std::to_string(entry) + "; all must be finite and >= 0");
    }
    if (!std::isfinite(functional.constant) || functional.constant < 0)
        refuse("the " + name + " has the constant " + std::to_string(functional.constant) +
               "; it must be finite and >= 0");
    if (std::isnan(functional.limit)) refuse("the " + name + " has the limit NaN; give a number");
}

}  // namespace

void check(const Model& model) {
    if (model.sizes.empty()) refuse("the problem has no variables; give at least one");
    for (const int size : model.sizes)
        if (size < 1 || size > kMostOptions)
            refuse("a variable has " + std::to_string(size) + " options; give 1 to " + std::to_string(kMostOptions));
    check_functional(model.objective, model.sizes, "objective");
    for (std::size_t k = 0; k < model.constraints.size(); ++k)
        check_functional(model.constraints[k], model.sizes, "constraint " + std::to_string(k));
}

double value(const Functional& functional, const std::vector<int>& sizes, const Assignment& assignment) {
    double total = functional.constant;
    for (const Term& term : functional.terms) {
        std::size_t index = 0;
        for (const int variable : term.scope)
            index = index * static_cast<std::size_t>(sizes[variable]) + static_cast<std::size_t>(assignment[variable]);
        total += term.table[index];
    }
    return total;
}

bool feasible(const Model& model, const Assignment& assignment) {
    return std::all_of(model.constraints.begin(), model.constraints.end(), [&](const Functional& constraint) {
        return value(constraint, model.sizes, assignment) <= constraint.limit;
    });
}

}  // namespace workbench
