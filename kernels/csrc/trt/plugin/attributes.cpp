#include "attributes.h"

namespace flux {
namespace plugin {
namespace {

constexpr uint32_t kMark = 0x31584c46;  // "FLX1": the number rises with the layout
enum Kind : uint32_t { kInts, kFloats };

class Writer {
  public:
    void number(uint32_t value) { bytes(&value, sizeof value); }
    void bytes(const void* data, size_t count) {
        const unsigned char* first = static_cast<const unsigned char*>(data);
        found.insert(found.end(), first, first + count);
    }
    std::vector<unsigned char> found;
};

class Reader {
  public:
    Reader(const void* data, size_t bytes) : at_(static_cast<const unsigned char*>(data)), left_(at_ ? bytes : 0) {}

    uint32_t number() {
        uint32_t value;
        std::memcpy(&value, take(sizeof value), sizeof value);
        return value;
    }
    std::string word() {
        const uint32_t count = number();
        return {reinterpret_cast<const char*>(take(count)), count};
    }
    template <class T>
    std::vector<T> values() {
        const uint32_t count = number();
        require(count <= left_ / sizeof(T), "the saved plugin is truncated");
        std::vector<T> list(count);
        if (count) std::memcpy(list.data(), take(count * sizeof(T)), count * sizeof(T));
        return list;
    }
    size_t left() const { return left_; }

  private:
    const unsigned char* take(size_t count) {
        require(count <= left_, "the saved plugin is truncated");
        const unsigned char* found = at_;
        at_ += count;
        left_ -= count;
        return found;
    }

    const unsigned char* at_;
    size_t left_;
};

}  // namespace

std::vector<unsigned char> serialized(const Attributes& attributes) {
    Writer to;
    to.number(kMark);
    to.number(static_cast<uint32_t>(attributes.size()));
    for (const auto& [name, values] : attributes) {
        to.number(static_cast<uint32_t>(name.size()));
        to.bytes(name.data(), name.size());
        to.number(std::holds_alternative<std::vector<float>>(values) ? kFloats : kInts);
        std::visit(
            [&](const auto& list) {
                to.number(static_cast<uint32_t>(list.size()));
                to.bytes(list.data(), list.size() * sizeof list[0]);
            },
            values);
    }
    return to.found;
}

Attributes deserialized(const void* data, size_t bytes) {
    Reader from(data, bytes);
    require(from.number() == kMark, "the saved plugin is not of this version; build the engine again");
    Attributes found;
    for (uint32_t left = from.number(); left; --left) {
        const std::string name = from.word();
        const uint32_t kind = from.number();
        require(kind == kInts || kind == kFloats, "the saved plugin is damaged; build the engine again");
        if (kind == kInts) {
            found[name] = from.values<int32_t>();
        } else {
            found[name] = from.values<float>();
        }
    }
    require(from.left() == 0, "the saved plugin has ", from.left(), " bytes too many");
    return found;
}

}  // namespace plugin
}  // namespace flux
