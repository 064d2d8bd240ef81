#include "pool.h"

#include <string>
#include <system_error>

#include "error.h"

namespace ghostzoo {
namespace {

[[maybe_unused]] constexpr int kLooks = 2000;  // some 20 to 100 microseconds

[[maybe_unused]] void pause() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

}  // namespace

void Rounds::look([[maybe_unused]] int looks) {
#if !defined(GHOSTZOO_NO_THREADS)
    if (looks < kLooks) pause();
    else std::this_thread::yield();
#endif
}

#if !defined(GHOSTZOO_NO_THREADS)

Pool::Pool(int threads) {
    try {
        for (int i = 1; i < threads; i++) threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error&) {
        end();
        throw Failure(GHOSTZOO_NO_MEMORY, "The system starts no more than " + std::to_string(threads_.size()) + " threads; ask for fewer.");
    }
}

Pool::~Pool() { end(); }

void Pool::end() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ends_ = true;
    }
    begin_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Pool::run(size_t parts, const std::function<void(size_t)>& work) {
    if (threads_.empty() || parts < 2) {
        for (size_t part = 0; part < parts; part++) work(part);
        return;
    }
    std::lock_guard<std::mutex> one_call(call_);
    share(parts, work);
}

bool Pool::run_if_idle(size_t parts, const std::function<void(size_t)>& work) {
    std::unique_lock<std::mutex> one_call(call_, std::try_to_lock);
    if (one_call) share(parts, work);
    return one_call.owns_lock();
}

void Pool::share(size_t parts, const std::function<void(size_t)>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = &work;
    next_ = 0;
    parts_ = parts;
    calls_++;
    begin_.notify_all();
    while (next_ < parts_) {
        const size_t part = next_++;
        running_++;
        lock.unlock();
        work(part);
        lock.lock();
        running_--;
    }
    end_.wait(lock, [this] { return running_ == 0; });
    work_ = nullptr;
}

void Pool::serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        if (!ends_ && next_ >= parts_) {
            // The next call often comes at once, and waking takes long.
            const unsigned calls = calls_;
            lock.unlock();
            for (int i = 0; i < kLooks && calls_ == calls; i++) pause();
            lock.lock();
        }
        begin_.wait(lock, [this] { return ends_ || next_ < parts_; });
        if (ends_) return;
        while (next_ < parts_) {
            const size_t part = next_++;
            const auto& work = *work_;
            running_++;
            lock.unlock();
            work(part);
            lock.lock();
            if (--running_ == 0 && next_ >= parts_) end_.notify_all();
        }
    }
}

#endif

}  // namespace ghostzoo
