// One function a bind_*.cpp, listed by module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace workbench {

void bind_allocate(pybind11::module_& module);
void bind_rounding(pybind11::module_& module);

}  // namespace workbench
