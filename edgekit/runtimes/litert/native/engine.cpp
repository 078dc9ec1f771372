// The LiteRT engine: a compiled model of the file's first signature, on the CPU (XNNPACK).
#include "api.h"
#include "host.h"
#include "text.h"

namespace edgekit::engine {

using namespace edgekit::litert;

constexpr int kMostTensors = 64;
constexpr int kMostRows = 16384;
constexpr size_t kSignature = 0;

static Handle environment = nullptr;
static Handle compiled = nullptr;
static Handle profiler = nullptr;
static Handle input_buffers[kMostTensors];
static Handle output_buffers[kMostTensors];
static TensorSpec inputs[kMostTensors];
static TensorSpec outputs[kMostTensors];
static size_t input_number = 0, output_number = 0;
static int threads_used = 1;

static ProfileRow* rows = nullptr;
static int row_count = 0;
static Profiled whole = {};
static bool is_pending = false;  // the events of the last run are not yet in `rows`

const char* runtime_name() { return "litert"; }

const char* const* library_prefixes(int* count) {
  static const char* const kPrefixes[] = {"libLiteRt.so"};
  *count = 1;
  return kPrefixes;
}

int thread_count() { return threads_used; }
size_t planned_bytes() { return 0; }  // the library does not tell it
int input_count() { return static_cast<int>(input_number); }
int output_count() { return static_cast<int>(output_number); }
const TensorSpec& input(int index) { return inputs[index]; }
const TensorSpec& output(int index) { return outputs[index]; }

static const char* dtype_name(int element_type) {
  switch (element_type) {
    case 1: return "float32";
    case 2: return "int32";
    case 3: return "uint8";
    case 4: return "int64";
    case 6: return "bool";
    case 7: return "int16";
    case 9: return "int8";
    case 10: return "float16";
    case 11: return "float64";
    case 13: return "uint64";
    case 16: return "uint32";
    case 17: return "uint16";
    default: return nullptr;
  }
}

static const char* status_name(Status status) {
  switch (status) {
    case 1: return "invalid argument";
    case 2: return "out of memory";
    case 3: return "runtime failure";
    case 4: return "missing input tensor";
    case 5: return "not supported";
    case 6: return "not found";
    case 7: return "timeout";
    case 8: return "wrong version";
    case 500: return "not enough memory for a file";
    case 501: return "a file cannot be read";
    case 502: return "the file is no valid model";
    case 1000: return "wrong index";
    case 1001: return "wrong type";
    case 1502: return "the graph is not valid";
    default: return "error";
  }
}

static bool refuse(Status status, int code, const char* what, Failure* failure) {
  if (status == 0) return true;
  return fail(failure, status == 2 ? kNoMemory : code, "%s: LiteRT reports %s (%d)", what,
              status_name(status), status);
}

static bool find_functions(Failure* failure) {
#define EDGEKIT_LITERT_FIND(name, arguments)                                            \
  name = reinterpret_cast<decltype(name)>(dlsym(RTLD_DEFAULT, #name));                  \
  if (!name) {                                                                          \
    return fail(failure, kMissingKernel, "libLiteRt.so has no %s: another version?", #name); \
  }
  EDGEKIT_LITERT_FUNCTIONS(EDGEKIT_LITERT_FIND)
#undef EDGEKIT_LITERT_FIND
  return true;
}

// LiteRT crashes while it opens some damaged files by name, so it gets their bytes. They stay in
// memory: the model refers to them.
static void* read_model(const char* path, size_t* size, Failure* failure) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    fail(failure, kFileError, "%s cannot be read: %s", path, fd < 0 ? strerror(errno) : "no file");
    if (fd >= 0) close(fd);
    return nullptr;
  }
  *size = static_cast<size_t>(info.st_size);
  void* data = checked_alloc(*size);
  const bool is_whole = read_all(fd, data, *size) == *size;
  close(fd);
  if (is_whole && *size >= 8 && !memcmp(static_cast<char*>(data) + 4, "TFL3", 4)) return data;
  fail(failure, kBadProgram, "%s is not a LiteRT model", path);
  return nullptr;
}

static bool add_options(Handle options, const char* kind, const char* text, Failure* failure) {
  Handle opaque = nullptr;
  char* copy = strdup(text);
  if (!copy) out_of_memory();
  return refuse(LiteRtCreateOpaqueOptions(kind, copy, free, &opaque), kBadProgram, kind, failure) &&
         refuse(LiteRtAddOpaqueOptions(options, opaque), kBadProgram, kind, failure);
}

static bool compile(Handle model, bool profile, const char* path, Failure* failure) {
  Handle options = nullptr;
  char text[64];
  snprintf(text, sizeof(text), "num_threads = %d\n", threads_used);
  if (!refuse(LiteRtCreateOptions(&options), kBadProgram, path, failure) ||
      !refuse(LiteRtSetOptionsHardwareAccelerators(options, kCpu), kBadProgram, path, failure) ||
      !add_options(options, "xnnpack", text, failure)) {
    return false;
  }
  if (profile &&
      !add_options(options, "runtime_options_string", "enable_profiling = true\n", failure)) {
    return false;
  }
  const Status status = LiteRtCreateCompiledModel(environment, model, options, &compiled);
  return refuse(status, kBadProgram, path, failure);
}

// One input or output: its type, and the buffer that the compiled model asks for.
static bool prepare(Handle tensor, Handle requirements, const char* word, size_t index,
                    TensorSpec* spec, Handle* buffer, Failure* failure) {
  TensorType type;
  char what[64];
  snprintf(what, sizeof(what), "%s %zu", word, index);
  if (!refuse(LiteRtGetRankedTensorType(tensor, &type), kBadProgram, what, failure)) return false;
  spec->dtype = dtype_name(type.element_type);
  spec->rank = static_cast<int>(type.layout.rank);
  if (!spec->dtype || spec->rank > kLayoutRank) {
    return fail(failure, kBadProgram, "%s has a type that the runner does not know (%d)", what,
                type.element_type);
  }
  for (int d = 0; d < spec->rank; d++) {
    spec->shape[d] = type.layout.dimensions[d];
    if (spec->shape[d] < 0) {
      return fail(failure, kBadProgram, "%s has a shape that is not fixed", what);
    }
  }
  return refuse(
             LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements,
                                                             buffer),
             kBadProgram, what, failure) &&
         refuse(LiteRtGetTensorBufferPackedSize(*buffer, &spec->bytes), kBadProgram, what, failure);
}

static bool prepare_tensors(Handle signature, Failure* failure) {
  if (!refuse(LiteRtGetNumSignatureInputs(signature, &input_number), kBadProgram, "inputs",
              failure) ||
      !refuse(LiteRtGetNumSignatureOutputs(signature, &output_number), kBadProgram, "outputs",
              failure)) {
    return false;
  }
  if (input_number > kMostTensors || output_number > kMostTensors) {
    return fail(failure, kBadProgram, "the program has more than %d inputs or outputs",
                kMostTensors);
  }
  Handle tensor = nullptr, needs = nullptr;
  for (size_t i = 0; i < input_number; i++) {
    if (!refuse(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor), kBadProgram, "input",
                failure) ||
        !refuse(LiteRtGetCompiledModelInputBufferRequirements(compiled, kSignature, i, &needs),
                kBadProgram, "input", failure) ||
        !prepare(tensor, needs, "input", i, &inputs[i], &input_buffers[i], failure)) {
      return false;
    }
  }
  for (size_t i = 0; i < output_number; i++) {
    if (!refuse(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor), kBadProgram,
                "output", failure) ||
        !refuse(LiteRtGetCompiledModelOutputBufferRequirements(compiled, kSignature, i, &needs),
                kBadProgram, "output", failure) ||
        !prepare(tensor, needs, "output", i, &outputs[i], &output_buffers[i], failure)) {
      return false;
    }
  }
  return true;
}

static bool start_profiler(Failure* failure) {
  rows = static_cast<ProfileRow*>(calloc(kMostRows, sizeof(ProfileRow)));
  if (!rows) out_of_memory();
  return refuse(LiteRtCompiledModelGetProfiler(compiled, &profiler), kBadProgram, "profiler",
                failure) &&
         refuse(LiteRtStartProfiler(profiler), kBadProgram, "profiler", failure);
}

bool load(const char* path, int threads, bool profile, Failure* failure) {
  threads_used = threads;
  size_t size = 0, signatures = 0;
  Handle model = nullptr, signature = nullptr;
  if (!find_functions(failure)) return false;
  const void* data = read_model(path, &size, failure);
  if (!data) return false;
  // only the CPU: LiteRT would search for libraries of other accelerators, and tell about it
  EnvironmentOption options[2] = {};
  options[0].tag = kAutoRegisterAccelerators;
  options[0].value.type = kAnyInt;
  options[0].value.int_value = kCpu;
  options[1].tag = kMinLoggerSeverity;
  options[1].value.type = kAnyInt;
  options[1].value.int_value = kSilent;
  if (!refuse(LiteRtCreateEnvironment(2, options, &environment), kBadProgram, path, failure) ||
      !refuse(LiteRtCreateModelFromBuffer(environment, data, size, &model), kBadProgram, path,
              failure) ||
      !refuse(LiteRtGetNumModelSignatures(model, &signatures), kBadProgram, path, failure)) {
    return false;
  }
  if (signatures == 0) return fail(failure, kBadProgram, "%s has no signature", path);
  return compile(model, profile, path, failure) &&
         refuse(LiteRtGetModelSignature(model, kSignature, &signature), kBadProgram, path,
                failure) &&
         prepare_tensors(signature, failure) && (!profile || start_profiler(failure));
}

static void collect();

bool write_input(int index, const void* data, Failure* failure) {
  collect();
  void* memory = nullptr;
  if (!refuse(LiteRtLockTensorBuffer(input_buffers[index], &memory, kWrite), kExecutionFailed,
              "writing an input", failure)) {
    return false;
  }
  memcpy(memory, data, inputs[index].bytes);
  return refuse(LiteRtUnlockTensorBuffer(input_buffers[index]), kExecutionFailed,
                "writing an input", failure);
}

void read_output(int index, void* data) {
  void* memory = nullptr;
  if (LiteRtLockTensorBuffer(output_buffers[index], &memory, kRead) != 0) {
    // never the answer of another run
    fprintf(stderr, "edgekit-runner: output %d cannot be read\n", index);
    fflush(stderr);
    _exit(kExecutionFailed);
  }
  memcpy(data, memory, outputs[index].bytes);
  LiteRtUnlockTensorBuffer(output_buffers[index]);
}

// ---- profile ----

// The number of the delegate's first graph as an instruction. A kernel has the number of its node.
constexpr int kFirstDelegate = 1 << 20;

// The events of one run, in order of execution. The operators of a delegate's graph are numbered
// from 0, so a number that is not higher starts the next graph.
static void add_run(const Event* events, int count) {
  int graph = kFirstDelegate - 1, last = -1, place = 0;
  for (int i = 0; i < count; i++) {
    const Event& event = events[i];
    const bool is_kernel = event.type & kKernelEvent, is_delegated = event.type & kDelegatedEvent;
    if (event.type == kDefaultEvent && !strcmp(event.tag, "Invoke")) {
      whole.total_ns += event.elapsed_us * 1000;
    }
    if (!is_kernel && !is_delegated) continue;
    const int number = static_cast<int>(event.number);
    if (is_delegated && (last < 0 || number <= last)) graph++;
    last = is_kernel ? -1 : number;
    if (place == kMostRows) break;
    ProfileRow& row = rows[place++];
    snprintf(row.name, sizeof(row.name), "%s", event.tag);
    row.instruction = is_kernel ? number : graph;
    row.index = is_kernel ? 0 : number;
    row.delegated = is_delegated;
    row.run_ns = event.elapsed_us * 1000;
    row.total_ns += row.run_ns;
  }
  row_count = place;
  whole.runs++;
}

// Reads the events of the last run. It is called where nothing is timed: by write_input, which
// comes before every run.
static void collect() {
  if (!profiler || !is_pending) return;
  is_pending = false;
  int count = 0;
  if (LiteRtGetNumProfilerEvents(profiler, &count) != 0 || count <= 0) return;
  auto* events = static_cast<Event*>(calloc(static_cast<size_t>(count), sizeof(Event)));
  if (!events) out_of_memory();
  if (LiteRtGetProfilerEvents(profiler, count, events) == 0) add_run(events, count);
  free(events);
  LiteRtResetProfiler(profiler);
  LiteRtStartProfiler(profiler);
}

bool execute(Failure* failure) {
  const Status status = LiteRtRunCompiledModel(compiled, kSignature, input_number, input_buffers,
                                               output_number, output_buffers);
  is_pending = true;
  return refuse(status, kExecutionFailed, "the program failed", failure);
}

void reset_profile() {
  collect();
  for (int i = 0; i < row_count; i++) rows[i].total_ns = 0;
  whole = {};
}

const ProfileRow* profile_rows(int* count, Profiled* total) {
  collect();
  *count = row_count;
  *total = whole;
  return rows;
}

}  // namespace edgekit::engine
