/* Lets tests/text/compare_pretokenizers.py ask for all pieces of a text at once. */
#include <jansson.h>

#include "text/pretokenize.h"

size_t pieces_ends(int pipeline, const void *text, size_t size, uint32_t *ends);
int recognise(const char *json, char *message, size_t size);
size_t safe_cut(int pipeline, const void *text, size_t size, size_t limit);

/* Where the pieces end; `ends` has room for one per byte. Returns their number. */
size_t pieces_ends(int pipeline, const void *text, size_t size, uint32_t *ends) {
    struct pieces pieces;
    size_t count = 0, begin, end;
    pieces_begin(&pieces, (enum pipeline)pipeline, text, size);
    while (pieces_next(&pieces, &begin, &end)) ends[count++] = (uint32_t)end;
    return count;
}

/* The pipeline of a `pre_tokenizer`, or -1 and the message. */
int recognise(const char *json, char *message, size_t size) {
    struct error error = {0};
    enum pipeline pipeline;
    json_t *root = json_loads(json, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    enum status status = pipeline_recognise(&pipeline, root, &error);
    json_decref(root);
    if (status == STATUS_OK) return (int)pipeline;
    snprintf(message, size, "%s", error.message);
    return -1;
}

size_t safe_cut(int pipeline, const void *text, size_t size, size_t limit) {
    return pieces_safe_cut((enum pipeline)pipeline, text, size, limit);
}
