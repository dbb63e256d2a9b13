/* Threads, and how the rows of a call are divided among them. */

#ifndef MANYHATS_THREADS_H
#define MANYHATS_THREADS_H

#include "call.h"

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel parallel; /* GOMP_parallel of torch's OpenMP runtime */

typedef int (*ThreadNumber)(void);
static ThreadNumber thread_number; /* omp_get_thread_num of the same runtime */

/* Without this call, or after it with 0, only the caller's thread is used. */
EXPORT void manyhats_use_threads(void *gomp_parallel, void *omp_get_thread_num) {
    parallel = omp_get_thread_num ? (Parallel)gomp_parallel : 0;
    thread_number = (ThreadNumber)omp_get_thread_num;
}

#define TILE 32            /* maximum rows of a tile: their intermediate sums fit the L1 cache */
#define GROUP 4            /* minimum rows of a tile, where the segment has as many: they share loaded weights */
#define WORTH_THREADS 8e3  /* estimated nanoseconds on one thread, below which waking others costs more */
#define FLOPS_A_NS 25.0
#define BYTES_A_NS 8.0

/* Uses all threads or one, as torch does: with a smaller team OpenMP ends threads that torch must then start again. */
static void run(Call *call, void (*work)(void *), int64_t pieces, int threads) {
    call->next = call->workers = 0;
    if (threads > 1 && pieces > 1) parallel(work, call, (unsigned)threads, 0);
    else work(call);
}

static int64_t fetch_next(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

/* Divides segments (first row, rows, slot) into tiles of at most `most` rows. */
static int make_tiles(Call *call, int64_t rows, const int32_t *segments, int64_t count, const char *slots,
                      int64_t slot_size, int64_t slot_count, int threads, int64_t most) {
    int64_t total = 0, tile_count = 0, step;
    for (int64_t i = 0; i < count; i++) {
        int64_t first = segments[3 * i], own = segments[3 * i + 1];
        int64_t slot = segments[3 * i + 2];
        if (first < 0 || own < 0 || first + own > rows || slot < 0) return OUT_OF_RANGE;
        if (slot >= slot_count || !*(const int32_t *)(slots + slot * slot_size)) return EMPTY_SLOT;
        total += own;
    }
    step = threads > 1 ? round_up(total / (3 * threads), GROUP) : most;
    step = step < GROUP ? GROUP : step > most ? most : step;
    for (int64_t i = 0; i < count; i++) tile_count += (segments[3 * i + 1] + step - 1) / step;
    call->tiles = malloc((size_t)tile_count * sizeof(Tile) + (size_t)threads * sizeof(Share));
    if (!call->tiles) return NO_MEMORY;
    call->shares = (Share *)(call->tiles + tile_count);
    call->count = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = segments[3 * i], end = row + segments[3 * i + 1], slot = segments[3 * i + 2];
        for (; row < end; row += step)
            call->tiles[call->count++] = (Tile){row, end - row < step ? end - row : step, slots + slot * slot_size, 0};
    }
    return OK;
}

/* Gives each thread the tiles of its part of all rows, as oneDNN divides a layer's product: what it reads and writes is
   then in its core's own cache. A thread that is done takes tiles of the others. */
static void share_tiles(Call *call, int64_t rows, int threads) {
    int64_t i = 0;
    call->share_count = threads;
    for (int64_t s = 0; s < threads; s++) {
        call->shares[s].next = i;
        while (i < call->count && (s == threads - 1 || call->tiles[i].row * threads < (s + 1) * rows)) i++;
        call->shares[s].end = i;
    }
}

/* The shares that a thread takes tiles from: its own, then the others in turn. */
typedef struct {
    int64_t own, done;
} Turn;

static Turn first_turn(void) { return (Turn){thread_number ? thread_number() : 0, 0}; }

/* The next tile of a thread; 0: none is left. */
static const Tile *next_tile(Call *call, Turn *turn) {
    for (; turn->done < call->share_count; turn->done++) {
        Share *share = &call->shares[(turn->own + turn->done) % call->share_count];
        int64_t i = fetch_next(&share->next);
        if (i < share->end) return &call->tiles[i];
    }
    return 0;
}

#endif
