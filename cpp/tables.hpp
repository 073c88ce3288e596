// Walking a dense table.
#pragma once

#include <vector>

namespace workbench {

// Visits all entries of a table of this shape in row-major order with the offset that other strides give them.
template <typename Visit>
void for_each_entry(const std::vector<int>& shape, const std::vector<std::size_t>& strides, Visit visit) {
    std::vector<int> at(shape.size(), 0);
    std::size_t offset = 0;
    for (;;) {
        visit(offset);
        std::size_t axis = shape.size();
        while (axis > 0) {
            --axis;
            offset += strides[axis];
            if (++at[axis] < shape[axis]) break;
            offset -= strides[axis] * static_cast<std::size_t>(shape[axis]);
            at[axis] = 0;
            if (axis == 0) return;
        }
        if (shape.empty()) return;
    }
}

}  // namespace workbench
