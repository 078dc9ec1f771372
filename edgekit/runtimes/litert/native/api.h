// The part of LiteRT's C API that the runner uses. The wheel has no headers, so it is declared here,
// for exactly the pinned version: this interface changes between versions. The functions are looked
// up by name, because the runner does not link the library.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace edgekit::litert {

using Status = int;
using Handle = void*;

// Options of an environment, and their tags.
constexpr int kAutoRegisterAccelerators = 24, kMinLoggerSeverity = 25;
constexpr int kAnyInt = 2;
constexpr int64_t kSilent = 4;
constexpr int kCpu = 1;

struct Any {
  int type;
  union {
    bool bool_value;
    int64_t int_value;
    double real_value;
    const void* pointer;
  };
};

struct EnvironmentOption {
  int tag;
  Any value;
};

constexpr int kLayoutRank = 8;

struct Layout {
  unsigned rank : 7;
  unsigned has_strides : 1;
  int32_t dimensions[kLayoutRank];
  uint32_t strides[kLayoutRank];
};

struct TensorType {
  int element_type;
  Layout layout;
};

enum LockMode : int { kRead = 0, kWrite = 1 };

// The types of events that are operators: of a kernel outside delegates, and of a delegate's graph.
constexpr int kKernelEvent = 1 << 1, kDelegatedEvent = 1 << 3, kDefaultEvent = 1;

struct Event {
  const char* tag;
  int type;
  uint64_t start_us;
  uint64_t elapsed_us;
  size_t memory[6];
  uint64_t number;  // of the node in the file, or of the operator in its delegate
  uint64_t more;
  int source;
};

// X(name, arguments): all return a Status.
#define EDGEKIT_LITERT_FUNCTIONS(X)                                                             \
  X(LiteRtCreateEnvironment, (int, const EnvironmentOption*, Handle*))                          \
  X(LiteRtCreateModelFromBuffer, (Handle, const void*, size_t, Handle*))                        \
  X(LiteRtCreateOptions, (Handle*))                                                             \
  X(LiteRtSetOptionsHardwareAccelerators, (Handle, int))                                        \
  X(LiteRtCreateOpaqueOptions, (const char*, void*, void (*)(void*), Handle*))                  \
  X(LiteRtAddOpaqueOptions, (Handle, Handle))                                                   \
  X(LiteRtCreateCompiledModel, (Handle, Handle, Handle, Handle*))                               \
  X(LiteRtGetNumModelSignatures, (Handle, size_t*))                                             \
  X(LiteRtGetModelSignature, (Handle, size_t, Handle*))                                         \
  X(LiteRtGetNumSignatureInputs, (Handle, size_t*))                                             \
  X(LiteRtGetNumSignatureOutputs, (Handle, size_t*))                                            \
  X(LiteRtGetSignatureInputTensorByIndex, (Handle, size_t, Handle*))                            \
  X(LiteRtGetSignatureOutputTensorByIndex, (Handle, size_t, Handle*))                           \
  X(LiteRtGetRankedTensorType, (Handle, TensorType*))                                           \
  X(LiteRtGetCompiledModelInputBufferRequirements, (Handle, size_t, size_t, Handle*))           \
  X(LiteRtGetCompiledModelOutputBufferRequirements, (Handle, size_t, size_t, Handle*))          \
  X(LiteRtCreateManagedTensorBufferFromRequirements, (Handle, const TensorType*, Handle, Handle*)) \
  X(LiteRtGetTensorBufferPackedSize, (Handle, size_t*))                                         \
  X(LiteRtLockTensorBuffer, (Handle, void**, int))                                              \
  X(LiteRtUnlockTensorBuffer, (Handle))                                                         \
  X(LiteRtRunCompiledModel, (Handle, size_t, size_t, Handle*, size_t, Handle*))                 \
  X(LiteRtCompiledModelGetProfiler, (Handle, Handle*))                                          \
  X(LiteRtStartProfiler, (Handle))                                                              \
  X(LiteRtResetProfiler, (Handle))                                                              \
  X(LiteRtGetNumProfilerEvents, (Handle, int*))                                                 \
  X(LiteRtGetProfilerEvents, (Handle, int, Event*))

#define EDGEKIT_LITERT_DECLARE(name, arguments) inline Status(*name) arguments = nullptr;
EDGEKIT_LITERT_FUNCTIONS(EDGEKIT_LITERT_DECLARE)
#undef EDGEKIT_LITERT_DECLARE

}  // namespace edgekit::litert
