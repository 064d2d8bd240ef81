// Threads that share the images of a call.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ghostzoo {

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

}  // namespace ghostzoo
