// Where the content of a frame was in the reference image: see fluxcompile.runtime.motion, whose work this does.
#include <cstring>
#include <map>
#include <mutex>

#include "../arguments.h"
#include "exposure.h"
#include "image.h"
#include "search.h"
#include "shift.h"

namespace flux {
namespace {

// What a shift must match, where `stay` of the blocks match without it: clearly more.
double needed(double stay) { return std::max(stay + 0.05, 1.25 * stay); }

constexpr double kEnough = 0.98;  // of the blocks match: no use in asking what light would do
constexpr double kRise = 0.01;    // of the blocks must match more for it
constexpr double kFew = 0.1;      // of the blocks: below, there is nothing to tell the light by
constexpr float kDim = 2;         // levels by which the frame is darker or brighter as a whole

struct Moved {
    Vector shift;
    double plain, still, shifted, moved;  // shares of blocks that match
    bool lit;
    std::vector<Exposure> exposure;
};

class Aligner {
  public:
    Aligner(const std::string& variant, int height, int width, int channels)
        : kernels_(find_variant(variant)), height_(height), width_(width), channels_(channels) {
        const char* op = "Aligner";
        require(height >= 1 && width >= 1 && height <= kMostSide && width <= kMostSide, op, ": a frame of ", height,
                " x ", width, ", sides go from 1 to ", kMostSide);
        require(channels == 1 || channels == 3, op, ": ", channels, " channels, a frame has 1 or 3");
        for (Pyramid* p : {&reference_, &now_, &lit_}) resize(*p, height, width);
        reference_means_.resize(height / 8, width / 8, channels);
        now_means_.resize(height / 8, width / 8, channels);
        reference_luma_.resize(height / 8, width / 8, 1);
        now_luma_.resize(height / 8, width / 8, 1);
    }

    bool set_reference(const Array& array, bool planar, float scale, float offset,
                       const std::optional<Array>& changed) {
        const char* op = "set_reference";
        const Image image = image_of(op, array, planar, scale, offset);
        const uint8_t* mask = nullptr;
        if (changed) {
            require(changed->ndim() == 2 && is(*changed, 0, height_) && is(*changed, 1, width_) && dense(*changed), op,
                    ": changed must be dense, (", height_, ", ", width_, ")");
            mask = data_of<uint8_t>(op, "changed", *changed);
        }
        const nb::gil_scoped_release unlocked;
        const std::lock_guard<std::mutex> lock(mutex_);
        require(known_ || !mask, op, ": there is no reference yet of which something could change");
        known_ = true;
        for (int y = 0; y < height_; y += kMotionBlock) {
            const int end = std::min(y + kMotionBlock, height_);
            for (const Area& area : mask ? changed_areas(mask, y, end) : std::vector<Area>{{y, 0, end, width_}}) {
                known_ &= make_luma(kernels_, image, area, reference_[0]);
                halve(reference_, area);
                make_means(image, area, {}, reference_means_);
            }
        }
        return known_;
    }

    // (shift, shares of blocks that match, gain and bias per channel or None), or None where a value is not finite.
    nb::object align(const Array& array, bool planar, float scale, float offset, const std::optional<Array>& last,
                     Pair last_shift, const std::optional<Array>& hint, float matched, bool exposure, bool refine,
                     bool by_block, int reach, const Result& vectors, const Result& sad, const Result& still) {
        const char* op = "align";
        const Image image = image_of(op, array, planar, scale, offset);
        const Given given = {field_of(op, "last", last),
                             {held(last_shift.first), held(last_shift.second)},
                             field_of(op, "hint", hint),
                             exposure,
                             by_block,
                             {matched, refine, reach}};
        require(matched >= 0 && matched <= 255, op, ": matched is ", matched, ", it must be in [0, 255]");
        require(reach >= 0 && reach <= kMostSide, op, ": reach is ", reach, ", it must be in [0, ", kMostSide, "]");
        int32_t* to = const_cast<int32_t*>(field_data(op, "vectors", vectors));
        float *to_sad = sums_data(op, "sad", sad), *to_still = sums_data(op, "still", still);
        std::optional<Moved> found;
        {
            const nb::gil_scoped_release unlocked;
            const std::lock_guard<std::mutex> lock(mutex_);
            require(known_, op, ": there is no whole reference to align to");
            if (make_luma(kernels_, image, whole(), now_[0])) {
                found = run(image, given, to, to_sad, to_still);
            }
        }
        if (!found) return nb::none();
        nb::list light;
        for (const Exposure& e : found->exposure) light.append(nb::make_tuple(e.gain, e.bias));
        return nb::make_tuple(nb::make_tuple(found->shift.y, found->shift.x),
                              nb::make_tuple(found->plain, found->still, found->shifted, found->moved), light);
    }

    // The reference's luma at a level, for tests.
    nb::bytes level(int index) const {
        require(index >= 0 && index < kLevels, "level: ", index, " is not in [0, ", kLevels, ")");
        const auto& cells = reference_[static_cast<size_t>(index)].cells;
        return nb::bytes(cells.data(), cells.size());
    }

  private:
    static constexpr int kMostSide = 1 << 14;

    static bool is(const Array& a, size_t dim, int size) { return static_cast<int64_t>(a.shape(dim)) == size; }

    template <class A>
    static bool dense(const A& a) {
        int64_t step = 1;
        for (size_t i = a.ndim(); i-- > 0; step *= static_cast<int64_t>(a.shape(i))) {
            if (a.shape(i) != 1 && a.stride(i) != step) return false;
        }
        return true;
    }

    Image image_of(const char* op, const Array& a, bool planar, float scale, float offset) const {
        const bool bytes = a.dtype() == nb::dtype<uint8_t>();
        if (!bytes) data_of<float>(op, "the image, if not uint8,", a);
        require(a.ndim() == 3, op, ": the image has ", a.ndim(), " dimensions, it must have 3");
        const size_t y = planar ? 1 : 0, x = y + 1, c = planar ? 0 : 2;
        require(is(a, y, height_) && is(a, x, width_) && is(a, c, channels_), op, ": the image is (", a.shape(0), ", ",
                a.shape(1), ", ", a.shape(2), "), the aligner was made for ", height_, " x ", width_, " pixels of ",
                channels_, " channels");
        require(
            !bytes || (!planar && (channels_ == 1 || a.stride(c) == 1) && (width_ == 1 || a.stride(x) == channels_)),
            op, ": a uint8 image must be interleaved, its lines dense");
        require(std::isfinite(scale) && scale > 0 && std::isfinite(offset), op, ": scale is ", scale, ", offset ",
                offset, ", they must be finite and the scale positive");
        return {a.data(),          bytes,
                height_,           width_,
                channels_,         a.stride(y),
                a.stride(x),       a.stride(c),
                bytes ? 1 : scale, bytes ? 0 : offset};
    }

    template <class A>
    const int32_t* field_data(const char* op, const char* what, const A& a) const {
        require(a.ndim() == 3 && a.shape(0) == 2 && static_cast<int>(a.shape(1)) == rows() &&
                    static_cast<int>(a.shape(2)) == columns() && dense(a),
                op, ": ", what, " must be dense, (2, ", rows(), ", ", columns(), ")");
        return data_of<int32_t>(op, what, a);
    }

    float* sums_data(const char* op, const char* what, const Result& a) const {
        require(a.ndim() == 2 && static_cast<int>(a.shape(0)) == rows() && static_cast<int>(a.shape(1)) == columns() &&
                    dense(a),
                op, ": ", what, " must be dense, (", rows(), ", ", columns(), ")");
        return const_cast<float*>(data_of<float>(op, what, a));
    }

    std::vector<Vector> field_of(const char* op, const char* what, const std::optional<Array>& a) const {
        std::vector<Vector> found;
        if (!a) return found;
        const int32_t* at = field_data(op, what, *a);
        const int n = rows() * columns();
        for (int i = 0; i < n; ++i) found.push_back({held(at[i]), held(at[n + i])});
        return found;
    }

    static int held(int32_t v) { return std::min(std::max(v, -2 * kMostSide), 2 * kMostSide); }

    int rows() const { return (height_ + kMotionBlock - 1) / kMotionBlock; }
    int columns() const { return (width_ + kMotionBlock - 1) / kMotionBlock; }

    // Runs of blocks with a changed pixel, of one line of blocks.
    std::vector<Area> changed_areas(const uint8_t* mask, int y0, int y1) const {
        std::vector<Area> found;
        for (int x = 0; x < width_; x += kMotionBlock) {
            const int end = std::min(x + kMotionBlock, width_);
            bool any = false;
            for (int y = y0; y < y1 && !any; ++y) {
                any = std::memchr(mask + static_cast<ptrdiff_t>(y) * width_ + x, 1, static_cast<size_t>(end - x));
            }
            if (!any) continue;
            if (!found.empty() && found.back().x1 == x) {
                found.back().x1 = end;
            } else {
                found.push_back({y0, x, y1, end});
            }
        }
        return found;
    }

    struct Given {
        std::vector<Vector> last;
        Vector last_shift;
        std::vector<Vector> hint;
        bool exposure;
        bool by_block;  // a vector for each block, or the shift for all
        SearchSettings search;
    };

    struct Candidate {
        Vector shift;
        double share = 0;
        bool moves() const { return shift != Vector{}; }
    };

    // One frame against the reference; everything below sees the frame's luma through `seen_`.
    Moved run(const Image& image, const Given& given, int32_t* vectors, float* sad, float* still) {
        matched_ = given.search.matched;
        seen_ = &now_;
        Moved m = {};
        m.plain = m.still = share_at({});
        Vector lit_at;
        if (given.exposure && m.plain < kEnough) m.lit = light({}, m.plain);
        if (m.lit) m.still = share_at({});
        m.shifted = m.still;
        std::vector<Vector> guesses;
        if (needed(m.still) <= 1) {
            halve(now_, whole());
            if (m.lit) halve(lit_, whole());
            Candidate best = best_shift(given, {});
            if (given.exposure && !m.lit && best.share < kEnough) {
                const double unlit = std::max(best.share, m.still);
                if (best.share < needed(m.still)) best = dim_shift(given, best);
                m.lit = best.moves() && light(best.shift, unlit);
                if (m.lit) lit_at = best.shift;
                m.still = share_at({});
                best.share = share_at(best.shift);
            }
            m.shifted = m.still;
            if (best.moves()) guesses.push_back(best.shift);
            if (best.moves() && best.share >= needed(m.still)) m.shift = best.shift, m.shifted = best.share;
        }
        std::vector<const Vector*> hints;
        for (const auto* field : {&given.hint, &given.last}) {
            if (!field->empty()) hints.push_back(field->data());
        }
        const Blocks blocks((*seen_)[0], reference_[0]);
        const std::vector<uint32_t> sums = still_sums(blocks);
        const Field field = given.by_block ? BlockSearch(blocks, sums, given.search)(m.shift, guesses, hints)
                                           : shifted(blocks, sums, m.shift);
        int count = 0;
        const int n = blocks.count();
        for (int i = 0; i < n; ++i) {
            const auto k = static_cast<size_t>(i);
            const float pixels = static_cast<float>(blocks.pixels(i));
            vectors[i] = field.vectors[k].y;
            vectors[n + i] = field.vectors[k].x;
            sad[i] = static_cast<float>(field.sums[k]) / pixels;
            still[i] = static_cast<float>(sums[k]) / pixels;
            count += matches(blocks, i, field.sums[k]);
        }
        m.moved = static_cast<double>(count) / n;
        if (m.lit) {
            make_means(image, whole(), lit_at, now_means_);
            for (int c = 0; c < channels_; ++c) m.exposure.push_back(fit_exposure(now_means_, reference_means_, c));
        }
        return m;
    }

    static Field shifted(const Blocks& blocks, const std::vector<uint32_t>& still, Vector shift) {
        Field field = {std::vector<Vector>(still.size(), shift), still};
        for (int i = 0; shift != Vector{} && i < blocks.count(); ++i)
            field.sums[static_cast<size_t>(i)] = blocks.at(i, shift);
        return field;
    }

    Area whole() const { return {0, 0, height_, width_}; }

    // Sees the frame in the reference's light, as the cells at a shift tell it, if more blocks than `share` match there.
    bool light(Vector shift, double share) {
        make_means(now_[0], shift, now_luma_);
        make_means(reference_[0], {}, reference_luma_);
        const Exposure fit = fit_exposure(now_luma_, reference_luma_, 0);
        if (!fit.changes()) return false;
        expose(fit);
        const bool lit = share_at(shift) >= std::max(share + kRise, kFew);
        if (!lit) seen_ = &now_;
        return lit;
    }

    // The best of `best` and what is worth a look; zero where nothing matches anywhere.
    Candidate best_shift(const Given& given, Candidate best) const {
        for (const Vector& v : shifts(given)) {
            const double share = share_at(v);
            if (share > best.share) best = {v, share};
        }
        return best;
    }

    // The same in a rough guess of the reference's light, where the frame is darker or brighter as a whole.
    Candidate dim_shift(const Given& given, Candidate best) {
        const Exposure guess = guess_exposure(now_[kLevels - 1], reference_[kLevels - 1]);
        if (std::fabs(guess(128) - 128) <= kDim) return best;
        expose(guess);
        halve(lit_, whole());
        best = best_shift(given, best);
        seen_ = &now_;
        return best;
    }

    // Shifts worth a look: the last one, the commonest vector of the last field and of the hint, and what a search finds.
    std::vector<Vector> shifts(const Given& given) const {
        std::vector<Vector> found = {given.last_shift};
        if (given.search.refine) {
            for (const Vector& v : ShiftSearch(*seen_, reference_)(given.search.reach)) found.push_back(v);
        }
        for (const auto* field : {&given.last, &given.hint}) {
            std::map<std::pair<int, int>, int> votes;
            for (const Vector& v : *field) ++votes[{v.y, v.x}];
            const auto most = std::max_element(votes.begin(), votes.end(),
                                               [](const auto& a, const auto& b) { return a.second < b.second; });
            if (most != votes.end()) found.push_back({most->first.first, most->first.second});
        }
        const auto far = [&](Vector v) { return std::max(std::abs(v.y), std::abs(v.x)) > given.search.reach; };
        found.erase(std::remove_if(found.begin(), found.end(), far), found.end());
        return found;
    }

    void expose(const Exposure& exposure) {
        const auto to = levels_of(exposure);
        const auto& from = now_[0].cells;
        auto& cells = lit_[0].cells;
        std::transform(from.begin(), from.end(), cells.begin(), [&](uint8_t level) { return to[level]; });
        seen_ = &lit_;
    }

    bool matches(const Blocks& blocks, int block, uint32_t sum) const {
        return static_cast<float>(sum) <= matched_ * static_cast<float>(blocks.pixels(block));
    }

    static std::vector<uint32_t> still_sums(const Blocks& blocks) {
        std::vector<uint32_t> sums(static_cast<size_t>(blocks.count()));
        for (int i = 0; i < blocks.count(); ++i) sums[static_cast<size_t>(i)] = blocks.at(i, {});
        return sums;
    }

    double share_at(Vector shift) const {
        const Blocks blocks((*seen_)[0], reference_[0]);
        int n = 0;
        for (int i = 0; i < blocks.count(); ++i) {
            const auto limit = static_cast<uint32_t>(matched_ * static_cast<float>(blocks.pixels(i))) + 1;
            n += matches(blocks, i, blocks.at(i, shift, limit));
        }
        return static_cast<double>(n) / blocks.count();
    }

    const Kernels& kernels_;
    const int height_, width_, channels_;
    Pyramid reference_, now_, lit_;
    const Pyramid* seen_ = &now_;
    Means reference_means_, now_means_;  // of each channel
    Means reference_luma_, now_luma_;
    float matched_ = 0;
    bool known_ = false;
    std::mutex mutex_;
};

}  // namespace

void bind_motion(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<Aligner>(m, "Aligner",
                        "A reference image's luma, and frames against it; see fluxcompile.runtime.motion.")
        .def(nb::init<const std::string&, int, int, int>(), "variant"_a, "height"_a, "width"_a, "channels"_a)
        .def("set_reference", &Aligner::set_reference, "image"_a.noconvert(), "planar"_a, "scale"_a, "offset"_a,
             "changed"_a.noconvert().none())
        .def("align", &Aligner::align, "image"_a.noconvert(), "planar"_a, "scale"_a, "offset"_a,
             "last"_a.noconvert().none(), "last_shift"_a, "hint"_a.noconvert().none(), "matched"_a, "exposure"_a,
             "refine"_a, "by_block"_a, "reach"_a, "vectors"_a.noconvert(), "sad"_a.noconvert(), "still"_a.noconvert())
        .def("level", &Aligner::level, "index"_a);
    m.attr("MOTION_BLOCK") = kMotionBlock;
}

}  // namespace flux
