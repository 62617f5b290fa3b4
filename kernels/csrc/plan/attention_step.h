// Attention of every row over all rows of k and v: rows that changed are computed, the others are corrected by the keys
// that changed.
#pragma once
#include <cstring>

#include "value_steps.h"

namespace flux {

// State, as it was when the step last ran: k and v, and each row's mean and sums (see Correction). The map others read
// takes a row of the state when it moved by more than the gate: what it leaves out is measured against the row that is
// there, so it does not add up.
struct AttentionStep : PlanStep {
    static constexpr int kLife = 64;  // corrections that a row lives through, which bounds how far rounding carries it

    KernelStep<Attention> plain;  // without the state: into the map itself
    Correction correction;        // its `now` computes rows of the state
    const Kernels* kernels;
    Mask *queries, *keys, *values;  // what changed
    std::vector<int32_t> every_key;

    void run(const Frame& frame) override {
        if (frame.radius >= 0 && frame.gate == 0) return run_plain(frame);  // changes stay near, whatever they are
        const bool whole =
            frame.fresh || frame.rolled || !kept;  // a roll would take rows out of the order of their age
        list_keys(whole);
        done = 0;
        if (moved.empty() && !queries->any()) return plain.changed->clear();
        list_rows(whole);
        correct(frame);
        compute(frame);
        for (const int32_t key : moved) {
            copy_row(correction.now.k, correction.k_old, key, correction.now.dim);
            copy_row(correction.now.v, correction.v_old, key, correction.now.value_dim);
        }
        kept = true;
        show(frame, frame.fresh || (frame.rolled && placed));
    }

  private:
    std::vector<int32_t> moved, anew, corrected, near, far;
    std::vector<uint8_t> poor, flags;
    MeanGate mean_gate;
    bool kept = false;
    int turn = 0;
    float bound = 0;

    int rows() const { return plain.mask->rows(); }

    void run_plain(const Frame& frame) {
        kept = false;
        plain.placed = placed;
        plain.run(frame);
        done = plain.done;
    }

    void list_keys(bool whole) {
        moved.clear();
        if (!whole && !keys->any() && !values->any()) return;
        const uint8_t *k = keys->bits(), *v = values->bits();
        for (const int32_t key : every_key) {
            if (whole || k[key] || v[key]) moved.push_back(key);
        }
    }

    void list_rows(bool whole) {
        anew.clear();
        corrected.clear();
        // A correction takes each changed key twice.
        const bool all = whole || 2 * moved.size() >= every_key.size();
        const uint8_t* own = queries->bits();
        for (int32_t row = 0; row < rows(); ++row) {
            if (all || own[row] || (!moved.empty() && row % kLife == turn)) {
                anew.push_back(row);
            } else if (!moved.empty()) {
                corrected.push_back(row);
            }
        }
        if (!corrected.empty()) turn = (turn + 1) % kLife;
    }

    // job(begin, end, scratch) for parts of n rows.
    template <class Job>
    static void share(const Frame& frame, size_t count, double row_cost, const Job& job) {
        const int n = static_cast<int>(count), parts = n * row_cost < 1e5 ? 1 : std::min(n, frame.pool->size());
        frame.pool->run(parts, [&](int t) {
            const auto at = [&](int part) { return static_cast<int>(static_cast<int64_t>(n) * part / parts); };
            job(at(t), at(t + 1), frame.scratch[t]);
        });
    }

    void correct(const Frame& frame) {
        if (corrected.empty()) return;
        const double pairs = 2.0 * static_cast<double>(moved.size()) / static_cast<double>(every_key.size());
        poor.resize(corrected.size());
        share(frame, corrected.size(), plain.row_cost * pairs, [&](int begin, int end, void* scratch) {
            Correction c = correction;
            c.now.keys = moved.data();
            c.now.members = static_cast<int>(moved.size());
            c.now.out.cells = corrected.data() + begin;
            c.now.out.count = end - begin;
            c.now.scratch = scratch;
            c.poor = poor.data() + begin;
            kernels->correct_attention(c);
        });
        done += pairs * static_cast<double>(corrected.size());
        for (size_t i = 0; i < corrected.size(); ++i) {
            if (poor[i]) anew.push_back(corrected[i]);
        }
    }

    void compute(const Frame& frame) {
        if (anew.empty()) return;
        share(frame, anew.size(), plain.row_cost, [&](int begin, int end, void* scratch) {
            Attention p = correction.now;
            p.out.cells = anew.data() + begin;
            p.out.count = end - begin;
            p.scratch = scratch;
            kernels->cached_attention(p);
        });
        done += static_cast<double>(anew.size());
    }

    void copy_row(const Map& from, const Map& to, int32_t row, int dim) const {
        std::memcpy(const_cast<float*>(to.at) + row * to.step, from.at + row * from.step,
                    sizeof(float) * static_cast<size_t>(correction.now.heads * dim));
    }

    // The state's rows that moved, into the map: with a radius, all that lie within it, and beyond what the gate passes.
    void show(const Frame& frame, bool all) {
        near.clear();
        far.clear();
        const uint8_t *own = queries->bits(), *within = plain.mask->bits();
        for (int32_t row = 0; row < rows(); ++row) {
            if (all || (frame.radius >= 0 && within[row])) {
                near.push_back(row);
            } else if (!moved.empty() || own[row]) {
                far.push_back(row);
            }
        }
        uint8_t* to = plain.changed->open();
        show_rows(frame, near, 0, to);
        if (frame.by_mean && frame.gate > 0) {
            mean_gate.keep(plain.p.out, far);
            show_rows(frame, far, 0, to);
            for (const int32_t cell : far) to[cell] = 0;
            mean_gate.settle(plain.p.out, far, rows(), frame.gate * bound, to);
        } else {
            show_rows(frame, far, frame.gate * bound, to);
        }
        plain.changed->close(0, rows());
        if (all) plain.changed->fill();
        if (frame.fresh && frame.gate > 0) bound = deviation(plain.p.out, rows());
    }

    // Rows that moved by more than `least`, and marks them in `to`.
    void show_rows(const Frame& frame, const std::vector<int32_t>& cells, float least, uint8_t* to) {
        if (cells.empty()) return;
        const Attention& now = correction.now;
        flags.resize(cells.size());
        share(frame, cells.size(), 4.0 * now.out.channels, [&](int begin, int end, void* scratch) {
            Pointwise p = {{now.out.at, now.out.step, now.q.height, now.q.width}, plain.p.out, nullptr, 0, scratch};
            p.out.cells = cells.data() + begin;
            p.out.count = end - begin;
            p.out.gate = Gate::largest;
            p.out.bound = least;
            p.out.changed = flags.data() + begin;
            kernels->cached_pointwise(p);
        });
        for (size_t i = 0; i < cells.size(); ++i) to[cells[i]] = flags[i];
    }
};

}  // namespace flux
