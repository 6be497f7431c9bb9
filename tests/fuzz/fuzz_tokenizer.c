/* libFuzzer target: tokenizer.json and, behind the first byte 0, tokenizer_config.json (src/text/tokenizer_json.c,
 * tokenizer_config.c). What is accepted encodes and decodes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "The quick brown fox, 1234 times:\r\n\tna\xC3\xAFve <|endoftext|> "
                               "\xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x99\x82  \0 \xFF end ";
    struct error error = { 0 };
    struct tokenizer *t;
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t json_size = zero ? (size_t)(zero - data) : size;
    const char *config = zero ? (const char *)zero + 1 : NULL;
    enum status status = tokenizer_parse(&t, (const char *)data, json_size, config, config ? size - json_size - 1 : 0,
                                         "input", &error);
    if (status != STATUS_OK) {
        require(t == NULL && error.code == status && strncmp(error.message, "input: ", 7) == 0);
        return 0;
    }
    for (int special = 0; special < 2; special++) {
        struct token_list list = { 0 };
        uint64_t replaced = 0;
        status = tokenizer_encode(t, text, sizeof text - 1, special, &list, &replaced, &error);
        require(status == STATUS_OK ||
                (status == STATUS_INVALID && tokenizer_kind(t) == TOKENIZER_CHARACTERS && list.count == 0));
        if (status == STATUS_OK) require(tokenizer_begin(t, &list, &error) == STATUS_OK);
        if (status == STATUS_OK && tokenizer_add_bos(t)) require(list.ids[0] == tokenizer_bos(t));
        size_t length, bytes = 0, decoded_size;
        char *decoded;
        for (int64_t i = 0; i < list.count; i++) {
            require(tokenizer_piece(t, list.ids[i], &length, NULL) != NULL);
            bytes += length;
        }
        require(tokenizer_decode(t, list.ids, list.count, false, &decoded, &decoded_size, &error) == STATUS_OK &&
                decoded_size == bytes);
        free(decoded);
        token_list_free(&list);
    }
    require(tokenizer_eos(t) < tokenizer_size(t) && tokenizer_bos(t) < tokenizer_size(t));
    tokenizer_destroy(t);
    return 0;
}
