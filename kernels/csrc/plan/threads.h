// A few threads that wait for the next piece of work: they spin a little, then sleep.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace flux {

class Threads {
  public:
    explicit Threads(int threads) {
        for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { serve(t); });
    }

    ~Threads() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
            ++turn_;
        }
        wake_.notify_all();
        for (std::thread& w : workers_) w.join();
    }

    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // Runs job(0) .. job(parts - 1), parts at most size(), the first on the caller.
    template <class Job>
    void run(int parts, const Job& job) {
        if (parts == 1) return job(0);
        call_ = [](const void* j, int t) { (*static_cast<const Job*>(j))(t); };
        job_ = &job;
        parts_ = parts;
        left_.store(size() - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            turn_.fetch_add(1, std::memory_order_release);
        }
        if (asleep_.load(std::memory_order_acquire)) wake_.notify_all();
        job(0);
        while (left_.load(std::memory_order_acquire)) pause();
    }

  private:
    static void pause() {
#if defined(__x86_64__) || defined(_M_X64)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }

    void serve(int t) {
        unsigned seen = 0;
        for (;;) {
            for (int spin = 0; spin < 1 << 14 && turn_.load(std::memory_order_acquire) == seen; ++spin) pause();
            if (turn_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                ++asleep_;
                wake_.wait(lock, [&] { return turn_.load(std::memory_order_acquire) != seen; });
                --asleep_;
            }
            seen = turn_.load(std::memory_order_acquire);
            if (stop_) return;
            if (t < parts_) call_(job_, t);
            left_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> turn_{0};
    std::atomic<int> left_{0}, asleep_{0};
    std::atomic<bool> stop_{false};
    void (*call_)(const void*, int) = nullptr;
    const void* job_ = nullptr;
    int parts_ = 0;
};

}  // namespace flux
