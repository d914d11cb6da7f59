// One idea: work cut into fixed blocks, shared by threads, while the calling thread keeps listening for
// Ctrl-C.
//
// Which thread does which block is left to chance; results must depend on the block only.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "common/cores.hpp"
#include "common/floats.hpp"

namespace learnalign {

// Called now and then by the thread that called us, and by no other; it stops the work by throwing.
using Poll = std::function<void()>;
constexpr auto poll_interval = std::chrono::milliseconds(50);

// 0 means every core this process may use.
inline int thread_count(int asked, int64_t blocks) {
    const int64_t wanted = asked > 0 ? asked : usable_cores();
    return static_cast<int>(std::max<int64_t>(1, std::min(wanted, blocks)));
}

// Runs body(block) once for every block in [0, blocks). Blocks are handed out in ascending order. The first
// exception of a body or of the poll stops the others and is rethrown once all threads have ended.
// `stop` is set when that happens, so that a body which waits for another one can give up. Where the system
// refuses a thread, the work is done by those there are, if need be by the calling one.
template <class Body>
void parallel_blocks(int64_t blocks, int threads, const Poll& poll, std::atomic<bool>& stop, Body body) {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable finished;
    int running = 0;
    std::exception_ptr failure;

    const auto note_failure = [&] {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        stop = true;
    };
    const auto work = [&](auto between) {
        const IeeeFloats ieee;
        try {
            for (int64_t block; !stop && (block = next.fetch_add(1)) < blocks; between()) body(block);
        } catch (...) {
            note_failure();
        }
    };
    const auto work_aside = [&] {
        work([] {});
        const std::lock_guard lock(mutex);
        --running;
        finished.notify_all();
    };

    std::vector<std::thread> pool;
    pool.reserve(static_cast<size_t>(threads));
    for (int t = 0; t < threads; ++t) {
        {
            const std::lock_guard lock(mutex);
            ++running;
        }
        try {
            pool.emplace_back(work_aside);
        } catch (const std::system_error&) {
            const std::lock_guard lock(mutex);
            --running;
            break;
        }
    }
    if (pool.empty()) work(poll);
    try {
        std::unique_lock lock(mutex);
        while (!finished.wait_for(lock, poll_interval, [&] { return running == 0; })) {
            lock.unlock();
            poll();
            lock.lock();
        }
    } catch (...) {  // Ctrl-C
        note_failure();
    }
    for (auto& thread : pool) thread.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace learnalign
