// Runs kernels on a CPU: the threads of a block as fibers, one at a time, from barrier to barrier.
//
// What a GPU would let pass in silence ends a launch with std::runtime_error: threads that wait at different barriers or
// end while others wait, writes beyond shared memory. A barrier that is missing shows as a result that depends on the
// order of the threads or as NaN, since shared memory is full of NaN when a block begins.
#pragma once
#include <cstddef>

namespace flux {
namespace shim {

enum class Order { forward, backward };  // of threads between barriers, and of blocks

struct Grid {
    unsigned blocks_x, blocks_y, threads;
    size_t shared_bytes;
};

// `kernel` is called once a thread, with `arguments`.
void launch(void (*kernel)(const void* arguments), const void* arguments, const Grid& grid, Order order);

}  // namespace shim
}  // namespace flux
