// Threads that share the images of a call, or one image.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#if defined(__wasm__) && !defined(_REENTRANT)
#define GHOSTZOO_NO_THREADS
#else
#include <condition_variable>
#include <thread>
#include <vector>
#endif

namespace ghostzoo {

#if defined(GHOSTZOO_NO_THREADS)

struct Mutex {
    void lock() {}
    void unlock() {}
};

class Pool {
public:
    explicit Pool(int) {}
    void run(size_t parts, const std::function<void(size_t)>& work) {
        for (size_t part = 0; part < parts; part++) work(part);
    }
    bool run_if_idle(size_t, const std::function<void(size_t)>&) { return false; }
};

#else

using Mutex = std::mutex;

class Pool {
public:
    // `threads` counts the caller's own, which works, too.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // Calls work(0) ... work(parts - 1), each once, and returns when all have ended. From several threads, one after
    // the other. `work` does not throw.
    void run(size_t parts, const std::function<void(size_t)>& work);
    // The same, or false where other work is being done; then it calls nothing.
    bool run_if_idle(size_t parts, const std::function<void(size_t)>& work);

private:
    void serve();
    void share(size_t parts, const std::function<void(size_t)>& work);
    void end();

    std::mutex call_, mutex_;
    std::condition_variable begin_, end_;
    std::vector<std::thread> threads_;
    const std::function<void(size_t)>* work_ = nullptr;
    size_t next_ = 0, parts_ = 0, running_ = 0;
    std::atomic<unsigned> calls_{0};
    bool ends_ = false;
};

#endif

// Rounds of work that threads share. Each round has parts, and begins when those of the one before have all ended. A
// thread takes its own part, or one that nobody has begun: so none waits for a thread that has no CPU at the moment,
// unless that one is in the midst of a part.
class Rounds {
public:
    static constexpr int kMostParts = 32;
    void begin() { state_ = 0; }
    // Calls work(round, part) for this thread's share of all rounds; `mine` is the part that it had best take.
    template <class Work> void take_part(uint32_t rounds, int parts, int mine, Work work) {
        for (int looks = 0;;) {
            uint64_t state = state_.load(std::memory_order_acquire);
            const uint32_t round = static_cast<uint32_t>(state >> 32), taken = static_cast<uint32_t>(state);
            if (round == rounds) return;
            int part = mine;
            for (int i = 0; i < parts && taken >> part & 1; i++) part = (part + 1) % parts;
            if (taken >> part & 1) {
                look(looks++);
                continue;
            }
            if (!state_.compare_exchange_weak(state, state | uint64_t(1) << part, std::memory_order_acq_rel)) continue;
            looks = 0;
            work(round, part);
            if (ended_.fetch_add(1, std::memory_order_acq_rel) + 1 < parts) continue;
            ended_.store(0, std::memory_order_relaxed);
            state_.store(uint64_t(round + 1) << 32, std::memory_order_release);
        }
    }

private:
    static void look(int looks);  // and let others run after many

    std::atomic<uint64_t> state_{0};  // the round, and a bit for each part that was taken
    std::atomic<int> ended_{0};
};

}  // namespace ghostzoo
