/* Decoding from the disk (bench_disk.h): share = tokens/s over (the disk's bytes/s over
 * the bytes that a token reads). */
#include "base/clock.h"
#include "cli/bench_disk.h"

#include "cli/cli.h"
#include "model/expert_cache.h"

#define MEASURED_SECONDS 2.0

enum status bench_disk_begin(struct bench_disk *disk, struct model *model, struct error *error) {
    return model->expert_cache ? expert_cache_measure(model->expert_cache, MEASURED_SECONDS, &disk->before, error)
                               : STATUS_OK;
}

void bench_disk_start(struct bench_disk *disk, struct model *model) {
    if (!model->expert_cache) return;
    const struct expert_cache_counts counts = expert_cache_counts(model->expert_cache);
    disk->asked_before = (double)counts.asked;
    disk->found_before = (double)counts.found;
    disk->bytes_before = (double)counts.bytes_read;
    disk->began = clock_seconds();
}

enum status bench_disk_end(struct bench_disk *disk, struct model *model, double tokens, struct error *error) {
    if (!model->expert_cache) return STATUS_OK;
    disk->seconds = clock_seconds() - disk->began;
    disk->tokens = tokens;
    const struct expert_cache_counts counts = expert_cache_counts(model->expert_cache);
    disk->bytes = ((double)counts.bytes_read - disk->bytes_before) / tokens;
    const double asked = (double)counts.asked - disk->asked_before;
    disk->found = asked > 0 ? ((double)counts.found - disk->found_before) / asked : 0;
    return expert_cache_measure(model->expert_cache, MEASURED_SECONDS, &disk->after, error);
}

static double speed(const struct bench_disk *disk) { return (disk->before + disk->after) / 2; }
static double allowed(const struct bench_disk *disk) { return disk->bytes > 0 ? speed(disk) / disk->bytes : 0; }

void bench_disk_print(const struct bench_disk *disk, const struct model *model) {
    if (!model->expert_cache) return;
    char a[CLI_FIGURE], b[CLI_FIGURE], c[CLI_FIGURE];
    const double slots = (double)expert_cache_slots(model->expert_cache), rate = disk->tokens / disk->seconds;
    printf("\nrouted experts stay in the file; the cache has room for %.0f of %.0f (%s)\n", slots,
           (double)expert_cache_experts(model->expert_cache),
           cli_format_bytes(a, slots * (double)expert_cache_slot_bytes(model)));
    if (disk->tokens > 0 && disk->seconds > 0) {
        printf("decoding read %s from the file per token, %.1f%% of the experts were there; the disk reads %sB/s "
               "before, %sB/s after\n",
               cli_format_bytes(a, disk->bytes), 100 * disk->found, cli_format_count(b, disk->before),
               cli_format_count(c, disk->after));
        if (allowed(disk) > 0)
            printf("%.3g tokens/s, %.1f%% of the %.3g that the disk allows\n", rate, 100 * rate / allowed(disk),
                   allowed(disk));
    }
}

void bench_disk_print_json(const struct bench_disk *disk, const struct model *model) {
    if (!model->expert_cache) return;
    printf(", \"experts\": {\"slots\": %lld, \"of\": %lld, \"slot_bytes\": %zu",
           (long long)expert_cache_slots(model->expert_cache), (long long)expert_cache_experts(model->expert_cache),
           expert_cache_slot_bytes(model));
    if (disk->tokens > 0 && disk->seconds > 0)
        printf(", \"bytes_per_token\": %.6g, \"found\": %.6g, \"disk_before\": %.6g, \"disk_after\": %.6g, "
               "\"tokens_per_second\": %.6g, \"allowed\": %.6g",
               disk->bytes, disk->found, disk->before, disk->after, disk->tokens / disk->seconds, allowed(disk));
    printf("}");
}
