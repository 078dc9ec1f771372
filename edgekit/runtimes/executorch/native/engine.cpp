// The ExecuTorch engine, using Program and Method from the wheel's libraries. The Module API is not
// used: it passes std::string, and we do not link the vendor's C++ library.
#include <executorch/extension/data_loader/file_data_loader.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <new>
#include <utility>

#include "host.h"
#include "profile_clock.h"
#include "text.h"
#include "tracer.h"

// The library exports its thread pool, but its headers do not declare it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

// Symbols that the vendor's headers need from a C++ library. The runner does not link one, which
// would make it ten times as large. None of these functions is ever called.
extern "C" void __cxa_pure_virtual() { abort(); }
void std::__libcpp_verbose_abort(const char*, ...) noexcept { abort(); }
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }

// get_input is deprecated in favour of set_input, which would copy every input again.
#pragma clang diagnostic ignored "-Wdeprecated-declarations"

namespace edgekit::engine {

namespace ext = executorch::extension;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;

// Allocates by malloc and frees all blocks at once. The vendor's own allocator needs a std::vector,
// which would link a C++ library into the runner.
class HeapAllocator final : public et::MemoryAllocator {
 public:
  HeapAllocator() : MemoryAllocator(0, nullptr) {}

  void* allocate(size_t size, size_t alignment) override {
    const size_t step = alignment > sizeof(Block) ? alignment : sizeof(Block);
    void* memory = nullptr;
    if (posix_memalign(&memory, step, size + step) != 0) return nullptr;
    blocks_ = new (memory) Block{blocks_};
    return static_cast<char*>(memory) + step;
  }

  void reset() override {
    while (blocks_) {
      Block* next = blocks_->next;
      free(blocks_);
      blocks_ = next;
    }
  }

 private:
  struct Block {
    Block* next;
  };
  Block* blocks_ = nullptr;
};

// Storage without a destructor: there is one program for the life of the process.
template <typename T>
union Forever {
  Forever() {}
  ~Forever() {}
  T value;
};

static Forever<ext::FileDataLoader> loader;
static Forever<et::Program> program;
static Forever<et::Method> method;
static Forever<HeapAllocator> method_memory;
static Forever<HeapAllocator> run_memory;
static Forever<et::HierarchicalAllocator> planned_memory;
static Forever<et::MemoryManager> memory_manager;
static Forever<Tracer> tracer_storage;
static Tracer* tracer = nullptr;

static size_t planned = 0;
static TensorSpec inputs[64];
static TensorSpec outputs[64];
static const char* model_path = "";

// The vendor's messages: its first error, or all operators that are missing.
static char vendor_error[768] = "";
static int exit_code_of_abort = kBadProgram;

static void on_log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t,
                   const char* message, size_t) {
  if (level != kError && level != kFatal) return;
  const char* missing = strstr(message, "Missing operator: ");
  if (missing) {
    const char* name = strchr(missing, ']');
    // The list of all operators replaces the message about the first one.
    if (!strncmp(vendor_error, "kernel '", 8)) vendor_error[0] = 0;
    const size_t length = strlen(vendor_error);
    snprintf(vendor_error + length, sizeof(vendor_error) - length, "%s%s", length ? ", " : "",
             name ? name + 2 : missing);
  } else if (!vendor_error[0]) {
    snprintf(vendor_error, sizeof(vendor_error), "%s", message);
  }
}

static void on_abort() {
  fprintf(stderr, "edgekit-runner: %s: the runtime gave up: %s\n", model_path, vendor_error);
  fflush(stderr);
  _exit(exit_code_of_abort);
}

static et_timestamp_t profile_ticks() { return profile_clock.read(); }
static et_tick_ratio_t ticks_are_ns() { return {1, 1}; }

static void take_over_platform() {
  et::register_pal(et::PalImpl::create(nullptr, on_abort, profile_ticks, ticks_are_ns, on_log,
                                       nullptr, nullptr, "runner"));
  et::runtime_init();
}

static const char* error_name(et::Error error) {
  switch (error) {
    case et::Error::Internal: return "Internal";
    case et::Error::InvalidArgument: return "InvalidArgument";
    case et::Error::InvalidState: return "InvalidState";
    case et::Error::InvalidType: return "InvalidType";
    case et::Error::NotSupported: return "NotSupported";
    case et::Error::NotImplemented: return "NotImplemented";
    case et::Error::NotFound: return "NotFound";
    case et::Error::OperatorMissing: return "OperatorMissing";
    case et::Error::AccessFailed: return "AccessFailed";
    case et::Error::InvalidProgram: return "InvalidProgram";
    case et::Error::InvalidExternalData: return "InvalidExternalData";
    case et::Error::OutOfResources: return "OutOfResources";
    case et::Error::MemoryAllocationFailed: return "MemoryAllocationFailed";
    case et::Error::DelegateInvalidCompatibility: return "DelegateInvalidCompatibility";
    case et::Error::DelegateMemoryAllocationFailed: return "DelegateMemoryAllocationFailed";
    case et::Error::DelegateInvalidHandle: return "DelegateInvalidHandle";
    default: return "error";
  }
}

static int code_of(et::Error error, int otherwise) {
  if (error == et::Error::OperatorMissing) return kMissingKernel;
  if (error == et::Error::NotFound && strstr(vendor_error, "not registered")) return kMissingKernel;
  // A tensor outside the planned arena: more memory would not help this program.
  if (error == et::Error::MemoryAllocationFailed && !strncmp(vendor_error, "offset_bytes", 12)) {
    return otherwise;
  }
  if (error == et::Error::MemoryAllocationFailed ||
      error == et::Error::DelegateMemoryAllocationFailed) {
    return kNoMemory;
  }
  return otherwise;
}

static bool refuse(Failure* failure, const char* doing, et::Error error, int otherwise) {
  return fail(failure, code_of(error, otherwise), "%s: %s failed with %s (0x%x)%s%s", model_path,
              doing, error_name(error), static_cast<unsigned>(error), vendor_error[0] ? ": " : "",
              vendor_error);
}

static const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Bool: return "bool";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::UInt16: return "uint16";
    case ScalarType::UInt32: return "uint32";
    case ScalarType::UInt64: return "uint64";
    default: return nullptr;
  }
}

static bool read_spec(const et::EValue& value, const char* word, size_t index, TensorSpec* spec,
                      Failure* failure) {
  if (!value.isTensor()) {
    return fail(failure, kBadProgram, "%s: %s %zu is not a tensor", model_path, word, index);
  }
  const Tensor tensor = value.toTensor();
  spec->dtype = dtype_name(tensor.scalar_type());
  spec->rank = static_cast<int>(tensor.dim());
  spec->bytes = tensor.nbytes();
  if (!spec->dtype || spec->rank > kMaxRank) {
    return fail(failure, kBadProgram, "%s: %s %zu is of a type or rank that is not supported",
                model_path, word, index);
  }
  for (int d = 0; d < spec->rank; d++) spec->shape[d] = tensor.size(d);
  return true;
}

// Allocates memory, once, for outputs that the program's memory plan does not include.
static bool give_memory(Failure* failure) {
  for (size_t i = 0; i < method.value.outputs_size(); i++) {
    const Tensor tensor = method.value.get_output(i).toTensor();
    if (tensor.const_data_ptr() || tensor.nbytes() == 0) continue;
    void* data = checked_alloc(tensor.nbytes());
    const et::Error error = method.value.set_output_data_ptr(data, tensor.nbytes(), i);
    if (error != et::Error::Ok) return refuse(failure, "setting an output", error, kBadProgram);
  }
  return true;
}

static bool read_specs(Failure* failure) {
  if (method.value.inputs_size() > 64 || method.value.outputs_size() > 64) {
    return fail(failure, kBadProgram, "%s has more than 64 inputs or outputs", model_path);
  }
  for (size_t i = 0; i < method.value.inputs_size(); i++) {
    if (!read_spec(method.value.get_input(i), "input", i, inputs + i, failure)) return false;
  }
  for (size_t i = 0; i < method.value.outputs_size(); i++) {
    if (!read_spec(method.value.get_output(i), "output", i, outputs + i, failure)) return false;
  }
  return give_memory(failure);
}

static bool plan_memory(const et::MethodMeta& meta, Failure* failure) {
  const size_t count = meta.num_memory_planned_buffers();
  auto* spans = static_cast<et::Span<uint8_t>*>(checked_alloc(count * sizeof(et::Span<uint8_t>)));
  for (size_t i = 0; i < count; i++) {
    const auto size = meta.memory_planned_buffer_size(i);
    if (!size.ok() || *size < 0 || *size > (int64_t{1} << 40)) {
      return fail(failure, kBadProgram, "%s: its memory plan is damaged", model_path);
    }
    const size_t bytes = static_cast<size_t>(*size);
    new (spans + i) et::Span<uint8_t>(static_cast<uint8_t*>(checked_alloc(bytes)), bytes);
    planned += bytes;
  }
  new (&planned_memory.value) et::HierarchicalAllocator({spans, count});
  new (&method_memory.value) HeapAllocator();
  new (&run_memory.value) HeapAllocator();
  new (&memory_manager.value)
      et::MemoryManager(&method_memory.value, &planned_memory.value, &run_memory.value);
  return true;
}

static bool load_program(Failure* failure) {
  if (access(model_path, R_OK) != 0) {
    return fail(failure, kFileError, "%s cannot be read: %s", model_path, strerror(errno));
  }
  // Read, not mapped. On a 15.7 MB fp32 program, peak and resident memory are equal, because
  // XNNPACK packs the weights and the file's copy is freed. If the file is truncated meanwhile,
  // reading fails with an error; a mapped page would raise SIGBUS.
  auto file = ext::FileDataLoader::from(model_path);
  if (!file.ok()) return refuse(failure, "reading", file.error(), kFileError);
  new (&loader.value) ext::FileDataLoader(std::move(file.get()));
  auto loaded = et::Program::load(&loader.value, et::Program::Verification::InternalConsistency);
  if (!loaded.ok()) return refuse(failure, "loading the program", loaded.error(), kBadProgram);
  new (&program.value) et::Program(std::move(loaded.get()));
  return true;
}

const char* runtime_name() { return "executorch"; }

const char* const* library_prefixes(int* count) {
  static const char* const kPrefixes[] = {"libexecutorch_backend_", "libexecutorch_kernels_"};
  *count = 2;
  return kPrefixes;
}

bool load(const char* model, int threads, bool profile, Failure* failure) {
  model_path = model;
  take_over_platform();
  ext::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
  if (!load_program(failure)) return false;
  const auto meta = program.value.method_meta("forward");
  if (!meta.ok()) return refuse(failure, "finding its method 'forward'", meta.error(), kBadProgram);
  if (!plan_memory(*meta, failure)) return false;
  if (profile) tracer = new (&tracer_storage.value) Tracer();
  auto loaded = program.value.load_method("forward", &memory_manager.value, tracer);
  if (!loaded.ok()) return refuse(failure, "loading its method", loaded.error(), kBadProgram);
  new (&method.value) et::Method(std::move(loaded.get()));
  exit_code_of_abort = kExecutionFailed;
  return read_specs(failure);
}

int thread_count() {
  return static_cast<int>(ext::threadpool::get_threadpool()->get_thread_count());
}

size_t planned_bytes() { return planned; }
int input_count() { return static_cast<int>(method.value.inputs_size()); }
int output_count() { return static_cast<int>(method.value.outputs_size()); }
const TensorSpec& input(int index) { return inputs[index]; }
const TensorSpec& output(int index) { return outputs[index]; }

static bool is_c_order(const Tensor& tensor) {
  int64_t expected = 1;
  for (int d = static_cast<int>(tensor.dim()) - 1; d >= 0; d--) {
    if (tensor.size(d) != 1 && tensor.strides()[static_cast<size_t>(d)] != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

// Copies element by element between C order and the tensor's strides (channels-last, or another
// permutation). With `inward`, the tensor is the destination.
static void copy_strided(const Tensor& tensor, char* dense, bool inward) {
  const auto rank = static_cast<size_t>(tensor.dim());
  const size_t item = static_cast<size_t>(tensor.element_size());
  auto* data = static_cast<char*>(tensor.mutable_data_ptr());
  int64_t place[kMaxRank] = {};
  for (size_t n = 0; n < tensor.nbytes(); n += item) {
    int64_t offset = 0;
    for (size_t d = 0; d < rank; d++) offset += place[d] * tensor.strides()[d];
    char* inside = data + static_cast<size_t>(offset) * item;
    memcpy(inward ? inside : dense + n, inward ? dense + n : inside, item);
    for (size_t d = rank; d-- > 0;) {
      if (++place[d] < tensor.size(static_cast<ssize_t>(d))) break;
      place[d] = 0;
    }
  }
}

// Allocates memory, once, for an input that the program's memory plan does not include. The
// program's tensor then points to it and keeps its strides.
static bool give_input_memory(const Tensor& like, size_t index, Failure* failure) {
  using Impl = executorch::runtime::etensor::TensorImpl;
  Impl impl(like.scalar_type(), like.dim(),
            const_cast<Tensor::SizesType*>(like.sizes().data()), checked_alloc(like.nbytes()),
            const_cast<Tensor::DimOrderType*>(like.dim_order().data()),
            const_cast<Tensor::StridesType*>(like.strides().data()));
  const et::Error error = method.value.set_input(et::EValue(Tensor(&impl)), index);
  if (error == et::Error::Ok) return true;
  return refuse(failure, "setting an input", error, kInputDoesNotFit);
}

bool write_input(int index, const void* data, Failure* failure) {
  const auto place = static_cast<size_t>(index);
  const Tensor tensor = method.value.get_input(place).toTensor();
  if (!tensor.const_data_ptr() && !give_input_memory(tensor, place, failure)) return false;
  if (is_c_order(tensor)) {
    memcpy(tensor.mutable_data_ptr(), data, tensor.nbytes());
  } else {
    copy_strided(tensor, static_cast<char*>(const_cast<void*>(data)), true);
  }
  return true;
}

bool execute(Failure* failure) {
  if (tracer) tracer->start_run();
  const et::Error error = method.value.execute();
  if (tracer) tracer->end_run();
  run_memory.value.reset();
  if (error == et::Error::Ok) return true;
  refuse(failure, "execute", error, kExecutionFailed);
  vendor_error[0] = 0;
  return false;
}

void read_output(int index, void* data) {
  const Tensor tensor = method.value.get_output(static_cast<size_t>(index)).toTensor();
  if (is_c_order(tensor)) {
    memcpy(data, tensor.const_data_ptr(), tensor.nbytes());
  } else {
    copy_strided(tensor, static_cast<char*>(data), false);
  }
}

void reset_profile() {
  if (tracer) tracer->reset();
}

const ProfileRow* profile_rows(int* count, Profiled* whole) {
  *count = 0;
  return tracer ? tracer->rows(count, whole) : nullptr;
}

}  // namespace edgekit::engine
