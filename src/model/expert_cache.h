/* Routed experts that stay in the checkpoint's files and are read when tokens are sent to them, into a cache of bounded
 * size: a model larger than memory runs.
 *
 * A slot holds one expert as the file has it (F32, BF16 or FP8 codes), and products read it there like a matrix that
 * has not been packed yet (matmul_product.unpacked): the same bits as packed weights, whatever the cache's size and
 * content. Reads go past the page cache, several at once (base/reader.h), from the moment a layer's router has chosen;
 * experts that are there are multiplied meanwhile. When a slot is needed the expert that was used least recently goes.
 * A layer whose tokens need more experts than there are slots is computed in groups that fit, and each of its bytes is
 * read once for it. */
#ifndef DEEPSEEK_MODEL_EXPERT_CACHE_H
#define DEEPSEEK_MODEL_EXPERT_CACHE_H

#include "graph/experts.h"
#include "model/model.h"

struct expert_cache { struct expert_source source; };   /* the beginning of it */

/* Bytes of the slot that any expert of the model fits into. The checkpoint is open and matches the model. */
size_t expert_cache_slot_bytes(const struct model *model);
/* What model_options.expert_cache = 0 means for a model whose checkpoint is open: 0, all weights in memory, where the
 * packed weights, and an eighth of what is available for everything else, fit into the memory that is available;
 * otherwise, what is left of it beside the resident weights. */
uint64_t expert_cache_automatic(const struct model *model, uint64_t available);
/* For the model's open checkpoint. An error where the model has no routed experts, `bytes` is less than a slot, or the
 * experts are stored in a type that products cannot read. Their parameters become `absent`. */
enum status expert_cache_create(struct expert_cache **cache, struct model *model, uint64_t bytes, struct error *error);
void expert_cache_destroy(struct expert_cache *cache);   /* no pass is running */

/* asked: experts that layers had tokens for; found: those of them that were there */
struct expert_cache_counts { uint64_t bytes_read; int64_t asked, found; };
struct expert_cache_counts expert_cache_counts(struct expert_cache *cache);
int64_t expert_cache_slots(const struct expert_cache *cache);
int64_t expert_cache_experts(const struct expert_cache *cache);   /* of the model */
/* The disk's speed, bytes per second: experts chosen at random are read whole, with the same sizes and as many reads in
 * flight as passes have, for about so many seconds, into the cache's memory: what it held is forgotten. No pass is
 * running. */
enum status expert_cache_measure(struct expert_cache *cache, double seconds, double *speed, struct error *error);

#endif
