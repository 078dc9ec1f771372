// A plugin of QEMU's user mode. It counts the basic blocks that an aarch64 program executes between
// two marks (edgekit/runner/native/markers.h), and simulates the caches of one core. Marks between
// the two divide a run into segments, which are counted one by one.
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
enum { kFirstMark = 9, kMarkStart = 11, kMarkEnd = 12, kLastMark = 15 };  // mov xN, xN

static void* checked(void* memory) {
  if (memory) return memory;
  fprintf(stderr, "block_counter: no memory\n");
  exit(1);
}

// ---- blocks ----

struct block {
  uint64_t address, count;  // of the open segment
  uint64_t number;          // in the output, from 1; 0: it has none
  uint32_t length;
  uint32_t words[];
};

struct list {
  char* items;
  size_t count, capacity;
};

static void* append(struct list* list, size_t size) {
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? 2 * list->capacity : 1 << 12;
    list->items = checked(realloc(list->items, list->capacity * size));
  }
  return list->items + size * list->count++;
}

static struct list executed;  // struct block*: those of the open segment
static bool counting, simulating;
static uint64_t marked_runs, loads, stores;
static const char* output_path = "";

static void on_block(unsigned cpu, void* data) {
  (void)cpu;
  struct block* block = data;
  if (counting && !block->count++) *(struct block**)append(&executed, sizeof block) = block;
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

// ---- segments ----

struct segment {
  int mark;  // that ends it
  uint64_t loads, stores, misses[kLevels], write_backs[kLevels];
  size_t first_use, uses;
};

struct use {
  struct block* block;
  uint64_t count;
};

static struct list segments, uses;  // of the last marked run

static void begin_segment(void) {
  for (int i = 0; i < level_count; i++) caches[i].misses = caches[i].write_backs = 0;
  loads = stores = 0;
  struct block** blocks = (struct block**)executed.items;
  for (size_t i = 0; i < executed.count; i++) blocks[i]->count = 0;
  executed.count = 0;
}

static void end_segment(int mark) {
  struct segment* segment = append(&segments, sizeof *segment);
  *segment = (struct segment){mark, loads, stores, {0}, {0}, uses.count, executed.count};
  for (int i = 0; i < level_count; i++) {
    segment->misses[i] = caches[i].misses;
    segment->write_backs[i] = caches[i].write_backs;
  }
  struct block** blocks = (struct block**)executed.items;
  for (size_t i = 0; i < executed.count; i++) {
    *(struct use*)append(&uses, sizeof(struct use)) = (struct use){blocks[i], blocks[i]->count};
  }
  begin_segment();
}

static void on_mark(unsigned cpu, void* data) {
  (void)cpu;
  const int mark = (int)(intptr_t)data;
  if (mark == kMarkStart) {
    segments.count = uses.count = 0;
    begin_segment();
    counting = simulating = true;
  } else if (counting) {
    end_segment(mark);
    if (mark != kMarkEnd) return;
    marked_runs++;
    counting = false;
  }
}

static int mark_of(uint32_t word) {
  const uint32_t number = word & 31;
  const bool moves_to_itself = word == (0xaa0003e0 | number << 16 | number);
  return moves_to_itself && number >= kFirstMark && number <= kLastMark ? (int)number : 0;
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
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, kNoFlags, block);
  for (size_t i = 0; i < length; i++) {
    struct qemu_plugin_insn* one = qemu_plugin_tb_get_insn(tb, i);
    block->words[i] = word_of(one);
    const int mark = mark_of(block->words[i]);
    if (mark) qemu_plugin_register_vcpu_insn_exec_cb(one, on_mark, kNoFlags, (void*)(intptr_t)mark);
    qemu_plugin_register_vcpu_mem_cb(one, on_memory, kNoFlags, kReadsAndWrites, NULL);
  }
}

// ---- output ----

// A block gets its number where it is first used.
static void write_block(FILE* file, struct block* block) {
  static uint64_t numbers = 0;
  if (block->number) return;
  block->number = ++numbers;
  fprintf(file, "block %" PRIx64 " ", block->address);
  for (uint32_t k = 0; k < block->length; k++) fprintf(file, "%08" PRIx32, block->words[k]);
  fputc('\n', file);
}

static void write_segment(FILE* file, const struct segment* segment) {
  const struct use* first = (struct use*)uses.items + segment->first_use;
  for (size_t i = 0; i < segment->uses; i++) write_block(file, first[i].block);
  fprintf(file, "segment %d %" PRIu64 " %" PRIu64 "\ncaches", segment->mark, segment->loads,
          segment->stores);
  for (int i = 0; i < level_count; i++) {
    fprintf(file, " %" PRIu64 " %" PRIu64, segment->misses[i], segment->write_backs[i]);
  }
  fprintf(file, "\nuses");
  for (size_t i = 0; i < segment->uses; i++) {
    fprintf(file, " %" PRIu64 " %" PRIu64, first[i].block->number - 1, first[i].count);
  }
  fputc('\n', file);
}

static void write_counts(plugin_id id, void* data) {
  (void)id, (void)data;
  FILE* file = fopen(output_path, "w");
  if (!file) return;
  fprintf(file, "edgekit-blocks 2\nruns %" PRIu64 "\n", marked_runs);
  for (size_t i = 0; i < segments.count; i++) {
    write_segment(file, (struct segment*)segments.items + i);
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
