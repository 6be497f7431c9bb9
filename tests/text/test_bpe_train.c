/* Training a BPE: the reference's merges, a slow trainer that counts everything anew at each step, threads, order, and
 * what a corpus may hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/random.h"
#include "io/json.h"
#include "text/bpe_train.h"
#include "text/byte_alphabet.h"

#define CORPUS "data/tinyshakespeare.txt"
#define REFERENCE_BYTES 1003854   /* of the corpus: what trained-4096.merges.txt was trained on */

static char folder[] = "/tmp/deepseek-bpe-train-XXXXXX";
static struct error error;
static struct pool *pools[3];     /* of 1, 2 and 5 threads */
static struct file_map corpus;

static int set_up(void **state) {
    (void)state;
    const int threads[] = { 1, 2, 5 };
    for (int i = 0; i < 3; i++)
        if (pool_create(&pools[i], threads[i], &error)) return -1;
    return file_map_open(&corpus, CORPUS, &error) == STATUS_OK && mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) pool_destroy(pools[i]);
    file_map_close(&corpus);
    return folder_remove(folder, &error) == STATUS_OK ? 0 : -1;
}

static void succeed(enum status status) {
    if (status != STATUS_OK) fail_msg("%s", error.message);
}

/* Settings without special tokens. */
static struct bpe_settings plain(enum pipeline pipeline, int64_t merges) {
    return (struct bpe_settings){.pipeline = pipeline, .vocab_size = 256 + merges};
}

static struct bpe_trainer *begin(const struct bpe_settings *settings) {
    struct bpe_trainer *trainer;
    succeed(bpe_trainer_create(&trainer, settings, &error));
    return trainer;
}

static struct tokenizer *finish(struct bpe_trainer *trainer) {
    struct tokenizer *t;
    succeed(bpe_trainer_finish(trainer, NULL, NULL, &t, &error));
    return t;
}

static struct tokenizer *train(const struct bpe_settings *settings, struct pool *pool, const void *text, size_t size) {
    struct bpe_trainer *trainer = begin(settings);
    succeed(bpe_trainer_add(trainer, pool, text, size, NULL, &error));
    struct tokenizer *t = finish(trainer);
    bpe_trainer_destroy(trainer);
    return t;
}

/* The tokenizer.json of a tokenizer, which is destroyed. */
static char *file_of(struct tokenizer *t, size_t *size) {
    char path[4096], *text;
    succeed(tokenizer_save(t, folder, &error));
    tokenizer_destroy(t);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    succeed(file_read(path, 64 << 20, &text, size, &error));
    return text;
}

static json_t *json_of(struct tokenizer *t) {
    size_t size;
    char *text = file_of(t, &size);
    json_t *root;
    succeed(json_parse(&root, text, size, "tokenizer.json", &error));
    free(text);
    return root;
}

static const json_t *merges_of(const json_t *root) { return json_object_get(json_object_get(root, "model"), "merges"); }

static int64_t count_ids(const struct tokenizer *t, const void *text, size_t size) {
    struct token_list list = { 0 };
    succeed(tokenizer_encode(t, text, size, false, &list, NULL, &error));
    int64_t count = list.count;
    token_list_free(&list);
    return count;
}

/* ---- the reference ----------------------------------------------------------------------------------------------- */

static void the_merges_of_the_reference(void **state) {
    (void)state;
    struct bpe_settings settings = plain(PIPELINE_V3, 3840);
    struct bpe_trainer *trainer = begin(&settings);
    succeed(bpe_trainer_add(trainer, pools[1], corpus.data, REFERENCE_BYTES, NULL, &error));
    struct tokenizer *t = finish(trainer);
    struct bpe_counts counts;
    bpe_trainer_counts(trainer, &counts);
    bpe_trainer_destroy(trainer);
    assert_int_equal(tokenizer_size(t), 4096);
    assert_int_equal(tokenizer_merges(t), 3840);
    assert_int_equal(counts.bytes, REFERENCE_BYTES);
    assert_int_equal(counts.tokens, count_ids(t, corpus.data, REFERENCE_BYTES));
    /* as the reference's figures say */
    assert_int_equal(count_ids(t, corpus.data + REFERENCE_BYTES, corpus.size - REFERENCE_BYTES), 34422);
    json_t *root = json_of(t);
    char *expected;
    size_t size, at = 0, i;
    succeed(file_read("tests/text/data/trained-4096.merges.txt", 1 << 20, &expected, &size, &error));
    json_t *merge;
    json_array_foreach((json_t *)merges_of(root), i, merge) {
        size_t length = json_string_length(merge);
        assert_true(at + length < size);
        assert_memory_equal(expected + at, json_string_value(merge), length);
        assert_int_equal(expected[at + length], '\n');
        at += length + 1;
    }
    assert_int_equal(at, size);
    free(expected);
    json_decref(root);
}

static void a_smaller_vocabulary_is_a_beginning(void **state) {
    (void)state;
    struct bpe_settings small = plain(PIPELINE_V3, 256), large = plain(PIPELINE_V3, 1000);
    json_t *few = json_of(train(&small, NULL, corpus.data, 100000)),
           *many = json_of(train(&large, NULL, corpus.data, 100000));
    assert_int_equal(json_array_size(merges_of(few)), 256);
    assert_int_equal(json_array_size(merges_of(many)), 1000);
    for (size_t i = 0; i < 256; i++)
        assert_true(json_equal(json_array_get(merges_of(few), i), json_array_get(merges_of(many), i)));
    json_decref(few);
    json_decref(many);
}

/* A trainer that does nothing but what the definition says: counts all pairs of all pieces, merges the best, begins
 * again. */
struct slow {
    int32_t *ids;
    size_t *ends;
    size_t piece_count;
    int64_t size;
    int32_t lefts[2000], rights[2000];
    int64_t merges;
};

static void slow_train(struct slow *slow, enum pipeline pipeline, const char *text, size_t size, int64_t vocab_size) {
    int32_t id_of[256], next = 0;
    int16_t byte_of[BYTE_ALPHABET_END];
    byte_alphabet_reverse(byte_of);
    for (int c = 0; c < BYTE_ALPHABET_END; c++)
        if (byte_of[c] >= 0) id_of[byte_of[c]] = next++;
    *slow = (struct slow){
        .ids = malloc((size + 1) * sizeof *slow->ids), .ends = malloc((size + 1) * sizeof *slow->ends), .size = 256};
    for (size_t i = 0; i < size; i++) slow->ids[i] = id_of[(uint8_t)text[i]];
    struct pieces pieces;
    pieces_begin(&pieces, pipeline, text, size);
    for (size_t b, e; pieces_next(&pieces, &b, &e);) slow->ends[slow->piece_count++] = e;
    int64_t *counts = malloc((size_t)(vocab_size * vocab_size) * sizeof *counts);
    while (slow->size < vocab_size) {
        int64_t n = slow->size, best = -1;
        memset(counts, 0, (size_t)(n * n) * sizeof *counts);
        for (size_t p = 0, at = 0; p < slow->piece_count; at = slow->ends[p++])
            for (; at + 1 < slow->ends[p]; at++) counts[slow->ids[at] * n + slow->ids[at + 1]]++;
        for (int64_t k = 0; k < n * n; k++)
            if (counts[k] > 0 && (best < 0 || counts[k] > counts[best])) best = k;
        if (best < 0) break;
        int32_t left = (int32_t)(best / n), right = (int32_t)(best % n);
        slow->lefts[slow->merges] = left;
        slow->rights[slow->merges++] = right;
        size_t to = 0, from = 0;
        for (size_t p = 0; p < slow->piece_count; p++) {
            for (size_t end = slow->ends[p]; from < end; to++) {
                bool joined = from + 1 < end && slow->ids[from] == left && slow->ids[from + 1] == right;
                slow->ids[to] = joined ? (int32_t)slow->size : slow->ids[from];
                from += joined ? 2 : 1;
            }
            slow->ends[p] = to;
        }
        slow->size++;
    }
    free(counts);
}

static void as_the_definition_says(void **state) {
    (void)state;
    static const char *const alphabets[] = {"ab",    "aab",  "abc", "a", "ab ", "a b\n", "12 a", "\u00E9\u65E5a ",
                                            "ab.'-", "=-= a"};
    char text[700];
    for (uint64_t k = 0; k < 60; k++) {
        enum pipeline pipeline = (enum pipeline)(k % PIPELINE_COUNT);
        const char *alphabet = alphabets[k / 5 % 10];
        size_t wanted = 3 + random_below(1, 2, k, 600), size = 0;
        for (uint64_t i = 0; size < wanted; i++) {
            size_t at = random_below(2, k, 2 * i, strlen(alphabet));
            while ((alphabet[at] & 0xC0) == 0x80) at--;
            size_t bytes = 1, times = random_below(3, k, i, 4) ? 1 : 1 + random_below(2, k, 2 * i + 1, 12);
            while ((alphabet[at + bytes] & 0xC0) == 0x80) bytes++;
            for (size_t r = 0; r < times; r++, size += bytes) memcpy(text + size, alphabet + at, bytes);
        }
        struct bpe_settings settings = plain(pipeline, (int64_t)(1 + random_below(3, 3, k, 150)));
        struct slow slow;
        slow_train(&slow, pipeline, text, size, settings.vocab_size);
        struct tokenizer *t = train(&settings, NULL, text, size);
        assert_int_equal(tokenizer_size(t), slow.size);
        assert_int_equal(tokenizer_merges(t), slow.merges);
        for (int64_t i = 0; i < slow.merges; i++) {   /* the token of each merge is its two parts */
            size_t length, left_length, right_length;
            const char *whole = tokenizer_piece(t, (int32_t)(256 + i), &length, NULL);
            const char *left = tokenizer_piece(t, slow.lefts[i], &left_length, NULL),
                       *right = tokenizer_piece(t, slow.rights[i], &right_length, NULL);
            assert_int_equal(length, left_length + right_length);
            assert_memory_equal(whole, left, left_length);
            assert_memory_equal(whole + left_length, right, right_length);
        }
        struct token_list list = { 0 };
        succeed(tokenizer_encode(t, text, size, false, &list, NULL, &error));   /* encoding repeats the merges */
        assert_int_equal(list.count, slow.piece_count ? slow.ends[slow.piece_count - 1] : 0);
        for (int64_t i = 0; i < list.count; i++) assert_int_equal(list.ids[i], slow.ids[i]);
        token_list_free(&list);
        tokenizer_destroy(t);
        free(slow.ids);
        free(slow.ends);
    }
}

/* ---- threads and order ------------------------------------------------------------------------------------------- */

static void threads_make_no_difference(void **state) {
    (void)state;
    struct bpe_settings settings = bpe_settings_default(1000);
    size_t sizes[4];
    char *files[4];
    for (int i = 0; i < 4; i++)
        files[i] = file_of(train(&settings, i < 3 ? pools[i] : NULL, corpus.data, corpus.size), &sizes[i]);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(sizes[i], sizes[0]);
        assert_memory_equal(files[i], files[0], sizes[0]);
        free(files[i]);
    }
    free(files[0]);
}

struct hands { struct bpe_trainer *trainer; const char *text; size_t size; };

static void count_share(void *context, int thread, int threads) {
    const struct hands *hands = context;
    int64_t first, last;
    pool_share((int64_t)hands->size, 1000, thread, threads, &first, &last);   /* lines of 10 bytes */
    if (bpe_trainer_count(hands->trainer, thread, hands->text + first, (size_t)(last - first), NULL, NULL)) abort();
}

/* So many different words that tables are summed before the end. */
static void threads_of_the_caller_count_the_same(void **state) {
    (void)state;
    const size_t size = 4000000;
    char *text = malloc(size);
    for (size_t i = 0; i < size; i++)
        text[i] = i % 10 == 9 ? '\n' : (char)('a' + random_below(7, 7, i, i % 10 < 5 ? 26 : 3));
    struct bpe_settings settings = plain(PIPELINE_V3, 300);
    size_t sizes[2];
    struct bpe_counts counts[2];
    char *files[2];
    for (int i = 0; i < 2; i++) {
        struct hands hands = { begin(&settings), text, size };
        succeed(bpe_trainer_prepare(hands.trainer, 5, &error));
        for (int twice = 0; twice < 2; twice++) {
            if (i == 0) pool_run(pools[2], count_share, &hands);
            else succeed(bpe_trainer_add(hands.trainer, NULL, text, size, NULL, &error));
            succeed(bpe_trainer_sum(hands.trainer, pools[2], &error));
        }
        files[i] = file_of(finish(hands.trainer), &sizes[i]);
        bpe_trainer_counts(hands.trainer, &counts[i]);
        bpe_trainer_destroy(hands.trainer);
    }
    assert_int_equal(counts[0].bytes, 2 * size);
    assert_memory_equal(&counts[0], &counts[1], sizeof counts[0]);
    assert_true(counts[0].different > (1 << 18));
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(files[0], files[1], sizes[0]);
    free(files[0]);
    free(files[1]);
    free(text);
}

static void the_order_of_texts_makes_no_difference(void **state) {
    (void)state;
    struct bpe_settings settings = plain(PIPELINE_V3, 700);
    size_t cuts[9] = { 0 }, sizes[2];
    char *files[2];
    for (int i = 1; i < 8; i++) {
        cuts[i] = cuts[i - 1] +
                  pieces_safe_cut(PIPELINE_V3, corpus.data + cuts[i - 1], corpus.size - cuts[i - 1], 50000);
        assert_true(cuts[i] > cuts[i - 1]);
    }
    for (int backwards = 0; backwards < 2; backwards++) {
        struct bpe_trainer *trainer = begin(&settings);
        for (int i = 0; i < 7; i++) {
            int k = backwards ? 6 - i : i;
            succeed(bpe_trainer_add(trainer, pools[1], corpus.data + cuts[k], cuts[k + 1] - cuts[k], NULL, &error));
        }
        files[backwards] = file_of(finish(trainer), &sizes[backwards]);
        bpe_trainer_destroy(trainer);
    }
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(files[0], files[1], sizes[0]);
    free(files[1]);
    files[1] = file_of(train(&settings, NULL, corpus.data, cuts[7]), &sizes[1]);   /* nor do the cuts */
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(files[0], files[1], sizes[0]);
    free(files[0]);
    free(files[1]);
}

/* More text may follow a training, and the trainer goes on counting. */
static void training_again(void **state) {
    (void)state;
    struct bpe_settings settings = plain(PIPELINE_V3, 50);
    struct bpe_trainer *trainer = begin(&settings);
    size_t sizes[2];
    char *files[2];
    succeed(bpe_trainer_add(trainer, NULL, "only this", 9, NULL, &error));
    tokenizer_destroy(finish(trainer));
    succeed(bpe_trainer_add(trainer, NULL, " and that and that", 18, NULL, &error));
    files[0] = file_of(finish(trainer), &sizes[0]);
    files[1] = file_of(train(&settings, NULL, "only this and that and that", 27), &sizes[1]);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(files[0], files[1], sizes[0]);
    free(files[0]);
    free(files[1]);
    bpe_trainer_destroy(trainer);
}

/* ---- what a corpus may hold -------------------------------------------------------------------------------------- */

static void little_text_gives_few_tokens(void **state) {
    (void)state;
    struct bpe_settings settings = bpe_settings_default(5000);
    struct tokenizer *t = train(&settings, pools[1], "", 0);
    assert_int_equal(tokenizer_size(t), 259);
    assert_int_equal(tokenizer_merges(t), 0);
    assert_int_equal(count_ids(t, "abc\0\xFF", 5), 7);   /* U+FFFD has three bytes */
    tokenizer_destroy(t);
    t = train(&settings, pools[1], "a b c", 5);
    assert_int_equal(tokenizer_merges(t), 2);
    tokenizer_destroy(t);
    t = train(&settings, pools[1], "\0\0\0", 3);
    assert_int_equal(tokenizer_merges(t), 2);
    assert_int_equal(count_ids(t, "\0\0\0", 3), 1);
    tokenizer_destroy(t);
}

/* One piece of a megabyte: its merges take time in proportion to it. */
static void a_long_piece(void **state) {
    (void)state;
    const size_t size = 1 << 20;
    char *text = malloc(size);
    memset(text, 'a', size);
    struct bpe_settings settings = plain(PIPELINE_WHOLE, 100);
    struct tokenizer *t = train(&settings, pools[1], text, size);
    assert_int_equal(tokenizer_merges(t), 20);   /* each token is twice as long as the one before it */
    size_t length;
    assert_non_null(tokenizer_piece(t, 256 + 19, &length, NULL));
    assert_int_equal(length, size);
    tokenizer_destroy(t);
    for (size_t i = 0; i < size; i++) text[i] = (char)('a' + random_below(5, 5, i, 4));
    settings.vocab_size = 256 + 1000;
    t = train(&settings, pools[1], text, size);
    assert_int_equal(tokenizer_merges(t), 1000);
    assert_true(count_ids(t, text, size) < (int64_t)size / 3);
    tokenizer_destroy(t);
    free(text);
}

static void ill_formed_text_counts_as_replaced(void **state) {
    (void)state;
    size_t size = 900000, length;
    char *text = malloc(size);
    for (size_t i = 0; i < size; i++) {
        text[i] = (char)corpus.data[i];
        /* Latin-1, in every block that a thread takes, and around every cut */
        if (text[i] == 'e') text[i] = (char)0xE9;
        if (random_below(9, 9, i, 500) == 0) text[i] = (char)random_below(9, 10, i, 256);
    }
    uint64_t expected = 0;
    char *sound = utf8_repair(text, size, &length, &expected);
    struct bpe_settings settings = plain(PIPELINE_V3, 400);
    size_t sizes[2];
    char *files[2];
    files[0] = file_of(train(&settings, NULL, sound, length), &sizes[0]);
    for (int i = 0; i < 3; i++) {
        uint64_t replaced = 3;
        struct bpe_trainer *trainer = begin(&settings);
        succeed(bpe_trainer_add(trainer, pools[i], text, size, &replaced, &error));
        assert_int_equal(replaced, expected + 3);
        files[1] = file_of(finish(trainer), &sizes[1]);
        bpe_trainer_destroy(trainer);
        assert_int_equal(sizes[0], sizes[1]);
        assert_memory_equal(files[0], files[1], sizes[0]);
        free(files[1]);
    }
    free(files[0]);
    free(sound);
    free(text);
}

/* Bytes that are ill-formed in every way, from single ones to halves of characters, around the places where threads
 * cut; blanks and long runs among them. */
static size_t ill_formed_text(uint8_t *out, size_t size, uint64_t seed) {
    static const char *const parts[] = {"the ",         "word",
                                        "\n",           "  ",
                                        " \n\n ",       "12",
                                        "中文",         "é",
                                        "\xE4\xB8",     "\xF0\x9F\x99",
                                        "\xF0",         "\xC3",
                                        "\x80",         "\x80\x80\x80\x80\x80",
                                        "\xED\xA0\x80", "\xC0\xAF",
                                        "\xFF\xFE",     "\xF4\x90\x80\x80",
                                        "\xE2\x80",     " \xE2\x80\x83",
                                        "\xC2\xA0",     "'s",
                                        "\xEF\xBF\xBD", "a"};
    size_t length = 0;
    for (uint64_t i = 0; length + 4096 < size; i++) {
        const char *part = parts[random_below(seed, 1, i, sizeof parts / sizeof *parts)];
        uint64_t times = random_below(seed, 2, i, 300) ? 1 : 1 + random_below(seed, 3, i, 600);
        for (; times > 0; times--, length += strlen(part)) memcpy(out + length, part, strlen(part));
        if (random_below(seed, 4, i, 10) == 0) out[length++] = (uint8_t)random_below(seed, 5, i, 256);
    }
    return length;
}

/* Neither threads nor the order of texts nor where blocks end: everywhere the JSON of the repaired texts, each counted
 * in one go. */
static void ill_formed_text_is_cut_alike(void **state) {
    (void)state;
    enum { TEXTS = 3, ROOM = 600000, FIRST_BLOCK = 256 << 10 };
    static const enum pipeline pipelines[] = { PIPELINE_V3, PIPELINE_V1, PIPELINE_CODER_V1, PIPELINE_GPT2 };
    uint8_t *texts[TEXTS];
    char *sound[TEXTS];
    size_t sizes[TEXTS], lengths[TEXTS], size[2];
    uint64_t expected = 0;
    for (int i = 0; i < TEXTS; i++) {
        texts[i] = malloc(ROOM);
        assert_non_null(texts[i]);
        sizes[i] = ill_formed_text(texts[i], ROOM, 100 + (uint64_t)i);
        /* a run of blanks that the first block ends in, longer than what is looked at there, and in the end a line's or
         * not */
        if (i > 0) {
            memset(texts[i] + FIRST_BLOCK - 1000, i == 1 ? '\n' : ' ', 20000);
            texts[i][FIRST_BLOCK + 19000] = i == 1 ? ' ' : '\n';
        }
        sound[i] = utf8_repair((const char *)texts[i], sizes[i], &lengths[i], &expected);
        assert_non_null(sound[i]);
    }
    for (int p = 0; p < 4; p++) {
        struct bpe_settings settings = plain(pipelines[p], 200);
        struct bpe_trainer *trainer = begin(&settings);
        succeed(bpe_trainer_prepare(trainer, 1, &error));
        for (int i = 0; i < TEXTS; i++) succeed(bpe_trainer_count(trainer, 0, sound[i], lengths[i], NULL, &error));
        struct bpe_counts whole, counts;
        char *files[2] = { file_of(finish(trainer), &size[0]) };
        bpe_trainer_counts(trainer, &whole);
        bpe_trainer_destroy(trainer);
        for (int way = 0; way < 4; way++) {   /* 1, 2, 5 and again 2 threads; every other one backwards */
            uint64_t replaced = 0;
            trainer = begin(&settings);
            for (int i = 0; i < TEXTS; i++) {
                int k = way % 2 ? TEXTS - 1 - i : i;
                succeed(bpe_trainer_add(trainer, pools[way < 3 ? way : 1], texts[k], sizes[k], &replaced, &error));
            }
            assert_int_equal(replaced, expected);
            files[1] = file_of(finish(trainer), &size[1]);
            bpe_trainer_counts(trainer, &counts);
            bpe_trainer_destroy(trainer);
            assert_int_equal(counts.pieces, whole.pieces);
            assert_int_equal(counts.different, whole.different);
            assert_int_equal(size[1], size[0]);
            assert_memory_equal(files[1], files[0], size[0]);
            free(files[1]);
        }
        free(files[0]);
    }
    for (int i = 0; i < TEXTS; i++) {
        free(texts[i]);
        free(sound[i]);
    }
}

/* ---- special tokens ---------------------------------------------------------------------------------------------- */

static void special_tokens_come_first(void **state) {
    (void)state;
    struct bpe_settings settings = bpe_settings_default(300);
    struct tokenizer *t = train(&settings, NULL, corpus.data, 10000);
    assert_int_equal(tokenizer_size(t), 300);
    assert_int_equal(tokenizer_merges(t), 300 - 259);
    assert_int_equal(tokenizer_find(t, BPE_BOS), 0);
    assert_int_equal(tokenizer_find(t, BPE_EOS), 1);
    assert_int_equal(tokenizer_find(t, BPE_PAD), 2);
    assert_int_equal(tokenizer_bos(t), 0);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_true(tokenizer_add_bos(t));
    assert_int_equal(tokenizer_pipeline(t), PIPELINE_V3);
    uint64_t fingerprint = tokenizer_fingerprint(t);
    json_t *root = json_of(t);   /* ... and in the vocabulary, as in V3's file */
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(json_object_get(root, "model"), "vocab"), BPE_EOS)), 1);
    assert_int_equal(json_object_size(json_object_get(json_object_get(root, "model"), "vocab")), 300);
    json_decref(root);
    succeed(tokenizer_load(&t, folder, &error));
    assert_true(tokenizer_fingerprint(t) == fingerprint);
    assert_true(tokenizer_add_bos(t));
    tokenizer_destroy(t);

    const struct bpe_special specials[] = { { "<end>", true }, { "<|user|>", false } };
    settings = (struct bpe_settings){
        .pipeline = PIPELINE_GPT2, .vocab_size = 258, .specials = specials, .special_count = 2, .eos = "<end>"};
    t = train(&settings, NULL, corpus.data, 10000);
    struct token_list list = { 0 };
    succeed(tokenizer_encode(t, "!<|user|><end>", 14, true, &list, NULL, &error));
    assert_int_equal(list.count, 3);
    assert_int_equal(list.ids[0], 2);
    assert_int_equal(list.ids[1], 1);
    assert_int_equal(list.ids[2], 0);
    token_list_free(&list);
    assert_int_equal(tokenizer_eos(t), 0);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_false(tokenizer_add_bos(t));
    assert_int_equal(tokenizer_pipeline(t), PIPELINE_GPT2);
    tokenizer_destroy(t);
}

/* The reference gives a merge that spells a special token the id of that token; its merges and ids. */
static void a_special_token_that_is_a_word(void **state) {
    (void)state;
    static const char *const merges[] = {"a b", "\u0120 ab", "x ab", "\u0120 xab", "\u0120ab c", "ab c", "\u0120ab d"};
    const struct bpe_special specials[] = { { "ab", true }, { "<s>", true } };
    const struct bpe_settings settings = {
        .pipeline = PIPELINE_V3, .vocab_size = 258 + 6, .specials = specials, .special_count = 2};
    struct tokenizer *t = train(&settings, NULL, "abc abc abc ab abd xab xab", 26);
    assert_int_equal(tokenizer_size(t), 264);
    struct token_list list = { 0 };
    succeed(tokenizer_encode(t, "ab xab", 6, false, &list, NULL, &error));
    assert_int_equal(list.count, 2);
    assert_int_equal(list.ids[0], 0);
    assert_int_equal(list.ids[1], 260);
    token_list_free(&list);
    json_t *root = json_of(t);
    assert_int_equal(json_array_size(merges_of(root)), 7);
    for (size_t i = 0; i < 7; i++)
        assert_string_equal(json_string_value(json_array_get(merges_of(root), i)), merges[i]);
    json_decref(root);
}

static void refuse(struct bpe_settings settings, const char *part) {
    struct bpe_trainer *trainer;
    assert_int_equal(bpe_trainer_create(&trainer, &settings, &error), STATUS_INVALID);
    assert_null(trainer);
    if (!strstr(error.message, part)) fail_msg("found \"%s\", expected \"%s\" in it", error.message, part);
}

static void settings_that_cannot_be(void **state) {
    (void)state;
    struct bpe_special specials[2] = { { "<s>", true }, { "<s>", true } };
    struct bpe_settings settings = {
        .pipeline = PIPELINE_V3, .vocab_size = 300, .specials = specials, .special_count = 2};
    refuse(settings, "\"<s>\" is given twice");
    specials[1].content = "";
    refuse(settings, "special token 1 is empty");
    specials[1].content = "a\xFF";
    refuse(settings, "special token 1: byte 1 is not UTF-8");
    specials[1].content = "!";
    refuse(settings, "special token 1 is \"!\", which is the vocabulary's name of a byte");
    specials[1].content = "\u0120";
    refuse(settings, "the vocabulary's name of a byte");
    specials[1].content = "</s>";
    settings.vocab_size = 257;
    refuse(settings, "vocab_size: found 257, expected 258");
    settings.vocab_size = INT64_MAX;
    refuse(settings, "vocab_size: found 9223372036854775807");
    settings.vocab_size = 300;
    settings.bos = "<b>";
    refuse(settings, "bos \"<b>\" is not among the special tokens");
    settings.bos = NULL;
    settings.eos = "<e>";
    refuse(settings, "eos \"<e>\" is not among the special tokens");
    settings.eos = NULL;
    settings.add_bos = true;
    refuse(settings, "bos");
}

struct told { int64_t calls, done, total, stop_at; };

static bool tell(void *context, int64_t done, int64_t total) {
    struct told *told = context;
    told->calls++;
    assert_true(done >= told->done);
    told->done = done;
    told->total = total;
    return !told->stop_at || done < told->stop_at;
}

static void progress_and_interruption(void **state) {
    (void)state;
    struct bpe_settings settings = plain(PIPELINE_V3, 2000);
    struct bpe_trainer *trainer = begin(&settings);
    struct tokenizer *t;
    struct told told = { 0 };
    succeed(bpe_trainer_add(trainer, pools[1], corpus.data, corpus.size, NULL, &error));
    succeed(bpe_trainer_finish(trainer, tell, &told, &t, &error));
    assert_true(told.calls > 3);
    assert_int_equal(told.done, 2000);
    assert_int_equal(told.total, 2000);
    tokenizer_destroy(t);
    told = (struct told){ .stop_at = 1000 };
    assert_int_equal(bpe_trainer_finish(trainer, tell, &told, &t, &error), STATUS_INTERRUPTED);
    assert_null(t);
    assert_true(told.done >= 1000 && told.done < 2000);
    bpe_trainer_destroy(trainer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_merges_of_the_reference),
        cmocka_unit_test(a_smaller_vocabulary_is_a_beginning),
        cmocka_unit_test(as_the_definition_says),
        cmocka_unit_test(threads_make_no_difference),
        cmocka_unit_test(threads_of_the_caller_count_the_same),
        cmocka_unit_test(the_order_of_texts_makes_no_difference),
        cmocka_unit_test(training_again),
        cmocka_unit_test(little_text_gives_few_tokens),
        cmocka_unit_test(a_long_piece),
        cmocka_unit_test(ill_formed_text_counts_as_replaced),
        cmocka_unit_test(ill_formed_text_is_cut_alike),
        cmocka_unit_test(special_tokens_come_first),
        cmocka_unit_test(a_special_token_that_is_a_word),
        cmocka_unit_test(settings_that_cannot_be),
        cmocka_unit_test(progress_and_interruption),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
