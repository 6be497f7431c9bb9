/* libFuzzer target: a folder with one training checkpoint (src/train/checkpoint.c), on a file system in memory where
 * there is one.
 *
 *   byte 0        bit 0: sizes and checksums in state.json are made to fit, so that what lies behind them is reached
 *   bytes 1..4    lengths of state.json and of parameters.safetensors, 16 bits each, little-endian; what follows is
 *                 those and moments.safetensors
 *
 * What is accepted is read whole; what is refused leaves parameters and moments as they were. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "kernels/kernels.h"
#include "train/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

static char root[64], step_folder[128];

static void remove_root(void) {
    struct error error;
    folder_remove(root, &error);
}

static void put(const char *name, const void *data, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", step_folder, name);
    FILE *stream = fopen(path, "wb");
    require(stream != NULL && fwrite(data ? data : "", 1, size, stream) == size && fclose(stream) == 0);
}

static void set_sum(json_t *files, const char *name, const uint8_t *data, size_t size) {
    json_t *file = json_object_get(files, name);
    if (!json_is_object(file)) return;
    json_object_set_new(file, "bytes", json_integer((json_int_t)size));
    json_object_set_new(file, "xxh3_64", json_sprintf("%016llx", (unsigned long long)XXH3_64bits(data, size)));
}

/* state.json with sums that fit; as it is where it is no JSON object. */
static void put_state(const uint8_t *state, size_t state_size, const uint8_t *parameters, size_t parameters_size,
                      const uint8_t *moments, size_t moments_size) {
    struct error error;
    json_t *json;
    char *text;
    size_t size;
    if (json_parse(&json, (const char *)state, state_size, "state", &error) != STATUS_OK || !json_is_object(json)) {
        put("state.json", state, state_size);
        if (json) json_decref(json);
        return;
    }
    set_sum(json_object_get(json, "files"), "parameters.safetensors", parameters, parameters_size);
    set_sum(json_object_get(json, "files"), "moments.safetensors", moments, moments_size);
    json_object_del(json, "state_xxh3_64");
    require(json_format(json, &text, &size, &error) == STATUS_OK);
    json_object_set_new(json, "state_xxh3_64", json_sprintf("%016llx", (unsigned long long)XXH3_64bits(text, size)));
    free(text);
    require(json_format(json, &text, &size, &error) == STATUS_OK);
    put("state.json", text, size);
    free(text);
    json_decref(json);
}

enum { A = 6, B = 4 };   /* elements of the two parameters a.weight [2, 3] and b.weight [4] */

static void try_read(void) {
    static const struct optimizer_settings settings = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8 };
    float values[A + B];
    for (int i = 0; i < A + B; i++) values[i] = 42;
    struct parameter a = {
        .name = "a.weight", .shape = {2, 3}, .count = A, .value = values};
    struct parameter b = {
        .name = "b.weight", .kind = PARAMETER_VECTOR, .shape = {4}, .count = B, .value = values + A};
    struct parameter *const parameters[] = { &a, &b };
    struct checkpoint checkpoint;
    struct optimizer *optimizer;
    struct error error = { 0 };
    enum status status = checkpoint_find(&checkpoint, root, &error);
    if (status != STATUS_OK) {
        require(error.code == status && strncmp(error.message, root, strlen(root)) == 0);
        return;
    }
    require(checkpoint.state.step == 1 && checkpoint.state.tokens >= 0 && json_is_object(checkpoint.state.config) &&
            checkpoint.damaged == 0);
    require(optimizer_create(&optimizer, parameters, 2, kernels_for(ISA_REFERENCE), NULL, &settings, &error) ==
            STATUS_OK);
    status = checkpoint_read(&checkpoint, optimizer, &error);
    if (status != STATUS_OK) {
        require(error.code == status && strncmp(error.message, root, strlen(root)) == 0 && optimizer->step == 0);
        for (int i = 0; i < A + B; i++) require(values[i] == 42);
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < A; i++) require(((float *)optimizer->states[0][k])[i] == 0);
    } else {
        require(optimizer->step == 1);
    }
    optimizer_destroy(optimizer);
    checkpoint_release(&checkpoint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = { 0 };
    if (size < 5) return 0;
    if (!root[0]) {
        snprintf(root, sizeof root, "%s/fuzz_checkpoint_%d", file_is_folder("/dev/shm") ? "/dev/shm" : "/tmp",
                 (int)getpid());
        snprintf(step_folder, sizeof step_folder, "%s/step-00000001", root);
        require(atexit(remove_root) == 0);
    }
    require(folder_create(step_folder, &error) == STATUS_OK);
    const uint8_t *state = data + 5;
    size_t left = size - 5, state_size = data[1] | (size_t)data[2] << 8,
           parameters_size = data[3] | (size_t)data[4] << 8;
    if (state_size > left) state_size = left;
    left -= state_size;
    if (parameters_size > left) parameters_size = left;
    const uint8_t *parameters = state + state_size, *moments = parameters + parameters_size;
    const size_t moments_size = left - parameters_size;
    put("parameters.safetensors", parameters, parameters_size);
    put("moments.safetensors", moments, moments_size);
    if (data[0] & 1) put_state(state, state_size, parameters, parameters_size, moments, moments_size);
    else put("state.json", state, state_size);
    try_read();
    /* step 1 is newer than that: it becomes damaged-*, and is replaced by the next */
    require(checkpoint_clean(root, 0, &error) == STATUS_OK);
    require(!file_exists(step_folder));
    return 0;
}
