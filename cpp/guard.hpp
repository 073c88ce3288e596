// When to stop: out of time, or the caller says so.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>

namespace workbench {

class Guard {
public:
    // `poll` is called a hundred times a second and may throw to abandon the work.
    Guard(double seconds, std::function<void()> poll)
        : end_(Clock::now() + std::chrono::milliseconds(static_cast<long long>(1e3 * std::min(seconds, kLongest)))),
          poll_(std::move(poll)) {}

    bool expired() {
        const Clock::time_point now = Clock::now();
        if (now >= next_poll_) {
            next_poll_ = now + std::chrono::milliseconds(10);
            poll_();
        }
        return now >= end_;
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr double kLongest = 1e9;  // seconds; the clock's own range is not much larger
    Clock::time_point end_;
    Clock::time_point next_poll_{};
    std::function<void()> poll_;
};

}  // namespace workbench
