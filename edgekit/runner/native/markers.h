// Marks one inference for a program that counts instructions under emulation (edgekit/cost/).
//
// Each mark is one instruction that changes nothing: it copies a register to itself. No compiler
// emits these by itself. On a device they cost one cycle each.
#pragma once

namespace edgekit {

inline void mark_start() {
#ifdef __aarch64__
  asm volatile("mov x11, x11" ::: "memory");
#endif
}

inline void mark_end() {
#ifdef __aarch64__
  asm volatile("mov x12, x12" ::: "memory");
#endif
}

}  // namespace edgekit
