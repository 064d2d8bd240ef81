// Threads that share the images of a call.
#pragma once
#include <cstddef>
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

private:
    void serve();
    void end();

    std::mutex call_, mutex_;
    std::condition_variable begin_, end_;
    std::vector<std::thread> threads_;
    const std::function<void(size_t)>* work_ = nullptr;
    size_t next_ = 0, parts_ = 0, running_ = 0;
    bool ends_ = false;
};

#endif

}  // namespace ghostzoo
