// The rows of a tensor: `view` (outer, rows, inner) where row r is [:, r, :], or any layout as its factors, outermost
// first: their `sizes`, and the rows that each walks at a time (`row_steps`, 0 for a factor without a place).
#pragma once
#include <algorithm>

#include "arguments.h"

namespace flux {

inline const std::vector<Field> kRowFields = {
    {"view", false, 3, true}, {"sizes", false, kAny, true}, {"row_steps", false, kAny, true}};

// Neighbours that walk on without a break are joined: a kernel divides twice for each factor.
inline device::RowFactors row_factors(const char* op, const Attributes& attributes) {
    const bool by_view = attributes.count("view") != 0;
    require(by_view != (attributes.count("sizes") && attributes.count("row_steps")), op,
            ": attributes must be either 'view' or 'sizes' and 'row_steps'");
    const std::vector<int32_t> view_steps = {0, 1, 0};
    const std::vector<int32_t>& sizes = ints(attributes, by_view ? "view" : "sizes");
    const std::vector<int32_t>& row_steps = by_view ? view_steps : ints(attributes, "row_steps");
    require(sizes.size() == row_steps.size(), op, ": ", sizes.size(), " sizes and ", row_steps.size(),
            " row_steps; there must be as many");
    device::RowFactors found = {};
    for (size_t i = 0; i < sizes.size(); ++i) {
        const int64_t size = sizes[i], step = row_steps[i];
        require(size > 0 && step >= 0, op, ": a factor of ", size, " walks ", step, " rows at a time");
        const int last = found.count - 1;
        const bool walks_on = last >= 0 && found.row_step[last] == size * step;
        if (size == 1) continue;
        const int64_t joined = walks_on ? found.size[last] * size : size;
        require(joined <= kMostElements && (walks_on || found.count < device::kMostFactors), op,
                ": the layout has more factors than ", device::kMostFactors, ", or one of more than ", kMostElements);
        if (!walks_on) ++found.count;
        found.size[found.count - 1] = static_cast<int>(joined);
        found.row_step[found.count - 1] = static_cast<int>(step);
    }
    return found;
}

// Throws unless the factors are those of a tensor of this shape that has as many rows as `rows` has entries.
inline void check_rows(const char* op, const Attributes& attributes, const Shape& tensor, const Shape& rows) {
    const device::RowFactors factors = row_factors(op, attributes);
    int64_t count = 1, places = 1, last = 0;
    for (int f = 0; f < factors.count; ++f) {
        count *= factors.size[f];
        if (factors.row_step[f]) places *= factors.size[f];
        last += int64_t{factors.size[f] - 1} * factors.row_step[f];
    }
    require(count == elements(tensor), op, ": the factors have ", count, " elements, the tensor ", text(tensor));
    require(places == last + 1, op, ": the factors walk ", places, " places but reach row ", last);
    require(rows[0] == last + 1, op, ": the factors have ", last + 1, " rows, the list of rows is ", text(rows));
}

}  // namespace flux
