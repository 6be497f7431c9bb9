/* The public API: version, errors, memory, structs with a size, and the machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/cpu.h"
#include "text/utf8.h"

_Static_assert((int)DS_OK == (int)STATUS_OK && (int)DS_INVALID == (int)STATUS_INVALID &&
                   (int)DS_UNSUPPORTED == (int)STATUS_UNSUPPORTED && (int)DS_NOT_FOUND == (int)STATUS_NOT_FOUND &&
                   (int)DS_IO == (int)STATUS_IO && (int)DS_NO_MEMORY == (int)STATUS_NO_MEMORY &&
                   (int)DS_INTERRUPTED == (int)STATUS_INTERRUPTED,
               "the public statuses are the inner ones");

int ds_version(void) { return DS_VERSION; }
const char *ds_version_string(void) { return DS_VERSION_STRING; }

const char *ds_status_name(ds_status status) {
    static const char *const names[] = {"ok", "invalid", "unsupported", "not found", "io", "no memory", "interrupted"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

void ds_free(void *memory) { free(memory); }

/* One line of well-formed UTF-8 that ends in whole characters. Names of files may hold anything. */
static void copy_message(char *to, size_t room, const char *from) {
    size_t size = strlen(from), used = 0;
    for (size_t at = 0, length; at < size; at += length) {
        bool ill_formed = false;
        uint32_t character = utf8_next((const uint8_t *)from + at, size - at, &length, &ill_formed);
        char bytes[4];
        size_t count = utf8_put(character < 32 || character == 127 ? '?'
                                : ill_formed                       ? UTF8_REPLACEMENT
                                                                   : character,
                                bytes);
        if (used + count >= room) break;
        memcpy(to + used, bytes, count);
        used += count;
    }
    to[used] = 0;
}

ds_status api_result(enum status status, const struct error *inner, ds_error *error) {
    if (!error) return (ds_status)status;
    error->code = (ds_status)status;
    error->message[0] = 0;
    if (status) copy_message(error->message, sizeof error->message, inner->message);
    return (ds_status)status;
}

enum status api_null(const char *function, const char *argument, struct error *error) {
    return error_set(error, STATUS_INVALID, "%s: %s is NULL", function, argument);
}

enum status api_take(void *known, size_t size, size_t least, const void *given, const char *function,
                     const char *argument, struct error *error) {
    memset(known, 0, size);
    size_t given_size;
    if (!given) return STATUS_OK;
    memcpy(&given_size, given, sizeof given_size);
    if (given_size < least)
        return error_set(error, STATUS_INVALID, "%s: %s->size: found %zu, expected its sizeof, at least %zu", function,
                         argument, given_size, least);
    memcpy(known, given, given_size < size ? given_size : size);
    if (given_size <= size) return STATUS_OK;
    if (given_size > 4096)
        return error_set(error, STATUS_INVALID, "%s: %s->size: found %zu, expected its sizeof, %zu", function, argument,
                         given_size, size);
    for (size_t i = size; i < given_size; i++)
        if (((const unsigned char *)given)[i])
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %s sets something that version %s does not know (byte %zu of %zu)", function,
                             argument, DS_VERSION_STRING, i, given_size);
    return STATUS_OK;
}

enum status api_give(void *given, const void *known, size_t size, size_t least, const char *function,
                     const char *argument, struct error *error) {
    size_t given_size;
    if (!given) return api_null(function, argument, error);
    memcpy(&given_size, given, sizeof given_size);
    if (given_size < least)
        return error_set(error, STATUS_INVALID, "%s: %s->size: found %zu, expected its sizeof, at least %zu", function,
                         argument, given_size, least);
    const size_t head = sizeof given_size, filled = given_size < size ? given_size : size;
    memcpy((char *)given + head, (const char *)known + head, filled - head);
    return STATUS_OK;
}

enum status api_machine_open(struct api_machine *machine, int threads, struct error *error) {
    enum isa isa;
    if (threads < 0 || threads > 1024)
        return error_set(error, STATUS_INVALID, "threads: found %d, expected 0 (every processor) to 1024", threads);
    enum status status = isa_select(&isa, error);
    if (status) return status;
    machine->kernels = kernels_for(isa);
    return pool_create(&machine->pool, threads, error);
}

enum status api_compute(int compute, const char *function, enum compute *type, struct error *error) {
    static const enum compute types[] = {[DS_COMPUTE_DEFAULT] = COMPUTE_COUNT,
                                         [DS_COMPUTE_FP32] = COMPUTE_F32,
                                         [DS_COMPUTE_BF16] = COMPUTE_BF16,
                                         [DS_COMPUTE_FP8] = COMPUTE_FP8};
    if (compute < 0 || compute > DS_COMPUTE_FP8)
        return error_set(error, STATUS_INVALID,
                         "%s: compute: found %d, expected DS_COMPUTE_DEFAULT, _FP32, _BF16 or _FP8 (0 to 3)", function,
                         compute);
    *type = types[compute];
    return STATUS_OK;
}

int api_compute_name(enum compute compute) {
    return compute == COMPUTE_FP8 ? DS_COMPUTE_FP8 : compute == COMPUTE_BF16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
}
