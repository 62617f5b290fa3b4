// What a caller may pass is checked once, here at the binding: a ValueError that says what and where.
#pragma once
#include <sstream>
#include <stdexcept>

namespace flux {

template <class... Parts>
void require(bool holds, const Parts&... parts) {
    if (holds) return;
    std::ostringstream text;
    (text << ... << parts);
    throw std::invalid_argument(text.str());  // nanobind turns it into a ValueError
}

}  // namespace flux
