/* What deepseek bench says of a model whose routed experts stay in the file: bytes read for a token, and what the disk
 * allows. */
#ifndef DEEPSEEK_CLI_BENCH_DISK_H
#define DEEPSEEK_CLI_BENCH_DISK_H

#include "model/model.h"

/* Of the tokens decoded between start and end. The disk's speed is measured by begin and end, on the model's own files,
 * past the page cache, with reads of the same sizes and as many in flight. */
struct bench_disk {
    double before, after;      /* bytes per second */
    double tokens, seconds;    /* decoded, and the time they took */
    double bytes;              /* read for a token */
    double found;              /* share of the experts asked for that were in the cache */
    double asked_before, found_before, bytes_before, began;
};
/* All of them do nothing where the model has no cache of experts. */
enum status bench_disk_begin(struct bench_disk *disk, struct model *model, struct error *error);
void bench_disk_start(struct bench_disk *disk, struct model *model);   /* warm-up is over */
enum status bench_disk_end(struct bench_disk *disk, struct model *model, double tokens, struct error *error);
void bench_disk_print(const struct bench_disk *disk, const struct model *model);
void bench_disk_print_json(const struct bench_disk *disk, const struct model *model);   /* `, "experts": {...}` */

#endif
