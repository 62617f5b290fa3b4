#include "shim.h"

#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_on_cpu.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace flux {
namespace shim {
namespace {

constexpr size_t kStackBytes = 64 << 10;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuardBytes = 0;  // AddressSanitizer watches the allocation's own end
#else
constexpr size_t kGuardBytes = 64;
#endif
constexpr unsigned char kPoison = 0xff, kGuard = 0xa5;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    bool ended;
    const char* file;
    int line;
};

// The scheduler: it alone resumes fibers, and they return to it at a barrier or at their end.
class Block {
  public:
    void run(void (*kernel)(const void*), const void* arguments, const Grid& grid, Order order) {
        kernel_ = kernel;
        arguments_ = arguments;
        poison(grid.shared_bytes);
        while (fibers_.size() < grid.threads) fibers_.push_back(std::make_unique<Fiber>());
        for (unsigned t = 0; t < grid.threads; ++t) start(*fibers_[t]);
        do {
            for (unsigned i = 0; i < grid.threads; ++i) {
                const unsigned t = order == Order::forward ? i : grid.threads - 1 - i;
                if (!fibers_[t]->ended) resume(t);
            }
        } while (!all_ended(grid.threads));
        for (size_t i = 0; i < kGuardBytes; ++i) {
            if (shared_[grid.shared_bytes + i] != kGuard) throw std::runtime_error("a write beyond shared memory");
        }
    }

    void wait(const char* file, int line) {
        running_->file = file;
        running_->line = line;
        leave(false);
    }

    void* shared() { return shared_.get(); }

  private:
    void poison(size_t bytes) {
        shared_.reset(new unsigned char[bytes + kGuardBytes]);
        std::memset(shared_.get(), kPoison, bytes);
        std::memset(shared_.get() + bytes, kGuard, kGuardBytes);
    }

    void start(Fiber& fiber) {
        fiber.ended = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Block::enter, 0);
    }

    void resume(unsigned thread) {
        running_ = fibers_[thread].get();
        threadIdx = {thread, 0};
#if defined(__SANITIZE_ADDRESS__)
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(&fake, running_->stack.get(), kStackBytes);
#endif
        swapcontext(&scheduler_, &running_->context);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    }

    void leave(bool for_good) {
        Fiber& fiber = *running_;
        fiber.ended = for_good;
#if defined(__SANITIZE_ADDRESS__)
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack_, scheduler_bytes_);
#endif
        swapcontext(&fiber.context, &scheduler_);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake, &scheduler_stack_, &scheduler_bytes_);
#endif
    }

    static void enter();

    // Throws where the threads that have not ended cannot all pass one barrier.
    bool all_ended(unsigned threads) const {
        const Fiber* waiting = nullptr;
        unsigned ended = 0;
        for (unsigned t = 0; t < threads; ++t) {
            const Fiber& fiber = *fibers_[t];
            ended += fiber.ended;
            if (fiber.ended) continue;
            if (waiting && (waiting->line != fiber.line || std::strcmp(waiting->file, fiber.file) != 0)) {
                throw std::runtime_error("threads wait at different barriers: " + at(*waiting) + " and " + at(fiber));
            }
            waiting = &fiber;
        }
        if (waiting && ended) {
            throw std::runtime_error(std::to_string(ended) + " threads have ended, others wait at " + at(*waiting));
        }
        return !waiting;
    }

    static std::string at(const Fiber& fiber) {
        const std::string file = fiber.file;
        return file.substr(file.rfind('/') + 1) + ":" + std::to_string(fiber.line);
    }

    void (*kernel_)(const void*) = nullptr;
    const void* arguments_ = nullptr;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    Fiber* running_ = nullptr;
    ucontext_t scheduler_;
    std::unique_ptr<unsigned char[]> shared_;
#if defined(__SANITIZE_ADDRESS__)
    const void* scheduler_stack_ = nullptr;
    size_t scheduler_bytes_ = 0;
#endif
};

Block block;

void Block::enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack_, &block.scheduler_bytes_);
#endif
    block.kernel_(block.arguments_);
    block.leave(true);
}

}  // namespace

void barrier(const char* file, int line) { block.wait(file, line); }

void* shared_memory() { return block.shared(); }

void launch(void (*kernel)(const void*), const void* arguments, const Grid& grid, Order order) {
    const unsigned blocks = grid.blocks_x * grid.blocks_y;
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned b = order == Order::forward ? i : blocks - 1 - i;
        blockIdx = {b % grid.blocks_x, b / grid.blocks_x};
        block.run(kernel, arguments, grid, order);
    }
}

}  // namespace shim
}  // namespace flux
