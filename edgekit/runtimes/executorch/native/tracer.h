// Operator times by ExecuTorch's own event tracer interface, without its ETDump library: that
// would be one more library on the device, and its files need torch on the host to be read.
#pragma once

#include <executorch/runtime/core/event_tracer.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/platform.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

namespace edgekit {

namespace et = executorch::runtime;

// Every run logs the same events in the same order, so that the n-th event is the n-th row.
class Tracer final : public et::EventTracer {
 public:
  void start_run() { cursor_ = 0; }

  void reset() { count_ = cursor_ = 0; }

  const ProfileRow* rows(int* count) {
    for (int i = 0; i < count_; i++) give_full_name(rows_ + i);
    *count = count_;
    return rows_;
  }

  void create_event_block(const char*) override {}

  et::EventTracerEntry start_profiling(const char* name, et::ChainID chain,
                                       et::DebugHandle handle) override {
    const bool unset = chain == et::kUnsetChainId;
    return open(name, unset ? chain_id_ : chain, unset ? debug_handle_ : handle);
  }

  void end_profiling(et::EventTracerEntry entry) override { close(entry, false); }

  et::EventTracerEntry start_profiling_delegate(const char* name,
                                                et::DelegateDebugIntId id) override {
    char number[32];
    snprintf(number, sizeof(number), "#%d", static_cast<int>(id));
    return open(name ? name : number, chain_id_, debug_handle_);
  }

  void end_profiling_delegate(et::EventTracerEntry entry, const void*, size_t) override {
    close(entry, true);
  }

  void log_profiling_delegate(const char* name, et::DelegateDebugIntId id, et_timestamp_t start,
                              et_timestamp_t end, const void*, size_t) override {
    et::EventTracerEntry entry = start_profiling_delegate(name, id);
    add(entry, start, end, true);
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

  // Names of events that enclose others: their time is already in the others' rows.
  static bool encloses(const char* name) {
    static const char* const kNames[] = {"Method::execute", "OPERATOR_CALL", "DELEGATE_CALL",
                                         "Program::load_method", "Method::init"};
    for (const char* known : kNames) {
      if (!strcmp(name, known)) return true;
    }
    return false;
  }

  et::EventTracerEntry open(const char* name, et::ChainID chain, et::DebugHandle handle) {
    et::EventTracerEntry entry = {};
    entry.event_id = open_count_++ % kMaxOpen;
    snprintf(names_[entry.event_id], sizeof(names_[0]), "%s", name ? name : "?");
    entry.chain_id = chain;
    entry.debug_handle = handle;
    entry.start_time = et::pal_current_ticks();
    return entry;
  }

  void close(const et::EventTracerEntry& entry, bool delegated) {
    add(entry, entry.start_time, et::pal_current_ticks(), delegated);
  }

  void add(const et::EventTracerEntry& entry, et_timestamp_t start, et_timestamp_t end,
           bool delegated) {
    const char* name = names_[entry.event_id];
    if (open_count_) open_count_--;
    if (encloses(name)) return;
    ProfileRow* row = next_row();
    if (cursor_ > count_) {
      count_ = cursor_;
      *row = {};
      snprintf(row->name, sizeof(row->name), "%s", name);
      row->instruction = static_cast<int>(entry.debug_handle);
      row->index = cursor_ > 1 && rows_[cursor_ - 2].instruction == row->instruction
                       ? rows_[cursor_ - 2].index + 1
                       : 0;
      row->delegated = delegated;
    }
    const et_tick_ratio_t ratio = et::pal_ticks_to_ns_multiplier();
    row->total_ns += (end - start) * ratio.numerator / ratio.denominator;
  }

  // The runtime logs "native_call_mean.out" for aten::mean.out: the registry knows the rest. A
  // name that two namespaces have (aten::add.out, quantized_decomposed::add.out) stays short.
  // Only once all runs are over: looking it up takes longer than a small kernel.
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

  ProfileRow* next_row() {
    if (cursor_ == capacity_) {
      capacity_ = capacity_ * 2 + 64;
      rows_ = static_cast<ProfileRow*>(
          realloc(rows_, sizeof(ProfileRow) * static_cast<size_t>(capacity_)));
      if (!rows_) out_of_memory();
    }
    return rows_ + cursor_++;
  }

  char names_[kMaxOpen][128];
  int open_count_ = 0;
  ProfileRow* rows_ = nullptr;
  int count_ = 0;
  int capacity_ = 0;
  int cursor_ = 0;
};

}  // namespace edgekit
