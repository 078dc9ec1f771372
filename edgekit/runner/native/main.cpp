// The runner: loads one program, then runs it and prints measurements, or serves requests.
// docs/runner.md specifies arguments, document, exit codes and frames.
#include <signal.h>

#include "arguments.h"
#include "engine.h"
#include "host.h"
#include "markers.h"
#include "text.h"

namespace edgekit {

static constexpr char kHelp[] =
    "usage: runner --model FILE [--input FILE]... [--output FILE]... [--warmup N] [--runs N]\n"
    "              [--threads N] [--profile]\n"
    "       runner --model FILE --serve [--threads N]\n"
    "       runner --model FILE --describe\n"
    "       runner --help | --version\n";

// A message is one line of stderr, but the vendor's messages may contain newlines.
static void make_one_line(char* text) {
  for (char* c = text; *c; c++) {
    if (*c == '\n' || *c == '\r') *c = ' ';
  }
  for (size_t length = strlen(text); length && text[length - 1] == ' '; length--) {
    text[length - 1] = 0;
  }
}

bool fail(Failure* failure, int code, const char* format, ...) {
  failure->code = code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(failure->message, sizeof(failure->message), format, arguments);
  va_end(arguments);
  make_one_line(failure->message);
  return false;
}

// All inputs or all outputs in one block of memory, in order.
struct Block {
  char* data = nullptr;
  size_t bytes = 0;
};

static Block make_block(int count, const TensorSpec& (*spec)(int)) {
  Block block;
  for (int i = 0; i < count; i++) block.bytes += spec(i).bytes;
  block.data = static_cast<char*>(checked_alloc(block.bytes));
  memset(block.data, 0, block.bytes);
  return block;
}

static bool write_inputs(const Block& block, Failure* failure) {
  const char* at = block.data;
  for (int i = 0; i < engine::input_count(); i++) {
    if (!engine::write_input(i, at, failure)) return false;
    at += engine::input(i).bytes;
  }
  return true;
}

static void read_outputs(const Block& block) {
  char* at = block.data;
  for (int i = 0; i < engine::output_count(); i++) {
    engine::read_output(i, at);
    at += engine::output(i).bytes;
  }
}

static void add_specs(Text* text, const char* key, int count, const TensorSpec& (*spec)(int)) {
  text->add("\"%s\":[", key);
  for (int i = 0; i < count; i++) {
    text->add("%s{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", spec(i).dtype);
    for (int d = 0; d < spec(i).rank; d++) {
      text->add("%s%" PRId64, d ? "," : "", spec(i).shape[d]);
    }
    text->add("],\"bytes\":%zu}", spec(i).bytes);
  }
  text->add("],");
}

static void add_profile(Text* text) {
  int count = 0;
  Profiled whole = {};
  const ProfileRow* rows = engine::profile_rows(&count, &whole);
  if (whole.runs == 0) return;
  const auto runs = static_cast<uint64_t>(whole.runs);
  text->add(",\"profiled_runs\":%ld,\"profiled_ns\":%" PRIu64 ",\"profile\":[", whole.runs,
            whole.total_ns / runs);
  for (int i = 0; i < count; i++) {
    text->add("%s{\"name\":", i ? "," : "");
    text->add_quoted(rows[i].name);
    text->add(",\"instruction\":%d,\"index\":%d,\"delegated\":%s,\"readings\":%d,",
              rows[i].instruction, rows[i].index, rows[i].delegated ? "true" : "false",
              rows[i].readings);
    text->add("\"mean_ns\":%" PRIu64 "}", rows[i].total_ns / runs);
  }
  text->add("]");
}

// Measurements of loading the program.
struct Loaded {
  uint64_t load_ns = 0;
  long rss_loaded_kb = 0;
};

static void add_document(Text* text, const Loaded& loaded, const uint64_t* latencies, long runs,
                         bool profile) {
  text->add("{\"schema\":\"edgekit.runner/1\",\"runtime\":\"%s\",\"threads\":%d,",
            engine::runtime_name(), engine::thread_count());
  text->add("\"load_ns\":%" PRIu64 ",\"cpu_ns\":%" PRIu64 ",\"planned_bytes\":%zu,", loaded.load_ns,
            cpu_ns(), engine::planned_bytes());
  text->add("\"peak_memory_kb\":%ld,\"peak_swap_kb\":%ld,\"rss_loaded_kb\":%ld,",
            status_kb("VmHWM:"), peak_swap_kb(), loaded.rss_loaded_kb);
  add_specs(text, "inputs", engine::input_count(), engine::input);
  add_specs(text, "outputs", engine::output_count(), engine::output);
  text->add("\"latencies_ns\":[");
  for (long i = 0; i < runs; i++) text->add("%s%" PRIu64, i ? "," : "", latencies[i]);
  text->add("]");
  if (profile) add_profile(text);
  text->add("}\n");
}

static bool read_inputs(const Arguments& arguments, const Block& block, Failure* failure) {
  if (arguments.input_count == 0) return true;
  if (arguments.input_count != engine::input_count()) {
    return fail(failure, kInputDoesNotFit, "the program takes %d inputs; %d files were given",
                engine::input_count(), arguments.input_count);
  }
  char* at = block.data;
  for (int i = 0; i < arguments.input_count; i++) {
    if (!read_file(arguments.inputs[i], at, engine::input(i).bytes, failure)) return false;
    at += engine::input(i).bytes;
  }
  return true;
}

static bool write_outputs(const Arguments& arguments, Failure* failure) {
  if (arguments.output_count == 0) return true;
  const Block block = make_block(engine::output_count(), engine::output);
  read_outputs(block);
  const char* at = block.data;
  for (int i = 0; i < arguments.output_count; i++) {
    if (!write_file(arguments.outputs[i], at, engine::output(i).bytes, failure)) return false;
    at += engine::output(i).bytes;
  }
  return true;
}

// Only execute() is timed: the inputs are copied before the clock starts.
static bool run_timed(const Block& inputs, uint64_t* latency_ns, Failure* failure) {
  if (!write_inputs(inputs, failure)) return false;
  const uint64_t start = now_ns();
  mark<Mark::kStart>();
  const bool good = engine::execute(failure);
  mark<Mark::kEnd>();
  *latency_ns = now_ns() - start;
  return good;
}

static bool run_once(const Arguments& arguments, const Loaded& loaded, Failure* failure) {
  if (arguments.output_count && arguments.output_count != engine::output_count()) {
    return fail(failure, kBadArguments, "the program gives %d outputs; %d files were named",
                engine::output_count(), arguments.output_count);
  }
  const Block inputs = make_block(engine::input_count(), engine::input);
  if (!read_inputs(arguments, inputs, failure)) return false;
  auto* latencies = static_cast<uint64_t*>(
      checked_alloc(sizeof(uint64_t) * static_cast<size_t>(arguments.runs)));
  for (long i = 0; i < arguments.warmup; i++) {
    if (!run_timed(inputs, latencies, failure)) return false;
  }
  peak_swap_kb();
  engine::reset_profile();
  for (long i = 0; i < arguments.runs; i++) {
    if (!run_timed(inputs, latencies + i, failure)) return false;
  }
  if (!write_outputs(arguments, failure)) return false;
  Text text;
  add_document(&text, loaded, latencies, arguments.runs, arguments.profile);
  if (write_all(1, text.data(), text.size())) return true;
  return fail(failure, kFileError, "stdout cannot be written: %s", strerror(errno));
}

// ---- serving: frames of a 16-byte header and a payload ----

enum Kind : uint32_t {
  kEnd = 0,
  kRun = 1,
  kStatsRequest = 3,
  kHello = 100,
  kResult = 101,
  kError = 102,
  kStats = 103,
};

struct Header {
  char magic[4];
  uint32_t kind;
  uint64_t length;
};
static_assert(sizeof(Header) == 16, "the header is 16 bytes on the wire");

constexpr uint64_t kMaxPayload = uint64_t{1} << 40;

static bool send_frame(Kind kind, const void* payload, size_t length) {
  const Header header = {{'E', 'K', 'F', '1'}, kind, length};
  return write_all(1, &header, sizeof(header)) && write_all(1, payload, length);
}

static bool send_document(Kind kind, const Loaded& loaded) {
  Text text;
  add_document(&text, loaded, nullptr, 0, false);
  return send_frame(kind, text.data(), text.size());
}

static bool send_error(const Failure& failure) {
  Text text;
  text.add("{\"code\":%d,\"message\":", failure.code);
  text.add_quoted(failure.message);
  text.add("}");
  return send_frame(kError, text.data(), text.size());
}

static bool drain(uint64_t length) {
  static char sink[65536];
  while (length) {
    const size_t part = length < sizeof(sink) ? static_cast<size_t>(length) : sizeof(sink);
    if (read_all(0, sink, part) != part) return false;
    length -= part;
  }
  return true;
}

// Answers one RUN request. `answer` has 8 bytes for the latency before the outputs.
static bool answer_run(uint64_t length, const Block& inputs, const Block& answer,
                       Failure* broken) {
  Failure failure;
  if (length != inputs.bytes) {
    if (!drain(length)) return fail(broken, kFileError, "the input ended inside a frame");
    fail(&failure, kInputDoesNotFit, "the request has %" PRIu64 " bytes, but the inputs take %zu",
         length, inputs.bytes);
    return send_error(failure);
  }
  if (read_all(0, inputs.data, inputs.bytes) != inputs.bytes) {
    return fail(broken, kFileError, "the input ended inside a frame");
  }
  uint64_t latency_ns = 0;
  if (!run_timed(inputs, &latency_ns, &failure)) return send_error(failure);
  memcpy(answer.data, &latency_ns, sizeof(latency_ns));
  read_outputs({answer.data + sizeof(latency_ns), answer.bytes - sizeof(latency_ns)});
  return send_frame(kResult, answer.data, answer.bytes);
}

static bool serve(const Loaded& loaded, Failure* failure) {
  const Block inputs = make_block(engine::input_count(), engine::input);
  Block answer = {nullptr, sizeof(uint64_t)};
  for (int i = 0; i < engine::output_count(); i++) answer.bytes += engine::output(i).bytes;
  answer.data = static_cast<char*>(checked_alloc(answer.bytes));
  if (!send_document(kHello, loaded)) return true;
  for (;;) {
    Header header;
    const size_t got = read_all(0, &header, sizeof(header));
    if (got == 0) return true;
    if (got < sizeof(header)) return fail(failure, kFileError, "the input ended inside a frame");
    if (memcmp(header.magic, "EKF1", 4) != 0 || header.length > kMaxPayload) {
      fail(failure, kBadArguments, "a request is no frame of this protocol");
      send_error(*failure);
      return false;
    }
    bool good = true;
    if (header.kind == kEnd) return true;
    if (header.kind == kRun) {
      good = answer_run(header.length, inputs, answer, failure);
    } else if (!drain(header.length)) {
      good = fail(failure, kFileError, "the input ended inside a frame");
    } else if (header.kind == kStatsRequest) {
      good = send_document(kStats, loaded);
    } else {
      Failure unknown;
      fail(&unknown, kBadArguments, "a request of unknown kind %u", header.kind);
      good = send_error(unknown);
    }
    if (!good) return failure->code == kOk;  // kOk: the client has ended, so no error is reported
  }
}

static bool run(const Arguments& arguments, Failure* failure) {
  if (!load_libraries(failure)) return false;
  Loaded loaded;
  keep_freed_blocks_below(kKeptWhileLoading);
  const uint64_t start = now_ns();
  if (!engine::load(arguments.model, static_cast<int>(arguments.threads), arguments.profile,
                    failure)) {
    return false;
  }
  loaded.load_ns = now_ns() - start;
  keep_freed_blocks_below(kKeptWhileRunning);
  loaded.rss_loaded_kb = status_kb("VmRSS:");
  peak_swap_kb();
  return arguments.serve ? serve(loaded, failure) : run_once(arguments, loaded, failure);
}

// Without this handler, bad_alloc inside the vendor's libraries would abort. The function of their
// C++ library is looked up by name, because the runner does not link that library.
static void install_new_handler() {
  using SetNewHandler = void (*(*)(void (*)()))();
  void* symbol = dlsym(RTLD_DEFAULT, "_ZSt15set_new_handlerPFvvE");
  if (symbol) reinterpret_cast<SetNewHandler>(symbol)([] { out_of_memory(); });
}

}  // namespace edgekit

int main(int count, char** values) {
  using namespace edgekit;
  signal(SIGPIPE, SIG_IGN);  // write reports a client that has ended
  install_new_handler();
  Arguments arguments;
  Failure failure;
  if (parse_arguments(count, values, &arguments, &failure)) {
    if (arguments.help) {
      write_all(1, kHelp, sizeof(kHelp) - 1);
    } else if (arguments.version) {
      Text text;
      text.add("edgekit.runner/1 %s\n", engine::runtime_name());
      write_all(1, text.data(), text.size());
    } else {
      run(arguments, &failure);
    }
  }
  if (failure.code != kOk) {
    fprintf(stderr, "edgekit-runner: %s\n", failure.message);
    fflush(stderr);
  }
  // Not exit(): the vendor's static destructors stop thread pools, which is slow and useless here.
  _exit(failure.code);
}
