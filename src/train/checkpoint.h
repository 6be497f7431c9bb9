/* Training checkpoints: RUN/checkpoints/step-00000123/ with
 *   parameters.safetensors   the fp32 parameters (tables of integers: I32) under their names, also those that are not
 *                            trained (the routers' biases)
 *   moments.safetensors      PARAMETER.STATE of each trained parameter: the state that its rule names, AdamW's exp_avg
 *                            and exp_avg_sq, in the type that the optimizer has it in
 *   state.json               format, step, position in the data, config, sizes and XXH3-64 checksums of the other files
 *                            and of itself
 *
 * A checkpoint is written into a folder tmp-*, every file flushed to disk, then renamed: it is there completely or not
 * at all, whenever the process or the machine stops. Reading verifies every checksum; a damaged checkpoint is passed
 * over for the one before. One of another format is refused: STATUS_UNSUPPORTED. */
#ifndef DEEPSEEK_TRAIN_CHECKPOINT_H
#define DEEPSEEK_TRAIN_CHECKPOINT_H

#include "io/json.h"
#include "train/optimizer.h"

struct checkpoint_state {
    int64_t step;                 /* updates made */
    int64_t tokens; /* trained on so far: the position of the run */
    bool evaluated;               /* what is due at this step besides saving (evaluation, sample) has been done */
    uint64_t data_fingerprint;
    uint64_t metrics_bytes, timing_bytes;   /* lengths of the logs at this point */
    json_t *config;               /* model keys and `train`, as the run was begun; owned by whoever owns the state */
};

#define CHECKPOINT_PATH 4096

struct checkpoint {
    char path[CHECKPOINT_PATH];
    struct checkpoint_state state;
    int damaged;                  /* newer folders that were passed over */
    struct error damage;          /* what was wrong with the newest of them */
};

/* Writes a checkpoint into `folder` (RUN/checkpoints), then removes all but the newest `keep`. The parameters are those
 * of the optimizer. */
enum status checkpoint_save(const char *folder, const struct checkpoint_state *state, const struct optimizer *optimizer,
                            int64_t keep, struct error *error);
/* Replaces the state of the existing checkpoint of this step: its parameters and moments are the same. */
enum status checkpoint_save_state(const char *folder, const struct checkpoint_state *state, struct error *error);

/* The newest complete checkpoint, checksums verified. STATUS_NOT_FOUND: there is no checkpoint at all. STATUS_INVALID:
 * there are some, all damaged. */
enum status checkpoint_find(struct checkpoint *checkpoint, const char *folder, struct error *error);
void checkpoint_release(struct checkpoint *checkpoint);
/* Reads parameters and moments. Names and shapes must be those of the optimizer's parameters; nothing changes when they
 * are not. */
enum status checkpoint_read(const struct checkpoint *checkpoint, struct optimizer *optimizer, struct error *error);

/* Removes unfinished folders, and renames damaged checkpoints newer than `step` to damaged-*, so that the run can come
 * to those steps again. */
enum status checkpoint_clean(const char *folder, int64_t step, struct error *error);

#endif
