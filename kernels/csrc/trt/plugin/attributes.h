// Attributes as the bytes that an engine file keeps of them: a mark, a count, and for each its name, kind and values.
#pragma once
#include "../ops/op.h"

namespace flux {
namespace plugin {

std::vector<unsigned char> serialized(const Attributes& attributes);

// Throws where bytes are missing, left over, or not what `serialized` writes.
Attributes deserialized(const void* data, size_t bytes);

}  // namespace plugin
}  // namespace flux
