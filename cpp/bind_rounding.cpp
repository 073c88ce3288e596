#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.hpp"
#include "rounding.hpp"

namespace py = pybind11;

namespace workbench {

void bind_rounding(py::module_& module) {
    py::enum_<Rounding>(module, "Rounding")
        .value("DOWN", Rounding::kDown)
        .value("NEAREST", Rounding::kNearest)
        .value("UP", Rounding::kUp);
    module.def("round_width", &round_width, py::arg("units"), py::arg("numerator"), py::arg("denominator"),
               py::arg("multiple"), py::arg("mode"));
    module.def("round_ranks", &round_ranks, py::arg("ranks"), py::arg("costs"), py::arg("budget"), py::arg("multiple"),
               py::arg("highest"));
}

}  // namespace workbench
