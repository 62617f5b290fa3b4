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
    bool rolled;     // the maps were rolled: what knows its place is computed anew
    float threshold, gate;
    bool by_mean;  // the gate looks at the mean change of rows and around them, else at the largest of each
    int radius;    // negative: no limit
};

struct PlanStep {
    virtual ~PlanStep() = default;
    virtual void run(const Frame& frame) = 0;
    double done = 0;      // rows computed in the last frame, by their work
    bool placed = false;  // its values know where they lie: all of them are computed in the frame after a roll
};

}  // namespace flux
