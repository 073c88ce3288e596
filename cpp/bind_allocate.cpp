#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.hpp"
#include "search.hpp"

namespace py = pybind11;

namespace workbench {
namespace {

using PyTerm = std::pair<std::vector<int>, py::array>;
using Shape = std::vector<py::ssize_t>;

// A functional whose tables' shapes have yet to be compared with the variables' sizes.
struct PyFunctional {
    Functional functional;
    std::vector<Shape> shapes;
};

PyFunctional make(const std::vector<PyTerm>& terms, double constant, double limit) {
    PyFunctional result{{{}, constant, limit}, {}};
    for (const auto& [scope, table] : terms) {
        if (!py::isinstance<py::array_t<double>>(table) || !(table.flags() & py::array::c_style))
            throw std::invalid_argument("a table must be a C-contiguous float64 array; got dtype " +
                                        py::str(table.dtype()).cast<std::string>());
        const double* data = static_cast<const double*>(table.data());
        result.functional.terms.push_back({scope, {data, data + table.size()}});
        result.shapes.emplace_back(table.shape(), table.shape() + table.ndim());
    }
    return result;
}

Functional fitted(const PyFunctional& given, const std::vector<int>& sizes) {
    for (std::size_t t = 0; t < given.shapes.size(); ++t) {
        Shape wanted;
        for (const int variable : given.functional.terms[t].scope) {
            if (variable < 0 || variable >= static_cast<int>(sizes.size()))
                throw std::invalid_argument("a term names variable " + std::to_string(variable) + " of " +
                                            std::to_string(sizes.size()));
            wanted.push_back(sizes[variable]);
        }
        if (wanted != given.shapes[t])
            throw std::invalid_argument("the shape of table " + std::to_string(t) + " is not its variables' sizes");
    }
    return given.functional;
}

Model model(std::vector<int> sizes, const PyFunctional& objective, const std::vector<PyFunctional>& constraints) {
    Model result{{}, fitted(objective, sizes), {}};
    for (const PyFunctional& constraint : constraints) result.constraints.push_back(fitted(constraint, sizes));
    result.sizes = std::move(sizes);
    return result;
}

void poll() {
    const py::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}


}  // namespace

void bind_allocate(py::module_& module) {
    py::class_<PyFunctional>(module, "Functional")
        .def(py::init(&make), py::arg("terms"), py::arg("constant") = 0.0, py::arg("limit") = kInfinity);
    py::class_<Solution>(module, "Solution")
        .def_readonly("best", &Solution::best)
        .def_readonly("value", &Solution::value)
        .def_readonly("bound", &Solution::bound);
    module.def(
        "solve",
        [](std::vector<int> sizes, const PyFunctional& objective, const std::vector<PyFunctional>& constraints,
           double seconds, std::size_t bytes) {
            Model given = model(std::move(sizes), objective, constraints);
            const py::gil_scoped_release released;
            return solve(std::move(given), {seconds, bytes, poll});
        },
        py::arg("sizes"), py::arg("objective"), py::arg("constraints"), py::arg("seconds"), py::arg("bytes"));
    module.def(
        "sweep",
        [](std::vector<int> sizes, const PyFunctional& objective, const std::vector<PyFunctional>& constraints,
           std::size_t constraint, const std::vector<double>& limits, double seconds, std::size_t bytes) {
            Model given = model(std::move(sizes), objective, constraints);
            const py::gil_scoped_release released;
            return sweep(std::move(given), constraint, limits, {seconds, bytes, poll});
        },
        py::arg("sizes"), py::arg("objective"), py::arg("constraints"), py::arg("constraint"), py::arg("limits"),
        py::arg("seconds"), py::arg("bytes"));
}

}  // namespace workbench
