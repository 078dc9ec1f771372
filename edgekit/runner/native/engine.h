// The seam between the runner, which is the same for every runtime, and one runtime's engine.
// Each engine.cpp defines these functions; the linker joins them. Plain C types only: the
// vendor's libraries are built with another C++ library than we are.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace edgekit {

enum ExitCode : int {
  kOk = 0,
  kBadArguments = 2,
  kBadProgram = 3,
  kMissingKernel = 4,
  kNoMemory = 5,
  kInputDoesNotFit = 6,
  kExecutionFailed = 7,
  kFileError = 8,
};

// What went wrong. The message is one line: what happened, to which file or tensor.
struct Failure {
  int code = kOk;
  char message[1024] = "";
};

// Fills `failure` like printf and gives false, so that a caller can return it.
bool fail(Failure* failure, int code, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

constexpr int kMaxRank = 16;

struct TensorSpec {
  const char* dtype;
  int rank;
  int64_t shape[kMaxRank];
  size_t bytes;
};

// The profiled runs that count, and what they took without what profiling itself did.
struct Profiled {
  long runs;
  uint64_t total_ns;
};

// One operator's time, summed over the runs that count.
struct ProfileRow {
  char name[128];
  int instruction;  // which of the program's instructions
  int index;        // which event inside that delegate call
  bool delegated;
  uint64_t run_ns;  // in the last run
  uint64_t total_ns;
};

namespace engine {

const char* runtime_name();

// File-name prefixes of the libraries to load from the folder `lib` beside the runner.
const char* const* library_prefixes(int* count);

// Loads a program and makes it ready to run. With `profile`, execute() records its operators.
bool load(const char* model, int threads, bool profile, Failure* failure);

int thread_count();
size_t planned_bytes();
int input_count();
int output_count();
const TensorSpec& input(int index);
const TensorSpec& output(int index);

// Puts C-order bytes where the program reads this input. Again before every run: inputs lie in
// the planned arena, where a run may overwrite them.
bool write_input(int index, const void* data, Failure* failure);

bool execute(Failure* failure);

// Takes an output as C-order bytes.
void read_output(int index, void* data);

// Forgets what was profiled so far: warm-up runs do not count.
void reset_profile();
const ProfileRow* profile_rows(int* count, Profiled* whole);

}  // namespace engine
}  // namespace edgekit
