// The clock of profiled runs, in nanoseconds. It stops while it is read and while events are
// recorded, so that it does not measure the profiling itself.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace edgekit {

class ProfileClock {
 public:
  // The first call measures the cost of a reading. Until stop(), the libraries' CLOCK_MONOTONIC is
  // this clock, a thousand times as fast: XNNPACK reports whole microseconds, which thereby are
  // nanoseconds.
  void start();
  void stop() { running_ = false; }
  bool running() const { return running_; }

  uint64_t read();

  // Excludes the time since the last reading, which was spent recording events.
  void leave_out();

  // Notes a reading by a library.
  void library_reads(uint64_t now);

  // A delegate is about to run: its readings are the next ones.
  void start_delegate() { delegate_reads_ = counted_ = 0; }

  // How many of the delegate's readings belong to its next operator, which took `taken_ns`. A
  // library may read the clock several times in one operator (XNNPACK: for each part of a
  // concatenation).
  int readings_of(uint64_t taken_ns);

  // The length of a library's microsecond: 1 ns, or 1000 ns if it did not read this clock.
  uint64_t library_microsecond_ns() const { return library_reads_ ? 1 : 1000; }

 private:
  bool running_ = false;
  bool calibrated_ = false;
  uint64_t read_cost_ = 0;
  uint64_t left_out_ = 0;
  uint64_t last_ = 0;       // the last reading, in real time
  uint64_t last_returned_ = 0;  // its result; it always grows, though a reading may cost less
  uint64_t library_reads_ = 0;
  uint64_t* delegate_times_ = nullptr;  // the results of the delegate's readings
  size_t delegate_reads_ = 0;
  size_t delegate_capacity_ = 0;
  size_t counted_ = 0;  // readings before the next operator
};

extern ProfileClock profile_clock;

}  // namespace edgekit
