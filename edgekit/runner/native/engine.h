// The interface between the runner, which is the same for every runtime, and a runtime's engine.
// Each engine.cpp defines these functions. Only C types: the vendor's libraries and the runner
// use different C++ libraries.
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

// An error. The message is one line: what happened, to which file or tensor.
struct Failure {
  int code = kOk;
  char message[1024] = "";
};

// Fills `failure` like printf. Returns false, so that a caller can return the result.
bool fail(Failure* failure, int code, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

constexpr int kMaxRank = 16;

struct TensorSpec {
  const char* dtype;
  int rank;
  int64_t shape[kMaxRank];
  size_t bytes;
};

// The profiled runs since the last reset, and their time without that of profiling itself.
struct Profiled {
  long runs;
  uint64_t total_ns;
};

// One operator's time.
struct ProfileRow {
  char name[128];
  int instruction;  // the instruction's number in the program
  int index;        // the event's number inside that delegate call
  bool delegated;
  int readings;       // of the profile's clock by a library, after parts of this operator
  uint64_t run_ns;    // of the last run
  uint64_t total_ns;  // of all runs since the last reset
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

// Copies bytes in C order to an input of the program. Needed before every run: inputs lie in the
// planned arena, where a run may overwrite them.
bool write_input(int index, const void* data, Failure* failure);

bool execute(Failure* failure);

// Copies an output to `data`, in C order.
void read_output(int index, void* data);

// Discards the profile so far: warm-up runs do not count.
void reset_profile();
const ProfileRow* profile_rows(int* count, Profiled* whole);

}  // namespace engine
}  // namespace edgekit
