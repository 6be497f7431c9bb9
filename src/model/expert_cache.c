/* The cache of routed experts (expert_cache.h): slots, who uses them, and reads on their way. */
#include "model/expert_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "base/reader.h"
#include "model/block_scales.h"
#include "model/blocks.h"

/* What is read of an expert: the numbers of each part, and, where its format has them, the scales of each. */
enum { SCALES = EXPERT_PARTS, ITEMS = 2 * EXPERT_PARTS };

/* An expert of the model: where its items lie, and the slot that has it, or none. */
struct place {
    struct reader_file *file;
    uint64_t offset;
    uint32_t bytes_before /* in the item's first block */, align /* of its numbers */;
    const struct format *format;
};
struct holding { struct place places[ITEMS]; int32_t slot; };

#define NONE (-1)
#define NOT_A_NUMBER (-2)   /* beside READER_ENDED and errnos */
#define ALL_PARTS ((1u << EXPERT_PARTS) - 1)
/* The items of parts, bits of both. */
#define ITEMS_OF(parts) ((parts) * (1u | 1u << SCALES))

/* One that is used by a walk (users > 0) or whose reads are on their way (loading) keeps its expert. */
struct slot {
    int32_t expert;                /* of the model: layer by layer; NONE: empty */
    int32_t older, newer;          /* the list by last use */
    int32_t users;
    int32_t left[ITEMS];           /* reads on their way */
    unsigned ready, loading;       /* items */
    bool failed;                   /* a read; the slot is emptied when nobody has it any more */
    uint64_t announced;            /* the last announcement that wants it */
};

struct cache {
    struct expert_cache common;    /* first */
    pthread_mutex_t mutex;         /* of everything below but what create has settled */
    pthread_cond_t changed;        /* a part has arrived or could not be read, or a slot is free */
    struct reader *reader;
    struct reader_file *files;
    int file_count, layer_count;
    int64_t experts;               /* of a layer */
    const struct expert **layers;  /* their experts */
    struct holding *holdings;      /* [layer_count, experts] */
    size_t item_offset[ITEMS], item_bytes[ITEMS];   /* in a slot; bytes in the file, 0: there is no such item */
    int first_read[ITEMS + 1];                      /* of a slot's records */
    uint8_t *memory;
    size_t memory_bytes, slot_bytes;
    struct slot *slots;
    struct reader_read *reads;     /* [slot_count, first_read[ITEMS]] */
    int32_t slot_count, oldest, newest;
    uint64_t announcements;
    struct expert_cache_counts counts;
    struct error failure;          /* the last one */
};

static struct parameter *part_of(const struct expert *expert, int part) {
    return part == EXPERT_GATE ? expert->gate : part == EXPERT_UP ? expert->up : expert->down;
}

/* ---- where everything is ----------------------------------------------------------------------------------------- */

static size_t whole_blocks(size_t bytes) { return (bytes + READER_BLOCK - 1) / READER_BLOCK * READER_BLOCK; }

/* Room for an item: its numbers may begin anywhere in their first block. */
static size_t item_room(size_t bytes) { return bytes ? whole_blocks(bytes) + READER_BLOCK : 0; }

/* The tensor of an item, or NULL. Loading has found that the scales are there where they have to be. */
static const struct safetensors_entry *entry_of(const struct model *model, const struct expert *expert, int item) {
    const struct parameter *p = part_of(expert, item % EXPERT_PARTS);
    const struct safetensors_entry *scales = NULL;
    if (item < SCALES) return p->entry;
    if (p->format->scaled) (void)block_scales_find(&scales, model->checkpoint, p->format, p->entry, NULL);
    return scales;
}

/* The largest bytes of each item, over the model. The number of layers with experts; *odd: a part of a type that
 * products cannot read. */
static int measure_items(const struct model *model, size_t bytes[ITEMS], const struct safetensors_entry **odd) {
    int layers = 0;
    memset(bytes, 0, ITEMS * sizeof *bytes);
    *odd = NULL;
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct expert *experts = moe_experts(&model->layers[i]);
        if (!experts) continue;
        layers++;
        for (int64_t e = 0; e < model->config.n_routed_experts; e++)
            for (int item = 0; item < ITEMS; item++) {
                const struct safetensors_entry *entry = entry_of(model, &experts[e], item);
                if (entry && entry->bytes > bytes[item]) bytes[item] = entry->bytes;
                if (entry && entry->dtype == DTYPE_F16) *odd = entry;
            }
    }
    return layers;
}

static size_t slot_bytes_of(const size_t bytes[ITEMS]) {
    size_t sum = 0;
    for (int item = 0; item < ITEMS; item++) sum += item_room(bytes[item]);
    return sum;
}

size_t expert_cache_slot_bytes(const struct model *model) {
    size_t bytes[ITEMS];
    const struct safetensors_entry *odd;
    return measure_items(model, bytes, &odd) ? slot_bytes_of(bytes) : 0;
}

uint64_t expert_cache_automatic(const struct model *model, uint64_t available) {
    size_t bytes[ITEMS];
    const struct safetensors_entry *odd;
    const int layers = measure_items(model, bytes, &odd);
    const uint64_t all = model_packed_bytes(model, 1), kept = available / 8;
    if (!layers || odd || all <= available - kept) return 0;
    uint64_t routed = 0;
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct expert *experts = moe_experts(&model->layers[i]);
        for (int64_t e = 0; experts && e < model->config.n_routed_experts; e++)
            for (int part = 0; part < EXPERT_PARTS; part++) {
                const struct parameter *p = part_of(&experts[e], part);
                routed += model->kernels->matmul.packed_bytes(p->shape[1], p->shape[0], parameter_packed_type(p));
            }
    }
    const uint64_t resident = all > routed ? all - routed : 0, slot = slot_bytes_of(bytes),
                   least = slot * (uint64_t)model->config.num_experts_per_tok,
                   most = slot * (uint64_t)(layers * model->config.n_routed_experts);
    const uint64_t left = resident + kept < available ? available - kept - resident : 0;
    /* with too little for one token's experts of a layer it is tried all the same */
    return left < least ? least : left > most ? most : left;
}

/* ---- the list by last use ---------------------------------------------------------------------------------------- */

static void leave_list(struct cache *cache, int32_t i) {
    const struct slot *slot = &cache->slots[i];
    *(slot->older == NONE ? &cache->oldest : &cache->slots[slot->older].newer) = slot->newer;
    *(slot->newer == NONE ? &cache->newest : &cache->slots[slot->newer].older) = slot->older;
}

static void make_newest(struct cache *cache, int32_t i) {
    leave_list(cache, i);
    cache->slots[i].older = cache->newest;
    cache->slots[i].newer = NONE;
    *(cache->newest == NONE ? &cache->oldest : &cache->slots[cache->newest].newer) = i;
    cache->newest = i;
}

static void make_oldest(struct cache *cache, int32_t i) {
    leave_list(cache, i);
    cache->slots[i].newer = cache->oldest;
    cache->slots[i].older = NONE;
    *(cache->oldest == NONE ? &cache->newest : &cache->slots[cache->oldest].older) = i;
    cache->oldest = i;
}

/* ---- reads ------------------------------------------------------------------------------------------------------- */

static uint8_t *item_memory(const struct cache *cache, int32_t slot, int item) {
    return cache->memory + (size_t)slot * cache->slot_bytes + cache->item_offset[item];
}

static const void *item_data(const struct cache *cache, const struct holding *holding, int item) {
    const struct place *place = &holding->places[item];
    return item_memory(cache, holding->slot, item) + place->bytes_before / place->align * place->align;
}

static void empty(struct cache *cache, int32_t i) {
    struct slot *slot = &cache->slots[i];
    cache->holdings[slot->expert].slot = NONE;
    slot->expert = NONE;
    slot->ready = 0;
    slot->failed = false;
    make_oldest(cache, i);
}

static void forget_failed(struct cache *cache, int32_t i) {
    const struct slot *slot = &cache->slots[i];
    if (slot->failed && !slot->users && !slot->loading) empty(cache, i);
}

static int64_t first_bad_scale(const struct cache *cache, const struct holding *holding, int item) {
    const struct format *format = holding->places[item].format;
    return format_find_bad_scale(format, item_data(cache, holding, item),
                                 (int64_t)(cache->item_bytes[item] / dtype_bytes(format->scale_dtype, 1)));
}

static void fail(struct cache *cache, const struct slot *slot, int item, const struct reader_read *read, int reason) {
    const struct expert *expert =
        &cache->layers[slot->expert / cache->experts][slot->expert % cache->experts];
    const struct parameter *p = part_of(expert, item % EXPERT_PARTS);
    const struct holding *holding = &cache->holdings[slot->expert];
    const struct format *format = holding->places[item].format;
    const char *name = p->name;
    char buffer[128], scales[SAFETENSORS_MAX_NAME + 1];
    if (item >= SCALES) {
        block_scales_name(scales, format, name);
        name = scales;
    }
    if (reason == NOT_A_NUMBER && item >= SCALES) {
        const void *data = item_data(cache, holding, item);
        const int64_t bad = first_bad_scale(cache, holding, item),
                      columns = format_scale_columns(format, p->shape[1]);
        error_set(&cache->failure, STATUS_INVALID,
                  "%s: tensor %s: [%lld, %lld]: found %g, expected a scale above 0 that is finite", read->file->path,
                  name, (long long)(bad / columns), (long long)(bad % columns),
                  (double)format_scale(format, data, bad));
    } else if (reason == NOT_A_NUMBER)
        error_set(&cache->failure, STATUS_INVALID, "%s: tensor %s: found a code that is NaN, expected numbers",
                  read->file->path, name);
    else if (reason == READER_ENDED)
        error_set(&cache->failure, STATUS_IO,
                  "%s: tensor %s: the file ended while it was read, it has become shorter since the model was opened",
                  read->file->path, name);
    else
        error_set(&cache->failure, STATUS_IO, "%s: tensor %s: cannot read: %s", read->file->path, name,
                  strerror_r(reason, buffer, sizeof buffer));
}

/* On a thread of the reader. */
static void piece_done(struct reader_read *read, int reason) {
    struct cache *cache = read->context;
    const int records = cache->first_read[ITEMS];
    const int64_t index = read - cache->reads;
    const int32_t i = (int32_t)(index / records);
    int item = 0;
    while (index % records >= cache->first_read[item + 1]) item++;
    struct slot *slot = &cache->slots[i];
    /* a slot that is loading stays what it is */
    const struct holding *holding = &cache->holdings[slot->expert];
    const struct place *place = &holding->places[item];
    const struct format *format = place->format;
    if (!reason && format->scaled && item < SCALES) {
        const size_t skipped = index % records == cache->first_read[item] ? place->bytes_before : 0;
        if (dtype_find_nan(format->dtype, (const uint8_t *)read->to + skipped, (int64_t)(read->least - skipped)) >= 0)
            reason = NOT_A_NUMBER;
    }
    pthread_mutex_lock(&cache->mutex);
    if (reason) {
        fail(cache, slot, item, read, reason);
        slot->failed = true;
    } else {
        cache->counts.bytes_read += read->bytes;
    }
    if (--slot->left[item] == 0) {
        const uint32_t off = place->bytes_before % place->align;
        uint8_t *at = item_memory(cache, i, item) + place->bytes_before;
        if (off && !slot->failed) memmove(at - off, at, cache->item_bytes[item]);   /* an odd address in the file */
        if (item >= SCALES && !slot->failed && first_bad_scale(cache, holding, item) >= 0) {
            fail(cache, slot, item, read, NOT_A_NUMBER);
            slot->failed = true;
        }
        slot->loading &= ~(1u << item);
        if (!slot->failed) slot->ready |= 1u << item;
        forget_failed(cache, i);
        pthread_cond_broadcast(&cache->changed);
    }
    pthread_mutex_unlock(&cache->mutex);
}

/* Pieces of an item begin at multiples of READER_PIECE from its first block. */
static int pieces_of(const struct place *place, size_t bytes) {
    return (int)((whole_blocks(place->bytes_before + bytes) + READER_PIECE - 1) / READER_PIECE);
}

static void load(struct cache *cache, int32_t i, unsigned parts) {
    struct slot *slot = &cache->slots[i];
    const unsigned items = ITEMS_OF(parts) & ~slot->ready & ~slot->loading;
    for (int item = 0; item < ITEMS; item++) {
        if (!(items & 1u << item)) continue;
        if (!cache->item_bytes[item]) {
            slot->ready |= 1u << item;
            continue;
        }
        const struct place *place = &cache->holdings[slot->expert].places[item];
        const size_t wanted = place->bytes_before + cache->item_bytes[item], bytes = whole_blocks(wanted);
        struct reader_read *reads = cache->reads + (ptrdiff_t)i * cache->first_read[ITEMS] + cache->first_read[item];
        const int pieces = pieces_of(place, cache->item_bytes[item]);
        slot->loading |= 1u << item;
        slot->left[item] = pieces;
        for (int piece = 0; piece < pieces; piece++) {
            const size_t begin = (size_t)piece * READER_PIECE, end = begin + READER_PIECE;
            reads[piece] = (struct reader_read){
                .file = place->file,
                .offset = place->offset - place->bytes_before + begin,
                .bytes = (end < bytes ? end : bytes) - begin,
                .least = (end < wanted ? end : wanted) - begin,
                .to = item_memory(cache, i, item) + begin,
                .done = piece_done,
                .context = cache,
            };
            reader_submit(cache->reader, &reads[piece]);
        }
    }
}

/* ---- walks ------------------------------------------------------------------------------------------------------- */

/* A slot for an expert that has none: the one used least recently, unless this announcement has asked for it. NONE: all
 * are in use. */
static int32_t place_expert(struct cache *cache, int32_t expert, uint64_t announcement) {
    int32_t i = cache->oldest;
    while (i != NONE && (cache->slots[i].users || cache->slots[i].loading ||
                         (announcement && cache->slots[i].announced == announcement)))
        i = cache->slots[i].newer;
    if (i == NONE) return NONE;
    struct slot *slot = &cache->slots[i];
    if (slot->expert != NONE) cache->holdings[slot->expert].slot = NONE;
    slot->expert = expert;
    slot->ready = 0;
    cache->holdings[expert].slot = i;
    make_newest(cache, i);
    return i;
}

static int32_t first_of_layer(const struct cache *cache, const struct expert *experts) {
    int layer = 0;
    while (cache->layers[layer] != experts) layer++;
    return (int32_t)(layer * cache->experts);
}

static int64_t with_rows(const int32_t *first, int64_t count) {
    int64_t wanted = 0;
    for (int64_t e = 0; e < count; e++) wanted += first[e] < first[e + 1];
    return wanted;
}

/* Parts that are brought for one that is needed: the whole expert, unless it would have to go before its other parts
 * are used. */
static unsigned brought(const struct cache *cache, int64_t wanted, unsigned parts) {
    return wanted <= cache->slot_count ? ALL_PARTS : parts;
}

static void announce(struct expert_source *source, const struct expert *experts, const int32_t *first, int64_t count) {
    struct cache *cache = (struct cache *)source;
    const int32_t base = first_of_layer(cache, experts);
    const int64_t wanted = with_rows(first, count);
    const unsigned up = 1u << EXPERT_GATE | 1u << EXPERT_UP, all = brought(cache, wanted, up);
    pthread_mutex_lock(&cache->mutex);
    const uint64_t announcement = ++cache->announcements;
    for (int64_t e = 0; e < count; e++) {
        const int32_t i = cache->holdings[base + e].slot;
        if (first[e] == first[e + 1] || i == NONE) continue;
        make_newest(cache, i);
        cache->slots[i].announced = announcement;
        cache->counts.found++;
    }
    cache->counts.asked += wanted;
    for (int64_t e = 0; e < count; e++) {
        if (first[e] == first[e + 1]) continue;
        int32_t i = cache->holdings[base + e].slot;
        if (i == NONE && (i = place_expert(cache, (int32_t)(base + e), announcement)) == NONE) break;
        cache->slots[i].announced = announcement;
        if (!cache->slots[i].failed) load(cache, i, up);
    }
    for (int64_t e = 0; e < count && all != up; e++) {   /* what is multiplied last is read last */
        const int32_t i = cache->holdings[base + e].slot;
        if (first[e] < first[e + 1] && i != NONE && !cache->slots[i].failed) load(cache, i, all);
    }
    pthread_mutex_unlock(&cache->mutex);
}

static bool reserve(struct cache *cache, struct expert_walk *walk, int64_t e) {
    const int32_t expert = (int32_t)(first_of_layer(cache, walk->experts) + e);
    int32_t i = cache->holdings[expert].slot;
    if (i == NONE && (i = place_expert(cache, expert, 0)) == NONE) return false;
    cache->slots[i].users++;
    if (!cache->slots[i].failed) load(cache, i, walk->brought);
    walk->states[e] = (struct expert_state){i, EXPERT_RESERVED};
    return true;
}

static void release(struct cache *cache, struct expert_walk *walk, int64_t e, int state) {
    const int32_t i = walk->states[e].slot;
    walk->states[e] = (struct expert_state){NONE, state};
    if (--cache->slots[i].users > 0) return;
    make_newest(cache, i);
    forget_failed(cache, i);
    pthread_cond_broadcast(&cache->changed);
}

static void begin(struct expert_source *source, struct expert_walk *walk) {
    struct cache *cache = (struct cache *)source;
    const int32_t base = first_of_layer(cache, walk->experts);
    walk->done = 0;
    walk->fresh = true;
    walk->brought = brought(cache, with_rows(walk->first, walk->count), walk->parts);
    pthread_mutex_lock(&cache->mutex);
    for (int64_t e = 0; e < walk->count; e++) {   /* what is there stays there */
        walk->states[e] = (struct expert_state){NONE,
                                                walk->first[e] < walk->first[e + 1] ? EXPERT_WANTED : EXPERT_LEFT_OUT};
        if (walk->states[e].state == EXPERT_WANTED && cache->holdings[base + e].slot != NONE) reserve(cache, walk, e);
    }
    pthread_mutex_unlock(&cache->mutex);
}

/* Walks that wait hold nothing they are not waiting for: of several on one small cache one always goes on. */
static bool give_up_one(struct cache *cache, struct expert_walk *walk, int64_t end) {
    for (int64_t e = walk->count; e-- > end;) {
        if (walk->states[e].state != EXPERT_RESERVED) continue;
        release(cache, walk, e, EXPERT_WANTED);
        return true;
    }
    return false;
}

static bool is_ready(const struct slot *slot, const struct expert_walk *walk) {
    return !slot->failed && !(ITEMS_OF(walk->parts) & ~slot->ready);
}

static int64_t take(struct expert_source *source, struct expert_walk *walk, int64_t end) {
    struct cache *cache = (struct cache *)source;
    int64_t taken = 0;
    pthread_mutex_lock(&cache->mutex);
    for (bool left = true; left;) {
        for (int64_t e = walk->done; e < walk->count; e++)
            if (walk->states[e].state == EXPERT_WANTED && !reserve(cache, walk, e)) break;
        int64_t reserved = 0, ready = 0;
        left = false;
        for (int64_t e = walk->done; e < end && taken >= 0; e++) {
            const struct expert_state *state = &walk->states[e];
            left = left || state->state == EXPERT_WANTED || state->state == EXPERT_RESERVED;
            if (state->state != EXPERT_RESERVED) continue;
            const struct slot *slot = &cache->slots[state->slot];
            reserved++;
            ready += is_ready(slot, walk);
            if (slot->failed) {
                if (walk->error) *walk->error = cache->failure;
                taken = -1;
            }
        }
        /* What was there before at once; of what comes, half of it together: to wake the threads for every single one
         * costs more. */
        for (int64_t e = walk->done; e < end && taken >= 0 && (walk->fresh || 2 * ready >= reserved); e++)
            if (walk->states[e].state == EXPERT_RESERVED && is_ready(&cache->slots[walk->states[e].slot], walk))
                walk->states[e].state = EXPERT_TAKEN, taken++;
        walk->fresh = false;
        if (taken) break;
        if (left && (reserved || !give_up_one(cache, walk, end))) pthread_cond_wait(&cache->changed, &cache->mutex);
    }
    pthread_mutex_unlock(&cache->mutex);
    return taken;
}

static void place(struct expert_source *source, const struct expert_walk *walk, int64_t expert, enum expert_part part,
                  struct matrix *matrix) {
    const struct cache *cache = (const struct cache *)source;
    const struct holding *holding = &cache->holdings[first_of_layer(cache, walk->experts) + expert];
    matrix->data = item_data(cache, holding, (int)part);
    if (matrix->format) matrix->scales = item_data(cache, holding, SCALES + (int)part);
}

static void give(struct expert_source *source, struct expert_walk *walk) {
    struct cache *cache = (struct cache *)source;
    pthread_mutex_lock(&cache->mutex);
    for (int64_t e = walk->done; e < walk->count; e++)
        if (walk->states[e].state == EXPERT_TAKEN) release(cache, walk, e, EXPERT_LEFT_OUT);
    while (walk->done < walk->count && walk->states[walk->done].state == EXPERT_LEFT_OUT) walk->done++;
    pthread_mutex_unlock(&cache->mutex);
}

static void end_walk(struct expert_source *source, struct expert_walk *walk) {
    struct cache *cache = (struct cache *)source;
    pthread_mutex_lock(&cache->mutex);
    for (int64_t e = 0; e < walk->count; e++)
        if (walk->states[e].state == EXPERT_RESERVED || walk->states[e].state == EXPERT_TAKEN)
            release(cache, walk, e, EXPERT_LEFT_OUT);
    pthread_mutex_unlock(&cache->mutex);
}

/* ---- making and measuring ---------------------------------------------------------------------------------------- */

static enum status no_memory(const struct cache *cache, struct error *error) {
    return error_set(error, STATUS_NO_MEMORY, "a cache of experts of %.2f GB: the system has no more memory",
                     (double)cache->memory_bytes / 1e9);
}

static enum status find_places(struct cache *cache, struct model *model, struct error *error) {
    cache->layers = calloc((size_t)cache->layer_count, sizeof *cache->layers);
    cache->holdings = calloc((size_t)(cache->layer_count * cache->experts), sizeof *cache->holdings);
    int shards = 0, layer = 0;
    for (int64_t i = 0; i < safetensors_count(model->checkpoint); i++)
        if (safetensors_at(model->checkpoint, i)->shard >= shards)
            shards = safetensors_at(model->checkpoint, i)->shard + 1;
    cache->files = calloc((size_t)shards, sizeof *cache->files);
    if (!cache->layers || !cache->holdings || !cache->files) return no_memory(cache, error);
    for (; cache->file_count < shards; cache->file_count++) {
        const enum status status = reader_file_open(
            &cache->files[cache->file_count], safetensors_shard_path(model->checkpoint, cache->file_count), error);
        if (status) return status;
    }
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct expert *experts = moe_experts(&model->layers[i]);
        if (!experts) continue;
        for (int64_t e = 0; e < cache->experts; e++) {
            struct holding *holding = &cache->holdings[layer * cache->experts + e];
            holding->slot = NONE;
            for (int item = 0; item < ITEMS; item++) {
                struct parameter *p = part_of(&experts[e], item % EXPERT_PARTS);
                const struct safetensors_entry *entry = entry_of(model, &experts[e], item);
                p->absent = true;
                if (!entry) continue;
                const uint64_t offset = safetensors_offset(model->checkpoint, entry);
                holding->places[item] =
                    (struct place){&cache->files[entry->shard], offset, (uint32_t)(offset % READER_BLOCK),
                                   (uint32_t)dtype_bytes(entry->dtype, 1), p->format};
                /* an expert's matrices may differ in type, the experts may not */
                if (entry->bytes != cache->item_bytes[item])
                    return error_set(error, STATUS_UNSUPPORTED,
                                     "%s: tensor %s has %llu bytes and another expert's has %zu: a cache of experts "
                                     "needs experts of one type",
                                     safetensors_shard_path(model->checkpoint, entry->shard), entry->name,
                                     (unsigned long long)entry->bytes, cache->item_bytes[item]);
            }
        }
        cache->layers[layer++] = experts;
    }
    return STATUS_OK;
}

enum status expert_cache_create(struct expert_cache **out, struct model *model, uint64_t bytes, struct error *error) {
    size_t item_bytes[ITEMS];
    const struct safetensors_entry *odd;
    const int layers = measure_items(model, item_bytes, &odd);
    const size_t slot_bytes = layers ? slot_bytes_of(item_bytes) : 0;
    if (!layers)
        return error_set(error, STATUS_INVALID, "a cache of experts: this model (%s) has no routed experts",
                         model->config.model_type);
    if (bytes < slot_bytes)
        return error_set(
            error, STATUS_INVALID,
            "a cache of experts: found %llu bytes, expected at least %zu, room for one expert of this model",
            (unsigned long long)bytes, slot_bytes);
    if (odd)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: tensor %s: found %s, expected F32, BF16 or FP8: a cache of experts multiplies by them as "
                         "they are stored",
                         safetensors_shard_path(model->checkpoint, odd->shard), odd->name, dtype_name(odd->dtype));
    struct cache *cache = calloc(1, sizeof *cache);
    if (!cache) return error_set(error, STATUS_NO_MEMORY, "no memory for a cache of experts");
    pthread_mutex_init(&cache->mutex, NULL);
    pthread_cond_init(&cache->changed, NULL);
    cache->common.source = (struct expert_source){
        .announce = announce, .begin = begin, .take = take, .place = place, .give = give, .end = end_walk};
    cache->layer_count = layers;
    cache->experts = model->config.n_routed_experts;
    cache->slot_bytes = slot_bytes;
    for (int item = 0; item < ITEMS; item++) {
        const size_t room = item_room(item_bytes[item]);
        cache->item_bytes[item] = item_bytes[item];
        if (item + 1 < ITEMS) cache->item_offset[item + 1] = cache->item_offset[item] + room;
        cache->first_read[item + 1] = cache->first_read[item] + (int)((room + READER_PIECE - 1) / READER_PIECE);
    }
    const uint64_t most = (uint64_t)layers * (uint64_t)cache->experts, slots = bytes / slot_bytes;
    cache->slot_count = (int32_t)(slots < most ? slots : most);
    cache->memory_bytes = (size_t)cache->slot_count * slot_bytes;
    cache->memory = pages_alloc(cache->memory_bytes);
    cache->slots = calloc((size_t)cache->slot_count, sizeof *cache->slots);
    cache->reads = calloc((size_t)cache->slot_count * (size_t)cache->first_read[ITEMS], sizeof *cache->reads);
    enum status status = cache->memory && cache->slots && cache->reads ? STATUS_OK : no_memory(cache, error);
    if (!status) status = find_places(cache, model, error);
    if (!status) status = reader_create(&cache->reader, READER_DEPTH, error);
    if (status) {
        expert_cache_destroy(&cache->common);
        return status;
    }
    for (int32_t i = 0; i < cache->slot_count; i++)
        cache->slots[i] = (struct slot){
            .expert = NONE, .older = i - 1, .newer = i + 1 < cache->slot_count ? i + 1 : NONE};
    cache->oldest = 0;
    cache->newest = cache->slot_count - 1;
    *out = &cache->common;
    return STATUS_OK;
}

void expert_cache_destroy(struct expert_cache *common) {
    if (!common) return;
    struct cache *cache = (struct cache *)common;
    reader_destroy(cache->reader);
    for (int i = 0; i < cache->file_count; i++) reader_file_close(&cache->files[i]);
    pthread_cond_destroy(&cache->changed);
    pthread_mutex_destroy(&cache->mutex);
    pages_free(cache->memory, cache->memory_bytes);
    free(cache->files);
    free(cache->layers);
    free(cache->holdings);
    free(cache->slots);
    free(cache->reads);
    free(cache);
}

struct expert_cache_counts expert_cache_counts(struct expert_cache *common) {
    struct cache *cache = (struct cache *)common;
    pthread_mutex_lock(&cache->mutex);
    const struct expert_cache_counts counts = cache->counts;
    pthread_mutex_unlock(&cache->mutex);
    return counts;
}

int64_t expert_cache_slots(const struct expert_cache *common) { return ((const struct cache *)common)->slot_count; }
int64_t expert_cache_experts(const struct expert_cache *common) {
    return ((const struct cache *)common)->layer_count * ((const struct cache *)common)->experts;
}

/* ---- the disk's speed -------------------------------------------------------------------------------------------- */

/* Another expert into a slot, as a layer would ask for it. */
static void load_some_expert(struct cache *cache, int32_t i, uint64_t draw) {
    const uint64_t experts = (uint64_t)cache->layer_count * (uint64_t)cache->experts;
    int32_t expert = (int32_t)random_below(4, 0, draw, experts);
    while (cache->holdings[expert].slot != NONE && (uint64_t)cache->slot_count < experts)
        expert = (int32_t)(((uint64_t)expert + 1) % experts);
    if (cache->slots[i].expert != NONE) empty(cache, i);
    if (cache->holdings[expert].slot != NONE) empty(cache, cache->holdings[expert].slot);   /* all of them are there */
    cache->slots[i].expert = expert;
    cache->holdings[expert].slot = i;
    load(cache, i, ALL_PARTS);
}

#define MEASURED_BYTES ((size_t)512 << 20)   /* of slots: more than the processor's caches hold, as in passes */

/* Into slots in turn; before the clock starts each of them once, so that the system has given their pages. Enough are
 * asked for at a time that no reading thread has to wait. */
enum status expert_cache_measure(struct expert_cache *common, double seconds, double *speed, struct error *error) {
    struct cache *cache = (struct cache *)common;
    const int32_t enough = 1 + 2 * READER_DEPTH / cache->first_read[ITEMS],
                  wanted = 1 + (int32_t)(MEASURED_BYTES / cache->slot_bytes);
    const int32_t most = wanted > 2 * enough ? wanted : 2 * enough,
                  slots = most < cache->slot_count ? most : cache->slot_count, window = enough < slots ? enough : slots;
    enum status status = STATUS_OK;
    for (int i = 0; i < cache->file_count; i++) reader_file_drop(&cache->files[i]);
    pthread_mutex_lock(&cache->mutex);
    double began = 0;
    uint64_t bytes = 0;
    cache->failure.code = STATUS_OK;
    for (int64_t n = 0; !status && (n <= slots || clock_seconds() - began < seconds); n++) {
        if (n == slots) began = clock_seconds(), bytes = cache->counts.bytes_read;
        while (cache->slots[n % slots].loading || (n >= window && cache->slots[(n - window) % slots].loading))
            pthread_cond_wait(&cache->changed, &cache->mutex);
        if (cache->failure.code) {
            if (error) *error = cache->failure;
            status = cache->failure.code;
        } else {
            load_some_expert(cache, (int32_t)(n % slots), (uint64_t)n);
        }
    }
    for (int32_t i = 0; i < slots; i++)
        while (cache->slots[i].loading) pthread_cond_wait(&cache->changed, &cache->mutex);
    *speed = (double)(cache->counts.bytes_read - bytes) / (clock_seconds() - began);
    pthread_mutex_unlock(&cache->mutex);
    return status;
}
