/* libFuzzer target: JSON text (src/io/json.c). What is accepted, written and read again is the same, to the last byte
 * when written again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = { 0 };
    json_t *root, *again;
    char *text, *text_again;
    size_t length, length_again;
    enum status status = json_parse(&root, (const char *)data, size, "input", &error);
    if (status != STATUS_OK) {
        require(root == NULL && error.code == status && strncmp(error.message, "input: ", 7) == 0);
        return 0;
    }
    require(json_format(root, &text, &length, &error) == STATUS_OK);
    require(json_parse(&again, text, length, "output", &error) == STATUS_OK);
    require(json_equal(root, again));
    require(json_format(again, &text_again, &length_again, &error) == STATUS_OK);
    require(length == length_again && memcmp(text, text_again, length) == 0);
    free(text);
    free(text_again);
    json_decref(root);
    json_decref(again);
    return 0;
}
