// What a step of a plan sees of the frame at hand.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "threads.h"

namespace flux {

struct Frame {
    Threads* pool;
    char** scratch;  // one for each thread
    bool fresh;      // every row of every map is computed
    float threshold, gate;
    int radius;  // negative: no limit
};

struct PlanStep {
    virtual ~PlanStep() = default;
    virtual void run(const Frame& frame) = 0;
    int done = 0;  // rows computed in the last frame
};

}  // namespace flux
