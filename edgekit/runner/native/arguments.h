// The command line.
#pragma once

#include <stdlib.h>
#include <string.h>

#include "engine.h"

namespace edgekit {

constexpr int kMaxTensors = 64;
constexpr long kMaxRuns = 100000000;
constexpr long kMaxThreads = 256;

struct Arguments {
  const char* model = nullptr;
  const char* inputs[kMaxTensors];
  const char* outputs[kMaxTensors];
  int input_count = 0;
  int output_count = 0;
  long warmup = 3;
  long runs = 20;
  long threads = 1;
  bool profile = false;
  bool serve = false;
  bool describe = false;
  bool help = false;
  bool version = false;
};

inline bool parse_number(const char* option, const char* text, long low, long high, long* value,
                         Failure* failure) {
  char* end = nullptr;
  *value = strtol(text, &end, 10);
  if (end != text && *end == 0 && *value >= low && *value <= high) return true;
  return fail(failure, kBadArguments, "%s takes a whole number from %ld to %ld, not '%s'", option,
              low, high, text);
}

inline bool add_path(const char* option, const char* path, const char** paths, int* count,
                     Failure* failure) {
  if (*count == kMaxTensors) {
    return fail(failure, kBadArguments, "more than %d times %s", kMaxTensors, option);
  }
  paths[(*count)++] = path;
  return true;
}

inline bool parse_flag(const char* option, Arguments* out) {
  bool* flag = nullptr;
  if (!strcmp(option, "--profile")) flag = &out->profile;
  if (!strcmp(option, "--serve")) flag = &out->serve;
  if (!strcmp(option, "--describe")) flag = &out->describe;
  if (!strcmp(option, "--help")) flag = &out->help;
  if (!strcmp(option, "--version")) flag = &out->version;
  if (flag) *flag = true;
  return flag != nullptr;
}

inline bool parse_option(const char* option, const char* value, Arguments* out, Failure* failure) {
  if (!value) return fail(failure, kBadArguments, "unknown option or no value: %s", option);
  if (!strcmp(option, "--model")) {
    out->model = value;
    return true;
  }
  if (!strcmp(option, "--input")) {
    return add_path(option, value, out->inputs, &out->input_count, failure);
  }
  if (!strcmp(option, "--output")) {
    return add_path(option, value, out->outputs, &out->output_count, failure);
  }
  if (!strcmp(option, "--warmup")) {
    return parse_number(option, value, 0, kMaxRuns, &out->warmup, failure);
  }
  if (!strcmp(option, "--runs")) {
    return parse_number(option, value, 0, kMaxRuns, &out->runs, failure);
  }
  if (!strcmp(option, "--threads")) {
    return parse_number(option, value, 1, kMaxThreads, &out->threads, failure);
  }
  return fail(failure, kBadArguments, "unknown option: %s (--help lists them)", option);
}

inline bool parse_arguments(int count, char** values, Arguments* out, Failure* failure) {
  for (int i = 1; i < count; i++) {
    if (parse_flag(values[i], out)) continue;
    if (!parse_option(values[i], i + 1 < count ? values[i + 1] : nullptr, out, failure)) {
      return false;
    }
    i++;
  }
  if (out->help || out->version) return true;
  if (!out->model) return fail(failure, kBadArguments, "--model FILE is missing");
  if (out->describe) out->runs = out->warmup = 0;
  if (out->output_count && out->runs == 0) {
    return fail(failure, kBadArguments, "--output needs at least one run");
  }
  return true;
}

}  // namespace edgekit
