// Wrong on purpose, and in sanitized builds alone: the tests run each and expect the sanitizer to end the process.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.h"
#include "trt/ops/require.h"

namespace nb = nanobind;

namespace flux {
namespace {

constexpr int kChannels = 37;  // a remainder for every vector

// The last row of a map that lacks some floats; with none missing, nothing is wrong.
void read_beyond(const std::string& variant, int missing) {
    for (auto v = variants; *v; ++v) {
        if (variant != (*v)->name) continue;
        constexpr int kRows = 2, kSize = kRows * kChannels;
        const std::unique_ptr<float[]> in(new float[kSize - missing]()), out(new float[kSize]());
        std::vector<char> scratch(rows_scratch(kChannels));
        const int32_t last = kRows - 1;
        const Target to = {out.get(), kChannels, kRows, kChannels, &last, 1, Gate::none, 0, nullptr};
        (*v)->cached_softmax({{in.get(), kChannels, 1, kRows}, to, 1, scratch.data()});
        return;
    }
    require(false, "there is no variant '", variant, "' in this build");
}

int overflow(int x) { return x + 1; }

int race() {
    int shared = 0;
    const auto count = [&shared] {
        for (int i = 0; i < 1000; ++i) ++shared;
    };
    std::thread first(count), second(count);
    first.join();
    second.join();
    return shared;
}

}  // namespace

void bind_broken(nb::module_& m) {
    using namespace nb::literals;
    m.def("broken_read_beyond", read_beyond, "variant"_a, "missing"_a);
    m.def("broken_overflow", overflow, "x"_a);
    m.def("broken_race", race, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace flux
