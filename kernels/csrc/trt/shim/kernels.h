// Every kernel as a function that the shim launches, by name.
#pragma once
#include "../ops/op.h"
#include "shim.h"

namespace flux {
namespace shim {

std::vector<std::string> kernel_names();

// Runs on memory of the CPU what a device would run on its own.
void run(const std::vector<Step>& steps, Order order);

}  // namespace shim
}  // namespace flux
