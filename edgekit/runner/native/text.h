// A string builder for JSON. No std:: containers: the runner links no C++ library.
#pragma once

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine.h"

namespace edgekit {

// Without memory no report is possible: print a message and exit.
[[noreturn]] inline void out_of_memory() {
  static const char kLine[] = "edgekit-runner: out of memory; close other programs\n";
  (void)!write(2, kLine, sizeof(kLine) - 1);
  _exit(kNoMemory);
}

inline void* checked_alloc(size_t bytes) {
  void* memory = nullptr;
  // 64: the alignment that the vendor's kernels require of an arena. Never zero bytes: that may
  // return nullptr.
  if (posix_memalign(&memory, 64, bytes ? bytes : 64) != 0) out_of_memory();
  return memory;
}

class Text {
 public:
  void add(const char* format, ...) __attribute__((format(printf, 2, 3))) {
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    const int length = vsnprintf(nullptr, 0, format, arguments);
    va_end(arguments);
    reserve(size_ + static_cast<size_t>(length) + 1);
    vsnprintf(data_ + size_, static_cast<size_t>(length) + 1, format, again);
    va_end(again);
    size_ += static_cast<size_t>(length);
  }

  // A JSON string with its quotes. Names are ASCII; other bytes become '?'.
  void add_quoted(const char* text) {
    add("\"");
    for (const char* c = text; *c; c++) {
      const auto byte = static_cast<unsigned char>(*c);
      if (*c == '"' || *c == '\\') {
        add("\\%c", *c);
      } else if (byte < 0x20) {
        add("\\u%04x", byte);
      } else {
        add("%c", byte < 0x7f ? *c : '?');
      }
    }
    add("\"");
  }

  const char* data() const { return data_ ? data_ : ""; }
  size_t size() const { return size_; }

 private:
  void reserve(size_t wanted) {
    if (wanted <= capacity_) return;
    capacity_ = wanted * 2 + 256;
    data_ = static_cast<char*>(realloc(data_, capacity_));
    if (!data_) out_of_memory();
  }

  char* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace edgekit
