// fluxcompile.kernels._cpu.Plan: a whole frame as a list of steps, built once from Python, run in one call without the
// GIL. Maps are numpy arrays that the builder owns and the plan keeps alive; every argument is checked when its step is
// added, so that running checks nothing.
#include <chrono>
#include <map>
#include <new>

#include "../arguments.h"
#include "attention_step.h"
#include "mask_steps.h"
#include "value_steps.h"

namespace flux {
namespace {

struct ScratchFree {
    void operator()(char* p) const { ::operator delete(p, std::align_val_t(64)); }
};

std::vector<int32_t> ints_of(const char* op, const char* what, const Array& a, int64_t size, int64_t low,
                             int64_t high) {
    const int32_t* at = vector_of<int32_t>(op, what, a, size);
    for (int64_t i = 0; i < size; ++i) {
        require(at[i] >= low && at[i] < high, op, ": ", what, "[", i, "] is ", at[i], ", it must be in [", low, ", ",
                high, ")");
    }
    return {at, at + size};
}

class Plan {
  public:
    Plan(const std::string& variant, int threads) : kernels_(find_variant(variant)), pool_(checked(threads)) {}

    int mask(int rows) {
        require(rows >= 1, "mask: ", rows, " rows");
        masks_.push_back(std::make_unique<Mask>(rows));
        return static_cast<int>(masks_.size()) - 1;
    }

    // --- masks ---

    // A reader is (mask, kind, table, keys, first_in, first_out, count): "range", "table", "group" or "any".
    using ReaderArgs = std::tuple<int, std::string, std::optional<Array>, std::optional<Array>, int, int, int>;

    int join(int out, const std::vector<ReaderArgs>& readers) {
        const char* op = "join";
        auto step = std::make_unique<JoinStep>();
        step->out = mask_at(op, out);
        for (const auto& [in, kind, table, keys, first_in, first_out, count] : readers) {
            Reader r = {Reader::Kind::any, mask_at(op, in), first_in, first_out, count, {}, {}, 0};
            require(r.in != step->out, op, ": a mask cannot be joined into itself");
            const int rows = step->out->rows();
            if (kind == "range") {
                r.kind = Reader::Kind::range;
                require(first_in >= 0 && first_out >= 0 && count >= 1 && first_in <= r.in->rows() - count &&
                            first_out <= rows - count,
                        op, ": rows ", first_in, " .. + ", count, " of ", r.in->rows(), " cannot become rows ",
                        first_out, " .. of ", rows);
            } else if (kind == "table") {
                r.kind = Reader::Kind::table;
                require(table.has_value(), op, ": a table is missing");
                r.table = ints_of(op, "table", *table, rows, -1, r.in->rows());
            } else if (kind == "group") {
                r.kind = Reader::Kind::group;
                require(table && keys && count >= 1, op, ": a group needs a table, keys and how many there are");
                r.key_count = count;
                r.table = ints_of(op, "table", *table, r.in->rows(), 0, count);
                r.keys = ints_of(op, "keys", *keys, rows, 0, count);
            } else {
                require(kind == "any", op, ": kind '", kind, "' is not one of range, table, group, any");
            }
            step->readers.push_back(std::move(r));
        }
        return add(std::move(step));
    }

    int window(int out, int in, const Array& reads_y, const Array& reads_x, Pair size, int near) {
        const char* op = "window";
        auto step = std::make_unique<WindowStep>();
        step->in = mask_at(op, in);
        step->out = mask_at(op, out);
        require(step->in != step->out, op, ": in and out are the same mask");
        require(
            size.first >= 1 && size.second >= 1 && static_cast<int64_t>(size.first) * size.second == step->in->rows(),
            op, ": a map of ", size.first, " x ", size.second, " cells has not ", step->in->rows(), " rows");
        require(reads_y.ndim() == 2 && reads_x.ndim() == 2 && reads_y.shape(1) >= 1 && reads_x.shape(1) >= 1 &&
                    static_cast<int64_t>(reads_y.shape(0) * reads_x.shape(0)) == step->out->rows(),
                op, ": reads must be (outputs, taps) for each axis and give ", step->out->rows(), " rows");
        if (near >= 0) step->near = rows_mask(op, near, step->out->rows());
        require(step->near != step->out, op, ": near and out are the same mask");
        step->in_width = size.second;
        step->out_height = static_cast<int>(reads_y.shape(0));
        step->out_width = static_cast<int>(reads_x.shape(0));
        step->taps_y = static_cast<int>(reads_y.shape(1));
        step->taps_x = static_cast<int>(reads_x.shape(1));
        step->reads_y = table_of(op, reads_y, size.first);
        step->reads_x = table_of(op, reads_x, size.second);
        step->prepare();
        return add(std::move(step));
    }

    int limit(int out, int in, int near) {
        const char* op = "limit";
        auto step = std::make_unique<LimitStep>();
        step->in = mask_at(op, in);
        step->near = mask_at(op, near);
        step->out = mask_at(op, out);
        require(step->out != step->in && step->out != step->near && step->in->rows() == step->out->rows() &&
                    step->near->rows() == step->out->rows(),
                op, ": the masks are of ", step->in->rows(), ", ", step->near->rows(), " and ", step->out->rows(),
                " rows");
        return add(std::move(step));
    }

    int reach(int out, int in, int width) {
        const char* op = "reach";
        auto step = std::make_unique<ReachStep>();
        step->in = mask_at(op, in);
        step->out = mask_at(op, out);
        require(step->in != step->out && step->in->rows() == step->out->rows() && width >= 1 &&
                    step->in->rows() % width == 0,
                op, ": ", step->in->rows(), " rows are no map ", width, " cells wide");
        step->width = width;
        return add(std::move(step));
    }

    // --- values ---

    int conv2d(int mask, int changed, const Array& x, const Array& weights, const Array& bias, const Array& taps,
               const Result& out, int groups, Pair stride, Pair up, Pair phase, const std::string& act, float a,
               float b, const std::optional<Array>& slope, const std::optional<Array>& residual, bool residual_first) {
        Conv2d p = conv2d_of(kernels_, x, weights, bias, taps, out, groups, stride, up,
                             {act, a, b, slope, residual, residual_first});
        p.zero = zeros(static_cast<size_t>(p.groups) * static_cast<size_t>(p.in_per_group));
        keep({x, weights, bias, taps}, out, {slope, residual});
        auto step = kernel("conv2d", p, is_depthwise(p) ? kernels_.cached_depthwise2d : kernels_.cached_conv2d, mask,
                           changed, out);
        step->row_cost = 2.0 * p.taps * p.in_per_group * p.out.channels;
        require(phase.first >= 0 && phase.first < up.first && phase.second >= 0 && phase.second < up.second,
                "conv2d: phase (", phase.first, ", ", phase.second, ") of steps (", up.first, ", ", up.second, ")");
        require(changed < 0 || up == Pair(1, 1), "conv2d: a transposed convolution has no gate");
        std::tie(step->step_y, step->step_x) = up;
        std::tie(step->phase_y, step->phase_x) = phase;
        return add(std::move(step));
    }

    int pool2d(int mask, int changed, const Array& x, const Array& taps, const Result& out, const std::string& kind,
               Pair stride, float divisor) {
        const Pool2d p = pool2d_of(x, taps, out, kind, stride, divisor);
        keep({x, taps}, out, {});
        auto step = kernel("pool2d", p, kernels_.cached_pool2d, mask, changed, out);
        step->row_cost = static_cast<double>(p.taps) * p.out.channels;
        return add(std::move(step));
    }

    int resample2d(int mask, int changed, const Array& x, const Array& index_y, const Array& weight_y,
                   const Array& index_x, const Array& weight_x, const Result& out) {
        const Resample2d p = resample2d_of(x, index_y, weight_y, index_x, weight_x, out);
        keep({x, index_y, weight_y, index_x, weight_x}, out, {});
        auto step = kernel("resample2d", p, kernels_.cached_resample2d, mask, changed, out);
        step->row_cost = 2.0 * p.taps_y * p.taps_x * p.out.channels;
        return add(std::move(step));
    }

    int pointwise(int mask, int changed, const Array& x, const nb::list& terms, const Result& out) {
        auto held = std::make_unique<std::vector<Step>>();
        const Pointwise p = pointwise_of(x, terms, out, *held);
        terms_.push_back(std::move(held));
        for (const nb::handle& term : terms) kept_.push_back(term[3]);  // its operand; the list may change
        keep({x}, out, {});
        auto step = kernel("pointwise", p, kernels_.cached_pointwise, mask, changed, out);
        step->row_cost = 4.0 * (p.count + 1) * p.out.channels;
        return add(std::move(step));
    }

    int layer_norm(int mask, int changed, const Array& x, const std::optional<Array>& gamma,
                   const std::optional<Array>& beta, float epsilon, const Result& out) {
        const LayerNorm p = layer_norm_of(x, gamma, beta, epsilon, out);
        keep({x}, out, {gamma, beta});
        auto step = kernel("layer_norm", p, kernels_.cached_layer_norm, mask, changed, out);
        step->row_cost = 8.0 * p.out.channels;
        return add(std::move(step));
    }

    int softmax(int mask, int changed, const Array& x, float scale, const Result& out) {
        const Softmax p = softmax_of(x, scale, out);
        keep({x}, out, {});
        auto step = kernel("softmax", p, kernels_.cached_softmax, mask, changed, out);
        step->row_cost = 20.0 * p.out.channels;
        return add(std::move(step));
    }

    int attention(int mask, int changed, const Array& q, const Array& k, const Array& v, const Result& out, int heads,
                  float scale, const Array& keys, const std::optional<Array>& group_of,
                  const std::optional<Array>& member_of, const std::optional<Array>& bias) {
        const Attention p = attention_of("attention", q, k, v, out, heads, scale, keys, group_of, member_of, bias);
        keep({q, k, v, keys}, out, {group_of, member_of, bias});
        auto step = kernel("attention", p, kernels_.cached_attention, mask, changed, out);
        step->row_cost = 2.0 * p.members * (p.q.step + p.out.channels);
        return add(std::move(step));
    }

    // Attention of every row over all rows of k and v. queries: the rows of q that changed; keys: those of k and of v;
    // k_old, v_old, mean, sums: the state.
    int correct_attention(int mask, int changed, const Array& q, const Array& k, const Array& v, const Result& out,
                          int heads, float scale, int queries, std::pair<int, int> keys, const Result& k_old,
                          const Result& v_old, const Result& mean, const Result& sums) {
        const char* op = "correct_attention";
        const View key = view(op, "k", k), value = view(op, "v", v), to = view(op, "out", out);
        require(changed >= 0, op, ": `changed` is needed");
        require(apart(view(op, "mean", mean), to), op, ": mean and out overlap");
        auto step = std::make_unique<AttentionStep>();
        for (int64_t row = 0; row < key.rows(); ++row) step->every_key.push_back(static_cast<int32_t>(row));
        const size_t shape[] = {1, step->every_key.size()};
        const Array all(step->every_key.data(), 2, shape, nb::handle(), nullptr, nb::dtype<int32_t>());
        const Attention p = attention_of(op, q, k, v, out, heads, scale, all, {}, {}, {});
        step->correction = correction_of(q, k, v, k_old, v_old, mean, sums, heads, scale, all);
        step->plain = std::move(*kernel(op, p, kernels_.cached_attention, mask, changed, out));
        step->plain.row_cost = 2.0 * p.members * (p.q.step + p.out.channels);
        step->kernels = &kernels_;
        step->queries = rows_mask(op, queries, to.rows());
        step->keys = rows_mask(op, keys.first, key.rows());
        step->values = rows_mask(op, keys.second, value.rows());
        needed_ = std::max(needed_, scratch_of(step->correction));
        keep({q, k, v}, out, {});
        for (const Result& state : {k_old, v_old, mean, sums}) keep({}, state, {});
        return add(std::move(step));
    }

    // table: int32 (rows or 1, pieces), channels of the input counted row by row, -1 for `fill`.
    int gather(int mask, const Array& x, const Array& table, const Result& out, bool relative, float fill) {
        const char* op = "gather";
        const View in = view(op, "x", x), to = view(op, "out", out);
        require(apart(in, to), op, ": x and out overlap");
        require(table.ndim() == 2 && static_cast<int64_t>(table.shape(0)) == (relative ? 1 : to.rows()) &&
                    table.shape(1) >= 1 && to.channels % static_cast<int>(table.shape(1)) == 0,
                op, ": the table must be (", relative ? 1 : to.rows(), ", a divisor of ", to.channels, ")");
        require(!relative || in.rows() == to.rows(), op, ": x has ", in.rows(), " rows, out has ", to.rows());
        const int pieces = static_cast<int>(table.shape(1)), length = to.channels / pieces;
        const int64_t size = static_cast<int64_t>(table.shape(0)) * pieces;
        const int32_t* at = data_of<int32_t>(op, "table", table);
        require(is_dense(table), op, ": the table must be dense");
        const int64_t most = relative ? in.channels : in.rows() * in.channels;
        auto flat = std::make_unique<std::vector<int64_t>>(static_cast<size_t>(size));
        for (int64_t i = 0; i < size; ++i) {
            require(at[i] >= -1 && at[i] < most && (at[i] < 0 || at[i] % in.channels + length <= in.channels), op,
                    ": table[", i, "] is ", at[i], ", no run of ", length, " channels of x begins there");
            (*flat)[static_cast<size_t>(i)] =
                at[i] < 0 ? -1 : at[i] / in.channels * static_cast<int64_t>(in.step) + at[i] % in.channels;
        }
        keep({x}, out, {});
        Gather p = {map_of(to, out), in.at, in.step, flat->data(), pieces, length, relative, fill, nullptr};
        tables_.push_back(std::move(flat));
        auto step = std::make_unique<KernelStep<Gather>>();
        step->p = p;
        step->kernel = gather_rows;
        step->mask = rows_mask(op, mask, to.rows());
        step->row_cost = 2.0 * to.channels + 8.0 * pieces;
        return add(std::move(step));
    }

    int mean(int mask, const Array& x, const Result& out) {
        const char* op = "mean";
        const View in = view(op, "x", x), to = view(op, "out", out);
        require(to.rows() == 1 && to.channels == in.channels && apart(in, to), op, ": out must be one row of ",
                in.channels);
        auto step = std::make_unique<MeanStep>();
        step->in = {in.at, in.step, in.height, in.width};
        step->channels = in.channels;
        step->out = static_cast<float*>(out.data());
        step->mask = rows_mask(op, mask, in.rows());
        keep({x}, out, {});
        return add(std::move(step));
    }

    int hold(int mask, int changed, const Array& x, const Result& out) {
        const char* op = "hold";
        const View in = view(op, "x", x), to = view(op, "out", out);
        require(in.rows() == 1 && to.rows() == 1 && in.channels == to.channels && apart(in, to), op,
                ": x and out must be one row");
        auto step = std::make_unique<HoldStep>();
        step->in = in.at;
        step->out = static_cast<float*>(out.data());
        step->channels = in.channels;
        step->mask = rows_mask(op, mask, 1);
        step->changed = rows_mask(op, changed, 1);
        require(step->changed != step->mask, op, ": `changed` must be a mask of its own");
        keep({x}, out, {});
        return add(std::move(step));
    }

    // --- frames and results ---

    // held: of an input of bytes, the frame its rows were taken from, as dense as the frames that come.
    int input(int mask, const Result& out, bool planar, const std::optional<Result>& held) {
        const char* op = "input";
        const View to = view(op, "out", out);
        require(to.step == to.channels, op, ": out must be dense");
        keep({}, out, {});
        inputs_.push_back(size());
        if (!held) return add(make_input<float>(mask, to, out, planar));
        require(held->dtype() == nb::dtype<uint8_t>() && is_dense(*held) &&
                    static_cast<int64_t>(held->size()) == to.rows() * to.channels,
                op, ": what is held must be dense, uint8, of ", to.rows(), " x ", to.channels, " values");
        auto step = make_input<uint8_t>(mask, to, out, planar);
        step->held = static_cast<uint8_t*>(held->data());
        keep({}, held, {});
        return add(std::move(step));
    }

    int output(int mask, const Array& x, const Array& row_at, const Array& channel_at, int64_t size) {
        const char* op = "output";
        const View in = view(op, "x", x);
        auto step = std::make_unique<OutputStep>(static_cast<int>(in.rows()));
        step->in = {in.at, in.step, in.height, in.width};
        step->channels = in.channels;
        step->mask = rows_mask(op, mask, in.rows());
        step->row_at = offsets_of(op, row_at, in.rows(), size);
        step->channel_at = offsets_of(op, channel_at, in.channels, size);
        const int64_t last = *std::max_element(step->row_at.begin(), step->row_at.end()) +
                             *std::max_element(step->channel_at.begin(), step->channel_at.end());
        require(last < size, op, ": an element lies at ", last, " of a tensor of ", size);
        sizes_[static_cast<int>(steps_.size())] = size;
        keep({x}, std::nullopt, {});
        return add(std::move(step));
    }

    // The frame an input step reads next, and the rows the caller says are new (uint8, or none: compare). False when it
    // holds a NaN or an infinity where it would be read.
    bool feed(int index, const Array& frame, const std::optional<Array>& given) {
        const char* op = "feed";
        require(index >= 0 && index < static_cast<int>(steps_.size()), op, ": there is no step ", index);
        if (auto* bytes = dynamic_cast<InputStep<uint8_t>*>(steps_[static_cast<size_t>(index)].get()))
            return feed_to(*bytes, frame, given);
        auto* floats = dynamic_cast<InputStep<float>*>(steps_[static_cast<size_t>(index)].get());
        require(floats != nullptr, op, ": step ", index, " is no input");
        return feed_to(*floats, frame, given);
    }

    // Where an output step writes from now on: a dense float32 tensor that holds what it wrote before, or is `behind`: the
    // tensor that was bound before the one that is.
    void bind(int index, const Result& to, bool behind) {
        const char* op = "bind";
        require(index >= 0 && index < static_cast<int>(steps_.size()), op, ": there is no step ", index);
        auto* step = dynamic_cast<OutputStep*>(steps_[static_cast<size_t>(index)].get());
        require(step != nullptr, op, ": step ", index, " is no output");
        require(to.dtype() == nb::dtype<float>() && is_dense(to) && static_cast<int64_t>(to.size()) == sizes_[index],
                op, ": the tensor must be dense, float32, of ", sizes_[index], " elements");
        step->turn(static_cast<float*>(to.data()), behind);
        bound_[index] = to;
    }

    // A map that rolls with the camera: its cells are `scale` (y, x) frame pixels apart.
    void rolls(const Result& map, Pair scale) {
        const char* op = "rolls";
        const View at = view(op, "map", map);
        require(at.step == at.channels, op, ": the map must be dense");
        require(scale.first >= 1 && scale.second >= 1, op, ": the scale is (", scale.first, ", ", scale.second, ")");
        rolling_.push_back({static_cast<float*>(map.data()), at.height, at.width, at.channels, scale});
        keep({}, map, {});
    }

    // The values of this step know where they lie: all rows are computed in the frame after a roll.
    void placed(int index) {
        require(index >= 0 && index < size(), "placed: there is no step ", index);
        steps_[static_cast<size_t>(index)]->placed = true;
    }

    // Every map that rolls moves by (dy, dx) frame pixels, down and to the right, around the edges.
    void roll(int dy, int dx) {
        const char* op = "roll";
        for (const Rolling& map : rolling_) {
            require(dy % map.scale.first == 0 && dx % map.scale.second == 0, op, ": (", dy, ", ", dx,
                    ") pixels are not whole cells of a map of scale (", map.scale.first, ", ", map.scale.second, ")");
        }
        require(!rolling_.empty(), op, ": this plan has no maps that roll");
        nb::gil_scoped_release unlocked;
        pool_.run(std::min(pool_.size(), static_cast<int>(rolling_.size())), [&](int t) {
            for (size_t i = static_cast<size_t>(t); i < rolling_.size(); i += static_cast<size_t>(pool_.size())) {
                const Rolling& map = rolling_[i];
                roll_lines(map.at, map.height, map.width, map.channels, dy / map.scale.first, dx / map.scale.second);
            }
        });
        for (const int index : inputs_) {
            PlanStep* step = steps_[static_cast<size_t>(index)].get();
            if (auto* bytes = dynamic_cast<InputStep<uint8_t>*>(step)) bytes->roll(dy, dx);
        }
        frame_.rolled = true;
    }

    // Which cells the changes of a frame may spread to (uint8), instead of a radius; none: the radius.
    void bound_to(int index, const std::optional<Array>& given) {
        const char* op = "bound_to";
        require(index >= 0 && index < size(), op, ": there is no step ", index);
        auto* step = dynamic_cast<ReachStep*>(steps_[static_cast<size_t>(index)].get());
        require(step != nullptr, op, ": step ", index, " is no reach");
        step->given = nullptr;
        if (!given) return;
        require(is_dense(*given) && static_cast<int64_t>(given->size()) == step->out->rows(), op,
                ": the mask must be dense, of ", step->out->rows(), " pixels");
        const uint8_t* cells = data_of<uint8_t>(op, "the mask", *given);
        const bool flags = std::all_of(cells, cells + given->size(), [](uint8_t c) { return c <= 1; });
        require(flags, op, ": the mask must hold zeros and ones");
        step->given = cells;
        bounds_[index] = *given;
    }

    void set(float threshold, float gate, int radius, bool by_mean) {
        require(threshold >= 0 && gate >= 0, "set: threshold is ", threshold, ", gate is ", gate,
                "; both must be at least 0");
        frame_.threshold = threshold;
        frame_.gate = gate;
        frame_.by_mean = by_mean;
        frame_.radius = radius;
    }

    // Runs steps begin .. end of a frame.
    void run(bool fresh, int begin, int end) {
        require(begin >= 0 && begin <= end && end <= static_cast<int>(steps_.size()), "run: steps ", begin, " .. ", end,
                " of ", steps_.size());
        for (const auto& [index, unused] : sizes_) {
            require(index < begin || index >= end || bound_.count(index), "run: output step ", index, " is not bound");
        }
        for (const int index : inputs_) {
            require(index < begin || index >= end || fed_.count(steps_[static_cast<size_t>(index)].get()),
                    "run: input step ", index, " has no frame");
        }
        prepare();
        nb::gil_scoped_release unlocked;
        frame_.fresh = fresh;
        if (!timed_) {
            for (int i = begin; i < end; ++i) steps_[static_cast<size_t>(i)]->run(frame_);
            frame_.rolled &= end < size();
            return;
        }
        took_ms_.resize(steps_.size());
        for (int i = begin; i < end; ++i) {
            const auto from = std::chrono::steady_clock::now();
            steps_[static_cast<size_t>(i)]->run(frame_);
            took_ms_[static_cast<size_t>(i)] =
                std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - from).count();
        }
        frame_.rolled &= end < size();
    }

    // The mask's bytes.
    nb::bytes bits(int mask) {
        const Mask* m = mask_at("bits", mask);
        return nb::bytes(reinterpret_cast<const char*>(m->bits()), static_cast<size_t>(m->rows()));
    }

    // For a step that runs outside: does it have anything to do, and everything of its result is new.
    bool any(int mask) { return mask_at("any", mask)->any(); }
    int count(int mask) { return mask_at("count", mask)->count(); }
    std::vector<double> done() const {
        std::vector<double> found;
        for (const auto& step : steps_) found.push_back(step->done);
        return found;
    }
    int size() const { return static_cast<int>(steps_.size()); }

    // From now on, how long each step of a frame takes.
    void time(bool timed) { timed_ = timed; }
    std::vector<double> took_ms() const { return took_ms_; }

  private:
    static int checked(int threads) {
        require(threads >= 1 && threads <= 256, "Plan: ", threads, " threads");
        return threads;
    }

    int add(std::unique_ptr<PlanStep> step) {
        steps_.push_back(std::move(step));
        return static_cast<int>(steps_.size()) - 1;
    }

    Mask* mask_at(const char* op, int index) const {
        require(index >= 0 && index < static_cast<int>(masks_.size()), op, ": there is no mask ", index);
        return masks_[static_cast<size_t>(index)].get();
    }

    Mask* rows_mask(const char* op, int index, int64_t rows) const {
        Mask* mask = mask_at(op, index);
        require(mask->rows() == rows, op, ": mask ", index, " has ", mask->rows(), " rows, the map has ", rows);
        return mask;
    }

    template <class P>
    std::unique_ptr<KernelStep<P>> kernel(const char* op, const P& p, void (*run)(const P&), int mask, int changed,
                                          const Result& out) {
        auto step = std::make_unique<KernelStep<P>>();
        const int64_t rows = view(op, "out", out).rows();
        step->p = p;
        step->kernel = run;
        step->mask = rows_mask(op, mask, rows);
        step->changed = changed < 0 ? nullptr : rows_mask(op, changed, rows);
        require(step->changed != step->mask, op, ": `changed` must be a mask of its own");
        needed_ = std::max(needed_, scratch_of(p));
        return step;
    }

    template <class T>
    std::unique_ptr<InputStep<T>> make_input(int mask, const View& to, const Result& out, bool planar) {
        auto step = std::make_unique<InputStep<T>>();
        step->out = static_cast<float*>(out.data());
        step->rows = static_cast<int>(to.rows());
        step->width = to.width;
        step->channels = to.channels;
        step->planar = planar;
        step->mask = rows_mask("input", mask, to.rows());
        return step;
    }

    template <class T>
    bool feed_to(InputStep<T>& step, const Array& frame, const std::optional<Array>& given) {
        const char* op = "feed";
        require(
            is_dense(frame) && static_cast<int64_t>(frame.size()) == static_cast<int64_t>(step.rows) * step.channels,
            op, ": the frame must be dense, of ", step.rows, " x ", step.channels, " values");
        const T* data = data_of<T>(op, "the frame", frame);
        const uint8_t* mask = nullptr;
        if (given) {
            require(is_dense(*given) && static_cast<int64_t>(given->size()) == step.rows, op,
                    ": the mask must be dense, of ", step.rows, " pixels");
            mask = data_of<uint8_t>(op, "the mask", *given);
        }
        if constexpr (std::is_same_v<T, float>) {
            if (!step.finite(data, mask)) return false;
        }
        step.data = data;
        step.given = mask;
        fed_[&step] = {frame, given};
        return true;
    }

    template <class A>
    static bool is_dense(const A& a) {
        int64_t expected = 1;
        for (size_t i = a.ndim(); i-- > 0;) {
            if (a.shape(i) != 1 && a.stride(i) != expected) return false;
            expected *= static_cast<int64_t>(a.shape(i));
        }
        return true;
    }

    std::vector<int32_t> table_of(const char* op, const Array& reads, int size) {
        require(is_dense(reads), op, ": reads must be dense");
        const int32_t* at = data_of<int32_t>(op, "reads", reads);
        const std::vector<int32_t> found(at, at + reads.size());
        for (const int32_t read : found)
            require(read >= -1 && read < size, op, ": a read is ", read, ", the map has ", size);
        return found;
    }

    std::vector<int64_t> offsets_of(const char* op, const Array& a, int64_t n, int64_t size) {
        require(a.dtype() == nb::dtype<int64_t>() && is_dense(a) && static_cast<int64_t>(a.size()) == n, op,
                ": offsets must be int64, dense, ", n, " of them");
        const int64_t* at = static_cast<const int64_t*>(a.data());
        for (int64_t i = 0; i < n; ++i) {
            require(at[i] >= 0 && at[i] < size, op, ": an offset is ", at[i], " in a tensor of ", size);
        }
        return {at, at + n};
    }

    void keep(std::initializer_list<Array> arrays, const std::optional<Result>& out,
              std::initializer_list<std::optional<Array>> more) {
        for (const Array& a : arrays) arrays_.push_back(a);
        for (const auto& a : more) {
            if (a) arrays_.push_back(*a);
        }
        if (out) results_.push_back(*out);
    }

    const float* zeros(size_t n) {
        zeros_.push_back(std::make_unique<std::vector<float>>(n, 0.f));
        return zeros_.back()->data();
    }

    // Scratch memory for each thread, when steps were added since it was made.
    void prepare() {
        if (made_ >= needed_ && !scratch_.empty()) return;
        memory_.clear();
        scratch_.clear();
        for (int t = 0; t < pool_.size(); ++t) {
            memory_.emplace_back(
                static_cast<char*>(::operator new(std::max<size_t>(needed_, 64), std::align_val_t(64))));
            scratch_.push_back(memory_.back().get());
        }
        made_ = needed_;
        frame_.pool = &pool_;
        frame_.scratch = scratch_.data();
    }

    const Kernels& kernels_;
    Threads pool_;
    struct Rolling {
        float* at;
        int height, width, channels;
        Pair scale;
    };

    Frame frame_ = {nullptr, nullptr, true, false, 0, 0, false, -1};
    std::vector<Rolling> rolling_;
    std::vector<std::unique_ptr<Mask>> masks_;
    std::vector<std::unique_ptr<PlanStep>> steps_;
    std::vector<std::unique_ptr<std::vector<Step>>> terms_;
    std::vector<std::unique_ptr<std::vector<int64_t>>> tables_;
    std::vector<std::unique_ptr<std::vector<float>>> zeros_;
    std::vector<Array> arrays_;
    std::map<const PlanStep*, std::pair<Array, std::optional<Array>>> fed_;
    std::vector<Result> results_;
    std::map<int, Result> bound_;
    std::map<int, int64_t> sizes_;
    std::map<int, Array> bounds_;
    std::vector<int> inputs_;
    std::vector<nb::object> kept_;
    std::vector<std::unique_ptr<char, ScratchFree>> memory_;
    std::vector<char*> scratch_;
    std::vector<double> took_ms_;
    bool timed_ = false;
    size_t needed_ = 0, made_ = 0;
};

}  // namespace

void bind_plan(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<Plan>(m, "Plan", "A frame as a list of steps; see fluxcompile.runtime.plan, which builds it.")
        .def(nb::init<const std::string&, int>(), "variant"_a, "threads"_a)
        .def("mask", &Plan::mask, "rows"_a)
        .def("join", &Plan::join, "out"_a, "readers"_a)
        .def("window", &Plan::window, "out"_a, "in_"_a, "reads_y"_a.noconvert(), "reads_x"_a.noconvert(), "size"_a,
             "near"_a)
        .def("limit", &Plan::limit, "out"_a, "in_"_a, "near"_a)
        .def("reach", &Plan::reach, "out"_a, "in_"_a, "width"_a)
        .def("conv2d", &Plan::conv2d, "mask"_a, "changed"_a, "x"_a.noconvert(), "weights"_a.noconvert(),
             "bias"_a.noconvert(), "taps"_a.noconvert(), "out"_a.noconvert(), "groups"_a, "stride"_a, "up"_a, "phase"_a,
             "act"_a, "a"_a, "b"_a, "slope"_a.noconvert().none(), "residual"_a.noconvert().none(), "residual_first"_a)
        .def("pool2d", &Plan::pool2d, "mask"_a, "changed"_a, "x"_a.noconvert(), "taps"_a.noconvert(),
             "out"_a.noconvert(), "kind"_a, "stride"_a, "divisor"_a)
        .def("resample2d", &Plan::resample2d, "mask"_a, "changed"_a, "x"_a.noconvert(), "index_y"_a.noconvert(),
             "weight_y"_a.noconvert(), "index_x"_a.noconvert(), "weight_x"_a.noconvert(), "out"_a.noconvert())
        .def("pointwise", &Plan::pointwise, "mask"_a, "changed"_a, "x"_a.noconvert(), "terms"_a, "out"_a.noconvert())
        .def("layer_norm", &Plan::layer_norm, "mask"_a, "changed"_a, "x"_a.noconvert(), "gamma"_a.noconvert().none(),
             "beta"_a.noconvert().none(), "epsilon"_a, "out"_a.noconvert())
        .def("softmax", &Plan::softmax, "mask"_a, "changed"_a, "x"_a.noconvert(), "scale"_a, "out"_a.noconvert())
        .def("attention", &Plan::attention, "mask"_a, "changed"_a, "q"_a.noconvert(), "k"_a.noconvert(),
             "v"_a.noconvert(), "out"_a.noconvert(), "heads"_a, "scale"_a, "keys"_a.noconvert(),
             "group_of"_a.noconvert().none(), "member_of"_a.noconvert().none(), "bias"_a.noconvert().none())
        .def("correct_attention", &Plan::correct_attention, "mask"_a, "changed"_a, "q"_a.noconvert(), "k"_a.noconvert(),
             "v"_a.noconvert(), "out"_a.noconvert(), "heads"_a, "scale"_a, "queries"_a, "keys"_a, "k_old"_a.noconvert(),
             "v_old"_a.noconvert(), "mean"_a.noconvert(), "sums"_a.noconvert())
        .def("gather", &Plan::gather, "mask"_a, "x"_a.noconvert(), "table"_a.noconvert(), "out"_a.noconvert(),
             "relative"_a, "fill"_a)
        .def("mean", &Plan::mean, "mask"_a, "x"_a.noconvert(), "out"_a.noconvert())
        .def("hold", &Plan::hold, "mask"_a, "changed"_a, "x"_a.noconvert(), "out"_a.noconvert())
        .def("input", &Plan::input, "mask"_a, "out"_a.noconvert(), "planar"_a, "held"_a.noconvert().none())
        .def("output", &Plan::output, "mask"_a, "x"_a.noconvert(), "row_at"_a.noconvert(), "channel_at"_a.noconvert(),
             "size"_a)
        .def("feed", &Plan::feed, "index"_a, "frame"_a.noconvert(), "given"_a.noconvert().none())
        .def("bind", &Plan::bind, "index"_a, "to"_a.noconvert(), "behind"_a = false)
        .def("rolls", &Plan::rolls, "map"_a.noconvert(), "scale"_a)
        .def("placed", &Plan::placed, "index"_a)
        .def("roll", &Plan::roll, "dy"_a, "dx"_a)
        .def("bound_to", &Plan::bound_to, "index"_a, "given"_a.noconvert().none())
        .def("set", &Plan::set, "threshold"_a, "gate"_a, "radius"_a, "by_mean"_a = false)
        .def("run", &Plan::run, "fresh"_a, "begin"_a, "end"_a)
        .def("bits", &Plan::bits, "mask"_a)
        .def("any", &Plan::any, "mask"_a)
        .def("count", &Plan::count, "mask"_a)
        .def("done", &Plan::done)
        .def("time", &Plan::time, "timed"_a)
        .def("took_ms", &Plan::took_ms)
        .def("__len__", &Plan::size);
}

}  // namespace flux
