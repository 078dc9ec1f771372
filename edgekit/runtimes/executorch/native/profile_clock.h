// The clock that profiled runs are measured by: nanoseconds, and it stands still while it is read
// and while events are written down, so that profiling is no part of what it measures.
#pragma once

#include <stdint.h>

namespace edgekit {

class ProfileClock {
 public:
  // Measures, the first time, what a reading costs. From here to stop(), CLOCK_MONOTONIC as the
  // libraries read it is this clock, and a thousand times as fast: XNNPACK tells whole
  // microseconds, and these are our nanoseconds.
  void start();
  void stop() { running_ = false; }
  bool running() const { return running_; }

  uint64_t read();

  // Takes all that passed since the last reading for the writing of events.
  void leave_out();

  void library_reads() { library_reads_++; }

  // How long a microsecond of theirs is. Where they read another clock after all: 1000 ns.
  uint64_t library_microsecond_ns() const { return library_reads_ ? 1 : 1000; }

 private:
  bool running_ = false;
  bool calibrated_ = false;
  uint64_t read_cost_ = 0;
  uint64_t left_out_ = 0;
  uint64_t last_ = 0;       // the last reading, in real time
  uint64_t last_told_ = 0;  // and what it gave: never back, though a reading may cost less
  uint64_t library_reads_ = 0;
};

extern ProfileClock profile_clock;

}  // namespace edgekit
