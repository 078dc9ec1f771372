// Marks for a program that counts instructions under emulation (edgekit/cost/emulation/): they
// divide one inference into segments.
//
// Each mark is one instruction that changes nothing: it copies a register to itself. No compiler
// emits these by itself. On a device they cost one cycle each.
#pragma once

namespace edgekit {

// The number of the register. edgekit/cost/emulation/segments.py has the same list.
enum class Mark {
  kReading = 9,         // ahead of a reading of the profile's clock
  kOperatorOpen = 10,   // behind the reading before an operator
  kStart = 11,          // ahead of an inference
  kEnd = 12,            // behind it
  kOperatorClose = 13,  // behind the reading after an operator
  kLibrary = 14,        // behind a library's own reading: before and after each of its operators
  kLeaveOut = 15,       // behind work that only profiling needs, since the mark before
};

template <Mark kind>
inline void mark() {
#ifdef __aarch64__
  asm volatile("mov x%0, x%0" : : "i"(static_cast<int>(kind)) : "memory");
#endif
}

}  // namespace edgekit
