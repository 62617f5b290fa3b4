// Every kernel as a function that the shim launches, by name.
#pragma once
#include "../ops/op.h"
#include "shim.h"

namespace flux {
namespace shim {

std::vector<std::string> kernel_names();
size_t argument_bytes(const std::string& kernel);

// Runs on memory of the CPU what a device would run on its own.
void run(const std::vector<Step>& steps, Order order);

}  // namespace shim
}  // namespace flux
