// A plugin of QEMU's user mode. It counts the basic blocks that an aarch64 program executes between
// two marks (edgekit/runner/native/markers.h), and simulates the caches of one core.
//
// Arguments: out=FILE, and for each cache level l1=BYTES:WAYS, l2=, l3= (l3 is optional).
// The last marked run counts. The caches are simulated from the first mark on, so that an earlier
// run warms them. FILE has one line for each fact, see write_counts().
//
// The few declarations of QEMU's interface that are needed are repeated here, because distributions
// do not always package its header. QEMU_PLUGIN_API is the version of the interface:
// 1 for QEMU before 9.0, 2 for 9.0, 3 for later ones.
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef uint32_t memory_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translate_callback)(plugin_id, struct qemu_plugin_tb*);
typedef void (*execute_callback)(unsigned cpu, void* data);
typedef void (*memory_callback)(unsigned cpu, memory_info, uint64_t address, void* data);
typedef void (*exit_callback)(plugin_id, void* data);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translate_callback);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, execute_callback,
                                                 int flags, void* data);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn*, execute_callback,
                                                   int flags, void* data);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn*, memory_callback, int flags,
                                             int access, void* data);
extern void qemu_plugin_register_atexit_cb(plugin_id, exit_callback, void* data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
extern struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
extern bool qemu_plugin_mem_is_store(memory_info);
#if QEMU_PLUGIN_API >= 3
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn*, void* to, size_t size);
#else
extern const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);
#endif

EXPORT int qemu_plugin_version = QEMU_PLUGIN_API;

enum { kNoFlags = 0, kReadsAndWrites = 3, kLineBits = 6, kLevels = 3 };
static const uint32_t kMarkStart = 0xaa0b03eb;  // mov x11, x11
static const uint32_t kMarkEnd = 0xaa0c03ec;    // mov x12, x12

static void* checked(void* memory) {
  if (memory) return memory;
  fprintf(stderr, "block_counter: no memory\n");
  exit(1);
}

// ---- blocks ----

struct block {
  uint64_t address, count;
  uint32_t length;
  uint32_t words[];
};

static struct block** blocks;
static size_t block_count, block_capacity;
static bool counting, simulating;
static uint64_t marked_runs, loads, stores;
static const char* output_path = "";

static void add_block(struct block* block) {
  if (block_count == block_capacity) {
    block_capacity = block_capacity ? 2 * block_capacity : 1 << 14;
    blocks = checked(realloc(blocks, block_capacity * sizeof *blocks));
  }
  blocks[block_count++] = block;
}

static void on_block(unsigned cpu, void* data) {
  (void)cpu;
  if (counting) ((struct block*)data)->count++;
}

// ---- caches: least recently used, write-allocate ----

// A store that misses makes its line dirty in every level that it misses. Evicting a dirty line is
// a write-back.
struct cache {
  uint64_t sets, ways, misses, write_backs, clock;
  struct line {
    uint64_t tag, used;
    bool dirty;
  }* lines;
};

static struct cache caches[kLevels];
static int level_count;

static bool make_cache(struct cache* cache, const char* geometry) {
  unsigned long long bytes = 0, ways = 0;
  if (sscanf(geometry, "%llu:%llu", &bytes, &ways) != 2 || !ways) return false;
  cache->ways = ways;
  cache->sets = (bytes >> kLineBits) / ways;
  if (!cache->sets) return false;
  cache->lines = checked(calloc(cache->sets * ways, sizeof *cache->lines));
  for (uint64_t i = 0; i < cache->sets * ways; i++) cache->lines[i].tag = UINT64_MAX;
  return true;
}

static bool access_cache(struct cache* cache, uint64_t tag, bool store) {
  struct line* set = cache->lines + tag % cache->sets * cache->ways;
  struct line* oldest = set;
  cache->clock++;
  for (struct line* line = set; line < set + cache->ways; line++) {
    if (line->tag == tag) {
      line->used = cache->clock;
      line->dirty |= store;
      return true;
    }
    if (line->used < oldest->used) oldest = line;
  }
  cache->misses++;
  cache->write_backs += oldest->dirty;
  *oldest = (struct line){tag, cache->clock, store};
  return false;
}

static void on_memory(unsigned cpu, memory_info info, uint64_t address, void* data) {
  (void)cpu, (void)data;
  if (!simulating) return;
  const bool store = qemu_plugin_mem_is_store(info);
  if (counting) store ? stores++ : loads++;
  for (int level = 0; level < level_count; level++) {
    if (access_cache(caches + level, address >> kLineBits, store)) return;
  }
}

// ---- marks ----

static void on_start(unsigned cpu, void* data) {
  (void)cpu, (void)data;
  for (size_t i = 0; i < block_count; i++) blocks[i]->count = 0;
  for (int i = 0; i < level_count; i++) caches[i].misses = caches[i].write_backs = 0;
  loads = stores = 0;
  counting = simulating = true;
}

static void on_end(unsigned cpu, void* data) {
  (void)cpu, (void)data;
  marked_runs += counting;
  counting = false;
}

static uint32_t word_of(const struct qemu_plugin_insn* instruction) {
  uint32_t word = 0;
#if QEMU_PLUGIN_API >= 3
  qemu_plugin_insn_data(instruction, &word, sizeof word);
#else
  memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
#endif
  return word;
}

static void on_translate(plugin_id id, struct qemu_plugin_tb* tb) {
  (void)id;
  const size_t length = qemu_plugin_tb_n_insns(tb);
  struct block* block = checked(calloc(1, sizeof *block + length * sizeof(uint32_t)));
  block->address = qemu_plugin_tb_vaddr(tb);
  block->length = (uint32_t)length;
  add_block(block);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, kNoFlags, block);
  for (size_t i = 0; i < length; i++) {
    struct qemu_plugin_insn* one = qemu_plugin_tb_get_insn(tb, i);
    block->words[i] = word_of(one);
    if (block->words[i] == kMarkStart) {
      qemu_plugin_register_vcpu_insn_exec_cb(one, on_start, kNoFlags, NULL);
    } else if (block->words[i] == kMarkEnd) {
      qemu_plugin_register_vcpu_insn_exec_cb(one, on_end, kNoFlags, NULL);
    }
    qemu_plugin_register_vcpu_mem_cb(one, on_memory, kNoFlags, kReadsAndWrites, NULL);
  }
}

// ---- output ----

static void write_counts(plugin_id id, void* data) {
  (void)id, (void)data;
  FILE* file = fopen(output_path, "w");
  if (!file) return;
  fprintf(file, "edgekit-blocks 1\nruns %" PRIu64 "\naccesses %" PRIu64 " %" PRIu64 "\n",
          marked_runs, loads, stores);
  for (int i = 0; i < level_count; i++) {
    fprintf(file, "cache %" PRIu64 " %" PRIu64 "\n", caches[i].misses, caches[i].write_backs);
  }
  for (size_t i = 0; i < block_count; i++) {
    const struct block* block = blocks[i];
    if (!block->count) continue;
    fprintf(file, "block %" PRIx64 " %" PRIu64 " ", block->address, block->count);
    for (uint32_t k = 0; k < block->length; k++) fprintf(file, "%08" PRIx32, block->words[k]);
    fputc('\n', file);
  }
  fprintf(file, "end\n");
  fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void* info, int count, char** arguments) {
  (void)info;
  for (int i = 0; i < count; i++) {
    const char* value = strchr(arguments[i], '=');
    if (!strncmp(arguments[i], "out=", 4)) {
      output_path = checked(strdup(value + 1));
    } else if (value && arguments[i][0] == 'l' && level_count < kLevels) {
      if (!make_cache(caches + level_count++, value + 1)) return 1;
    }
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_atexit_cb(id, write_counts, NULL);
  return 0;
}
