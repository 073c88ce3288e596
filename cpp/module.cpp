#include "bindings.hpp"

// No state is shared between calls, so the module is safe without the GIL.
PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "The compiled core: exact allocation and rounding.";
    workbench::bind_allocate(module);
    workbench::bind_rounding(module);
}
