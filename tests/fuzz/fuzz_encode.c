/* libFuzzer target: encoding and decoding of any bytes by the tokenizers under tests/text/data and by `bytes`
 * (src/text/encode.c, encode_parallel.c, decode.c). The first byte chooses the tokenizer and whether added tokens are
 * searched, the next two where to cut; the rest is the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { BYTES, V1, V3, GPT2, IGNORE_MERGES, KINDS };
    static const char *const names[KINDS] = { NULL, "small-v1", "small-v3", "small-gpt2", "small-ignore-merges" };
    static struct tokenizer *tokenizers[KINDS];
    static struct encoder *encoders[KINDS];   /* they live on, so that what they remember from other texts shows */
    struct error error = { 0 };
    if (size < 3) return 0;
    int kind = data[0] / 2 % KINDS;
    bool special = data[0] % 2;
    size_t limit = data[1] | (size_t)data[2] << 8;
    if (!tokenizers[kind]) {
        char path[64] = "tests/text/data/";
        if (names[kind]) require(tokenizer_load(&tokenizers[kind], strcat(path, names[kind]), &error) == STATUS_OK);
        else require(tokenizer_create_bytes(&tokenizers[kind], &error) == STATUS_OK);
        require(encoder_create(&encoders[kind], tokenizers[kind], &error) == STATUS_OK);
    }
    const struct tokenizer *t = tokenizers[kind];
    const uint8_t *text = data + 3;
    size -= 3;

    struct token_list list = { 0 }, again = { 0 };
    uint64_t replaced = 0, expected_replaced = 0;
    require(encoder_encode(encoders[kind], text, size, special, &list, &replaced, &error) == STATUS_OK);
    require(tokenizer_encode(t, text, size, special, &again, NULL, &error) == STATUS_OK);
    require(again.count == list.count &&
            (list.count == 0 || memcmp(again.ids, list.ids, (size_t)list.count * sizeof *list.ids) == 0));
    for (int64_t i = 0; i < list.count; i++) require(list.ids[i] >= 0 && list.ids[i] < tokenizer_size(t));

    /* A cut changes nothing. */
    size_t cut = tokenizer_safe_cut(t, text, size, special, limit);
    require(cut <= size && (cut <= limit || size == 0));
    again.count = 0;
    require(tokenizer_encode(t, text, cut, special, &again, NULL, &error) == STATUS_OK);
    require(tokenizer_encode(t, text + cut, size - cut, special, &again, NULL, &error) == STATUS_OK);
    require(again.count == list.count &&
            (list.count == 0 || memcmp(again.ids, list.ids, (size_t)list.count * sizeof *list.ids) == 0));

    /* The text comes back, as far as its tokenizer can: added tokens that take blanks, or that are spelled in the byte
     * alphabet, do not. */
    size_t decoded_size, clean_size, whole_size = 0;
    char *decoded, *clean = utf8_repair((const char *)text, size, &clean_size, &expected_replaced);
    require(tokenizer_decode(t, list.ids, list.count, false, &decoded, &decoded_size, &error) == STATUS_OK);
    if (kind == BYTES)
        require(decoded_size == size && (size == 0 || memcmp(decoded, text, size) == 0) && replaced == 0);
    else require(replaced == expected_replaced);
    if (kind != BYTES && (!special || (kind != V1 && kind != GPT2)))
        require(decoded_size == clean_size && memcmp(decoded, clean, clean_size) == 0);

    /* Decoded one by one, whole characters alone appear, and the same in the end. */
    struct utf8_stream stream = { 0 };
    char *streamed = malloc(3 * decoded_size + 16), *repaired = utf8_repair(decoded, decoded_size, &clean_size, NULL);
    for (int64_t i = 0; i <= list.count; i++) {
        size_t length = 0;
        const char *piece = i < list.count ? tokenizer_piece(t, list.ids[i], &length, NULL) : "";
        size_t put = utf8_stream_put(&stream, piece, length, i == list.count, streamed + whole_size);
        require(utf8_prefix(streamed + whole_size, put) == put);
        whole_size += put;
    }
    require(whole_size == clean_size && memcmp(streamed, repaired, whole_size) == 0);
    free(repaired);
    free(streamed);
    free(decoded);
    free(clean);
    token_list_free(&again);
    token_list_free(&list);
    return 0;
}
