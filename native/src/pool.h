// Threads that share the images of a call, or one image.
#pragma once
#include <cstddef>
#include <functional>
#include <mutex>
#if defined(__wasm__) && !defined(_REENTRANT)
#define GHOSTZOO_NO_THREADS
#else
#include <atomic>
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
    bool run_together(const std::function<void(size_t)>&) { return false; }
};

struct Meeting {
    void wait(int) {}
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
    // Calls work(0) ... work(threads - 1), each in a thread of its own, so that they may wait for each other; returns
    // false, and calls nothing, where other work is being done.
    bool run_together(const std::function<void(size_t)>& work);

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

// Where threads wait for each other, again and again. It takes less than a microsecond where each has a CPU, so they look
// for some time before they let others run.
class Meeting {
public:
    void wait(int threads);

private:
    std::atomic<int> here_{0};
    std::atomic<unsigned> round_{0};
};

#endif

}  // namespace ghostzoo
