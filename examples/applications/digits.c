// Reads handwritten digits: digits FOLDER < IMAGES
// IMAGES: 256 bytes each, 64 float32 from -1 (paper) to 1 (ink). For little-endian Linux.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUN = 1, HELLO = 100, RESULT = 101, ERROR = 102 };
enum { PIXELS = 64, DIGITS = 10 };

struct header {  // before every payload, in both directions
  char magic[4];
  uint32_t kind;
  uint64_t length;
};

struct result {
  uint64_t latency_ns;
  float scores[DIGITS];
};

struct model {
  pid_t pid;
  int in, out;  // the runner's stdin and stdout
};

// Gives what was read: less than `size` where the other side has ended.
static size_t read_all(int fd, void* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = read(fd, (char*)data + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += (size_t)count;
  }
  return done;
}

static int write_all(int fd, const void* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = write(fd, (const char*)data + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return 0;
    done += (size_t)count;
  }
  return 1;
}

static int send_frame(const struct model* model, uint32_t kind, const void* data, size_t size) {
  const struct header header = {{'E', 'K', 'F', '1'}, kind, size};
  return write_all(model->in, &header, sizeof(header)) && write_all(model->in, data, size);
}

// Receives a frame of the kind and size that are wanted; of any other, an ERROR's words are shown.
static int receive_frame(const struct model* model, uint32_t kind, void* data, size_t size) {
  struct header header;
  if (read_all(model->out, &header, sizeof(header)) != sizeof(header)) return 0;
  if (memcmp(header.magic, "EKF1", 4) != 0) return 0;
  if (header.kind == kind && header.length == size) {
    return read_all(model->out, data, size) == size;
  }
  char chunk[4096];
  for (uint64_t left = header.length; left > 0;) {
    const size_t part = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);
    if (read_all(model->out, chunk, part) != part) return 0;
    if (header.kind == ERROR) fwrite(chunk, 1, part, stderr);
    left -= part;
  }
  return header.kind == kind && size == 0;
}

// The child: the runner takes its place. It shares our stderr, where its last words go.
static void become_runner(const char* folder, int in, int out) {
  char release[PATH_MAX], runner[PATH_MAX + 16], file[PATH_MAX + 16];
  if (realpath(folder, release)) {  // once: a deployment meanwhile changes nothing
    snprintf(runner, sizeof(runner), "%s/runner", release);
    snprintf(file, sizeof(file), "%s/model.pte", release);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    execl(runner, runner, "--model", file, "--serve", "--threads", "1", (char*)NULL);
  }
  perror(folder);
  _exit(127);
}

static int open_model(struct model* model, const char* folder) {
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return 0;
  model->pid = fork();
  if (model->pid == 0) become_runner(folder, to[0], from[1]);
  close(to[0]);
  close(from[1]);
  model->in = to[1];
  model->out = from[0];
  return model->pid > 0 && receive_frame(model, HELLO, NULL, 0);
}

// Closing its stdin ends the runner. Waiting for it leaves no zombie.
static void close_model(const struct model* model) {
  close(model->in);
  close(model->out);
  while (waitpid(model->pid, NULL, 0) < 0 && errno == EINTR) continue;
}

static int largest(const float* scores) {
  int best = 0;
  for (int i = 1; i < DIGITS; i++) {
    if (scores[i] > scores[best]) best = i;
  }
  return best;
}

int main(int count, char** arguments) {
  if (count != 2) return fprintf(stderr, "usage: digits FOLDER < IMAGES\n"), 2;
  signal(SIGPIPE, SIG_IGN);  // a runner that has ended is seen by write
  struct model model = {-1, -1, -1};
  float image[PIXELS];
  struct result result;
  int good = open_model(&model, arguments[1]);
  while (good && read_all(STDIN_FILENO, image, sizeof(image)) == sizeof(image)) {
    good = send_frame(&model, RUN, image, sizeof(image)) &&
           receive_frame(&model, RESULT, &result, sizeof(result));
    if (good) printf("%d\n", largest(result.scores));
  }
  close_model(&model);
  if (!good) fprintf(stderr, "digits: the model failed\n");
  return good ? 0 : 1;
}
