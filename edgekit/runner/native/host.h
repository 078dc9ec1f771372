// The operating system: files, time, the process's memory, libraries.
#pragma once

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

namespace edgekit {

inline uint64_t clock_ns(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

inline uint64_t now_ns() { return clock_ns(CLOCK_MONOTONIC); }

// The CPU time of this process so far, of all its threads.
inline uint64_t cpu_ns() { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

// A row of /proc/self/status in the kernel's kB, e.g. "VmHWM:"; 0 if it is missing.
inline long status_kb(const char* row) {
  FILE* file = fopen("/proc/self/status", "r");
  if (!file) return 0;
  char line[256];
  long value = 0;
  while (fgets(line, sizeof(line), file)) {
    if (strncmp(line, row, strlen(row)) == 0) value = atol(line + strlen(row));
  }
  fclose(file);
  return value;
}

// glibc keeps freed blocks below a size that grows with each larger block that is freed. So the
// weights of a program, which are freed once they are packed, would stay in memory: up to 10 % of
// the peak. With a fixed size, larger blocks go back to the kernel.
constexpr int kKeptWhileLoading = 128 << 10;
// While running: a kernel's temporary memory is worth keeping between inferences. glibc's own size
// grows up to this one.
constexpr int kKeptWhileRunning = 32 << 20;

inline void keep_freed_blocks_below(int bytes) {
#ifdef M_MMAP_THRESHOLD
  mallopt(M_MMAP_THRESHOLD, bytes);
  mallopt(M_TRIM_THRESHOLD, bytes);
#else
  (void)bytes;
#endif
}

// The most of this process that was seen in swap, in the kernel's kB. The kernel keeps no peak of
// it, so call this wherever memory may have grown.
inline long peak_swap_kb() {
  static long peak_kb = 0;
  const long now_kb = status_kb("VmSwap:");
  if (now_kb > peak_kb) peak_kb = now_kb;
  return peak_kb;
}

// Reads `size` bytes. Returns the number of bytes read: fewer at the end of input.
inline size_t read_all(int fd, void* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = read(fd, static_cast<char*>(data) + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

inline bool write_all(int fd, const void* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = write(fd, static_cast<const char*>(data) + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

// Reads a file that must have exactly `size` bytes.
inline bool read_file(const char* path, void* data, size_t size, Failure* failure) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) {
    return fail(failure, kFileError, "%s cannot be read: %s", path, strerror(errno));
  }
  const bool fits = static_cast<size_t>(info.st_size) == size && read_all(fd, data, size) == size;
  close(fd);
  if (fits) return true;
  return fail(failure, kInputDoesNotFit, "%s has %lld bytes, but the input takes %zu", path,
              static_cast<long long>(info.st_size), size);
}

// Writes a file atomically.
inline bool write_file(const char* path, const void* data, size_t size, Failure* failure) {
  char draft[4096];
  if (snprintf(draft, sizeof(draft), "%s.part", path) >= static_cast<int>(sizeof(draft))) {
    return fail(failure, kFileError, "the path of an output is too long");
  }
  const int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool good = fd >= 0 && write_all(fd, data, size);
  good = (fd < 0 || close(fd) == 0) && good && rename(draft, path) == 0;
  if (good) return true;
  fail(failure, kFileError, "%s cannot be written: %s", path, strerror(errno));
  unlink(draft);
  return false;
}

inline bool has_prefix(const char* name, const char* const* prefixes, int count) {
  for (int i = 0; i < count; i++) {
    if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
  }
  return false;
}

// Loads the engine's optional libraries from `lib` beside this executable, in the order of their
// names. They register their kernels and backends when loaded. So one runner serves all bundles,
// and each bundle has only the libraries that its program needs.
inline bool load_libraries(Failure* failure) {
  int count = 0;
  const char* const* prefixes = engine::library_prefixes(&count);
  char folder[4096];
  const ssize_t length = readlink("/proc/self/exe", folder, sizeof(folder) - 8);
  if (length < 0) return fail(failure, kFileError, "/proc/self/exe: %s", strerror(errno));
  folder[length] = 0;
  strcpy(strrchr(folder, '/'), "/lib");
  dirent** entries = nullptr;
  const int entry_count = scandir(folder, &entries, nullptr, alphasort);
  for (int i = 0; i < entry_count; i++) {
    if (!has_prefix(entries[i]->d_name, prefixes, count)) continue;
    char path[4096 + 512];
    snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
    if (!dlopen(path, RTLD_NOW | RTLD_GLOBAL)) {
      return fail(failure, kBadProgram, "a library cannot be loaded: %s", dlerror());
    }
  }
  return true;
}

}  // namespace edgekit
