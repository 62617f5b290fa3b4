// One number as the bits of an element of a type.
#pragma once
#include <cstring>

#include "half.h"
#include "op.h"

namespace flux {

inline uint64_t bits_of(float value, Type type) {
    const auto bits = [](auto number) {
        uint64_t found = 0;
        std::memcpy(&found, &number, sizeof number);  // little endian, as every machine with an NVIDIA GPU
        return found;
    };
    switch (type) {
        case Type::f32:
            return bits(value);
        case Type::f16:
            return half_of_float(value);
        case Type::f64:
            return bits(static_cast<double>(value));
        case Type::i32:
            return bits(static_cast<int32_t>(value));
        case Type::i64:
            return bits(static_cast<int64_t>(value));
        case Type::u8:
            return bits(static_cast<uint8_t>(value));
        case Type::b8:
            return bits(static_cast<uint8_t>(value != 0));
    }
    return 0;
}

}  // namespace flux
