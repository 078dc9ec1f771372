// Operator times through ExecuTorch's event tracer interface. The ETDump library is not used: it
// would be one more library on the device, and reading its files needs torch on the host.
#pragma once

#include <executorch/runtime/core/event_tracer.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <new>

#include "markers.h"
#include "profile_clock.h"
#include "text.h"

namespace edgekit {

namespace et = executorch::runtime;

// Every run logs the same events in the same order, so the n-th event belongs to the n-th row. Rows
// are created in the first run; later runs only write their times.
class Tracer final : public et::EventTracer {
 public:
  void start_run() {
    cursor_ = open_count_ = 0;
    interruptions_ = interruptions();
    profile_clock.start();
    run_start_ = profile_clock.read();
    mark<Mark::kLeaveOut>();
  }

  // If the kernel preempted a run, its times include another program. Such runs count only if
  // there are no others.
  void end_run() {
    const uint64_t taken = profile_clock.read() - run_start_;
    profile_clock.stop();
    add_run(taken);
    mark<Mark::kLeaveOut>();
  }

  void reset() {
    undisturbed_ = false;
    forget();
  }

  const ProfileRow* rows(int* count, Profiled* whole) {
    for (int i = 0; i < count_; i++) give_full_name(rows_ + i);
    *count = count_;
    *whole = {runs_, total_ns_};
    return rows_;
  }

  void create_event_block(const char*) override {}

  et::EventTracerEntry start_profiling(const char* name, et::ChainID, et::DebugHandle) override {
    return open(name);
  }

  void end_profiling(et::EventTracerEntry entry) override { close(entry, false); }

  et::EventTracerEntry start_profiling_delegate(const char* name,
                                                et::DelegateDebugIntId) override {
    return open(name);
  }

  void end_profiling_delegate(et::EventTracerEntry entry, const void*, size_t) override {
    close(entry, true);
  }

  // XNNPACK logs all its operators at the end of its run, with ticks converted from microseconds.
  void log_profiling_delegate(const char* name, et::DelegateDebugIntId, et_timestamp_t start,
                              et_timestamp_t end, const void*, size_t) override {
    const uint64_t taken = (end - start) * profile_clock.library_microsecond_ns() / 1000;
    add(name, taken, true, profile_clock.readings_of(taken));
    profile_clock.leave_out();
    mark<Mark::kLeaveOut>();
  }

  void track_allocation(et::AllocatorID, size_t) override {}
  et::AllocatorID track_allocator(const char*) override { return 0; }
  et::Result<bool> log_evalue(const et::EValue&, et::LoggedEValueType) override { return false; }
  et::Result<bool> log_intermediate_output_delegate(const char*, et::DelegateDebugIntId,
                                                    const executorch::aten::Tensor&) override {
    return false;
  }
  et::Result<bool> log_intermediate_output_delegate(
      const char*, et::DelegateDebugIntId,
      const et::ArrayRef<executorch::aten::Tensor>) override {
    return false;
  }
  et::Result<bool> log_intermediate_output_delegate(const char*, et::DelegateDebugIntId,
                                                    const int&) override {
    return false;
  }
  et::Result<bool> log_intermediate_output_delegate(const char*, et::DelegateDebugIntId,
                                                    const bool&) override {
    return false;
  }
  et::Result<bool> log_intermediate_output_delegate(const char*, et::DelegateDebugIntId,
                                                    const double&) override {
    return false;
  }
  void set_delegation_intermediate_output_filter(et::EventTracerFilterBase*) override {}

 private:
  static constexpr int kMaxOpen = 16;

  static long interruptions() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
  }

  void add_run(uint64_t taken) {
    const bool whole = interruptions() == interruptions_;
    if (whole && !undisturbed_) forget();
    undisturbed_ = undisturbed_ || whole;
    if (whole != undisturbed_) return;
    total_ns_ += taken;
    runs_++;
    for (int i = 0; i < cursor_; i++) rows_[i].total_ns += rows_[i].run_ns;
  }

  void forget() {
    total_ns_ = 0;
    runs_ = 0;
    for (int i = 0; i < count_; i++) rows_[i].total_ns = 0;
  }

  struct Open {
    const char* name;  // owned by the runtime; outlives the event
    int row;           // the next row when the event was opened
  };

  et::EventTracerEntry open(const char* name) {
    mark<Mark::kReading>();
    et::EventTracerEntry entry = {};
    entry.event_id = open_count_ % kMaxOpen;
    open_[entry.event_id] = {name ? name : "?", cursor_};
    if (!strcmp(open_[entry.event_id].name, "DELEGATE_CALL")) profile_clock.start_delegate();
    open_count_++;
    entry.start_time = profile_clock.read();
    mark<Mark::kOperatorOpen>();
    return entry;
  }

  // The time of an event that encloses others is in their rows. A call without inner events is a
  // row itself: a kernel registered by hand, or a backend that does not profile.
  void close(const et::EventTracerEntry& entry, bool delegated) {
    mark<Mark::kReading>();
    const uint64_t taken = profile_clock.read() - entry.start_time;
    if (open_count_) open_count_--;
    const Open& event = open_[entry.event_id];
    if (!strcmp(event.name, "OPERATOR_CALL")) {
      if (cursor_ == event.row) add("kernel", taken, false);
    } else if (!strcmp(event.name, "DELEGATE_CALL")) {
      if (cursor_ == event.row) add("delegate", taken, true);
    } else if (strcmp(event.name, "Method::execute")) {
      add(event.name, taken, delegated);
    }
    mark<Mark::kOperatorClose>();
  }

  void add(const char* name, uint64_t ns, bool delegated, int readings = 0) {
    if (!profile_clock.running()) return;  // events of loading
    if (cursor_ == count_) new_row(name, delegated);
    rows_[cursor_].readings = readings;
    rows_[cursor_++].run_ns = ns;
  }

  void new_row(const char* name, bool delegated) {
    if (count_ == capacity_) {
      capacity_ = capacity_ * 2 + 64;
      rows_ = static_cast<ProfileRow*>(
          realloc(rows_, sizeof(ProfileRow) * static_cast<size_t>(capacity_)));
      if (!rows_) out_of_memory();
    }
    ProfileRow* row = new (rows_ + count_) ProfileRow{};
    snprintf(row->name, sizeof(row->name), "%s", name ? name : "?");
    row->instruction = static_cast<int>(debug_handle_);
    row->delegated = delegated;
    const ProfileRow* before = count_ ? row - 1 : nullptr;
    if (before && before->instruction == row->instruction) row->index = before->index + 1;
    count_++;
  }

  // The runtime logs "native_call_mean.out" for aten::mean.out; the registry has the full name. A
  // name in two namespaces (aten::add.out, quantized_decomposed::add.out) stays short. Called after
  // all runs, because the lookup takes longer than a small kernel.
  static void give_full_name(ProfileRow* row) {
    static const char kPrefix[] = "native_call_";
    const size_t length = sizeof(kPrefix) - 1;
    if (strncmp(row->name, kPrefix, length) != 0) return;
    char name[sizeof(row->name)];
    snprintf(name, sizeof(name), "%s", row->name + length);
    const char* full = nullptr;
    bool unique = true;
    for (const et::Kernel& kernel : et::get_registered_kernels()) {
      const char* colons = kernel.name_ ? strstr(kernel.name_, "::") : nullptr;
      if (!colons || strcmp(colons + 2, name) != 0) continue;
      unique = unique && (!full || !strcmp(full, kernel.name_));
      full = kernel.name_;
    }
    snprintf(row->name, sizeof(row->name), "%s", full && unique ? full : name);
  }

  Open open_[kMaxOpen];
  int open_count_ = 0;
  long interruptions_ = 0;
  bool undisturbed_ = false;  // some runs were not preempted: only these count
  long runs_ = 0;
  uint64_t run_start_ = 0;
  uint64_t total_ns_ = 0;
  ProfileRow* rows_ = nullptr;
  int count_ = 0;
  int capacity_ = 0;
  int cursor_ = 0;
};

}  // namespace edgekit
