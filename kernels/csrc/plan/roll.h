// Maps that move with the camera.
#pragma once
#include <cstddef>
#include <cstring>
#include <vector>

namespace flux {

// The cell (y, x) of `height` lines of `width` cells becomes the cell (y + dy, x + dx); what leaves comes in again on
// the other side.
template <class T>
void roll_lines(T* at, int height, int width, ptrdiff_t cell, int dy, int dx) {
    const int right = ((dx % width) + width) % width, down = ((dy % height) + height) % height;
    const size_t line = static_cast<size_t>(width) * static_cast<size_t>(cell);
    const size_t tail = static_cast<size_t>(right) * static_cast<size_t>(cell);
    if (right) {
        std::vector<T> kept(tail);
        for (int y = 0; y < height; ++y) {
            T* to = at + static_cast<size_t>(y) * line;
            std::memcpy(kept.data(), to + line - tail, tail * sizeof(T));
            std::memmove(to + tail, to, (line - tail) * sizeof(T));
            std::memcpy(to, kept.data(), tail * sizeof(T));
        }
    }
    if (down) {
        const size_t moved = static_cast<size_t>(down) * line, rest = static_cast<size_t>(height - down) * line;
        std::vector<T> kept(at + rest, at + rest + moved);
        std::memmove(at + moved, at, rest * sizeof(T));
        std::memcpy(at, kept.data(), moved * sizeof(T));
    }
}

}  // namespace flux
